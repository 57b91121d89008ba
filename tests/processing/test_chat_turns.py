from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.processing_pixelllm import PixelLLMProcessor
from pixelllm_hf.processing.prompt_locations import PromptError

IMAGE = Image.new("RGB", (64, 48), "red")


def turn(*parts, role="user"):
    return {"role": role, "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


def image(source=IMAGE, key="image"):
    return {"type": "image", key: source}


def test_a_chat_of_an_image_and_a_text_gives_the_inputs_of_both(processor, tmp_path):
    IMAGE.save(tmp_path / "image.png")
    expected = processor(IMAGE, "a dog ")
    stream = io.BytesIO((tmp_path / "image.png").read_bytes())
    for part in (image(), image(str(tmp_path / "image.png"), "path"), image(stream)):
        for chat in ([turn(part, text("a dog "))], [turn(text("a "), part, text("dog "))]):
            inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, add_generation_prompt=True)
            assert set(inputs) == set(expected)
            assert all(torch.equal(inputs[name], expected[name]) for name in expected)


@dataclass
class Message:
    role: str
    content: Any


@dataclass
class TextPart:
    text: str
    type: str = "text"


def test_messages_may_be_objects(processor):
    message = Message("user", [{"type": "image"}, TextPart("a dog")])
    assert processor.apply_chat_template([message]) == "a dog"
    with pytest.raises(PromptError, match="has no text"):
        processor.apply_chat_template([Message("user", [{"type": "image"}])])


def test_several_chats_are_a_batch_and_take_settings_of_the_processor(processor):
    chats = [[turn(image(), text("a dog"))], [turn(image(Image.new("RGB", (30, 30))), text("it"))]]
    settings = {"task": "region", "boxes": [[[1, 2, 30, 40]], None]}
    inputs = processor.apply_chat_template(chats, tokenize=True, return_dict=True, processor_kwargs=settings)
    expected = processor([IMAGE, Image.new("RGB", (30, 30))], ["a dog", "it"], **settings)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_the_text_of_a_chat_is_what_the_user_says(processor):
    assert processor.apply_chat_template([turn({"type": "image"}, text("A photo of "))]) == "A photo of "
    assert processor.apply_chat_template([{"role": "user", "content": "A photo of "}]) == "A photo of "


@pytest.mark.parametrize(
    ("chat", "what"),
    [
        ([turn(image())], "has no text"),
        ([turn(image(), text("  "))], "has no text"),
        ([turn(image(), {"type": "text"})], "has no text"),
        ([{"role": "user", "content": None}], "must be a string or a list"),
        ([turn(image(), image(), text("a"))], "one image"),
        ([turn({"type": "video", "path": "a.mp4"}, text("a"))], "video"),
        ([turn({"type": "image", "base64": "iVBORw0KGgo="}, text("a"))], "base64"),
        ([turn(text("be brief"), role="system"), turn(image(), text("a"))], "one turn of the user"),
        ([turn(image(), text("a")), turn(text("a dog"), role="assistant")], "keeps no history"),
        ([turn(image(), text("a"), role="assistant")], "assistant"),
        ([], "one turn"),
        ("hello", "list of messages"),
        ([[turn(image(), text("a"))], [turn(image())]], "conversation 1 has no text"),
    ],
)
def test_what_is_no_single_question_is_refused(processor, chat, what):
    with pytest.raises(PromptError, match=what):
        processor.apply_chat_template(chat, tokenize=True, return_dict=True)


def test_a_chat_template_of_ones_own_is_kept(processor, tmp_path):
    template = "Question: {{ messages[0].content[1].text }}"
    own = PixelLLMProcessor(processor.image_processor, processor.tokenizer, chat_template=template)
    assert own.apply_chat_template([turn(image(), text("it"))]) == "Question: it"
    own.save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "plain")
    assert PixelLLMProcessor.from_pretrained(tmp_path / "own").chat_template == template
    assert PixelLLMProcessor.from_pretrained(tmp_path / "plain").chat_template == processor.chat_template


OF_A_CHAT_MODEL = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_template(processor, template):
    tokenizer = processor.tokenizer
    before, tokenizer.chat_template = tokenizer.chat_template, template
    try:
        return PixelLLMProcessor(processor.image_processor, tokenizer)
    finally:
        tokenizer.chat_template = before


@pytest.mark.parametrize("template", [OF_A_CHAT_MODEL, {"default": OF_A_CHAT_MODEL, "tool_use": "x"}])
def test_a_language_models_own_template_is_used_with_its_roles(processor, tmp_path, template):
    theirs = with_template(processor, template)
    chat = [
        {"role": "system", "content": "be short "},
        turn(image(), text("a dog")),
        turn(text("yes"), role="assistant"),
        {"role": "user", "content": "where "},
    ]
    expected = "<system>be short <user>a dog<assistant>yes<user>where <assistant>"
    assert theirs.apply_chat_template(chat, add_generation_prompt=True) == expected
    inputs = theirs.apply_chat_template(chat, tokenize=True, return_dict=True, add_generation_prompt=True)
    assert torch.equal(inputs["input_ids"], theirs(IMAGE, expected)["input_ids"])
    theirs.save_pretrained(tmp_path)
    again = PixelLLMProcessor.from_pretrained(tmp_path)
    assert again.apply_chat_template(chat, add_generation_prompt=True) == expected
    anew = PixelLLMProcessor(again.image_processor, again.tokenizer)  # not wrapped once more
    assert anew.chat_template == theirs.chat_template
    assert processor.apply_chat_template([turn(image(), text("a dog"))]) == "a dog"


def test_turns_that_a_chat_model_cannot_answer_are_refused(processor):
    theirs = with_template(processor, OF_A_CHAT_MODEL)
    for chat, said in (
        ([turn(text("a"), role="assistant")], "the last of them the user's"),
        ([turn(text("a"), role="tool"), turn(text("b"))], "turns of system, user, assistant"),
        ([], "the last of them the user's"),
        ([turn(image(), text("a")), turn(image(), text("b"))], "several"),
        ([turn(image())], "has no text"),
    ):
        with pytest.raises(PromptError, match=said):
            theirs.apply_chat_template(chat)
    with pytest.raises(PromptError, match="one turn of the user"):
        processor.apply_chat_template([turn(text("a")), turn(text("b"))])
