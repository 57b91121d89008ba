from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf import PixelLLMImageProcessor, PixelLMForReasoningSegmentation, PixelLMProcessor, add_pixellm_tokens
from pixelllm_hf.processing.grounded_targets import PartialAnswerWarning
from pixelllm_hf.processing.prompt_locations import PromptError

QUESTION = "what can be eaten?"


@pytest.fixture(scope="module")
def processor(small_pixellm) -> PixelLMProcessor:
    return PixelLMProcessor.from_pretrained(small_pixellm)


@pytest.fixture(scope="module")
def model(small_pixellm) -> PixelLMForReasoningSegmentation:
    return PixelLMForReasoningSegmentation.from_pretrained(small_pixellm).eval()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    return [Image.fromarray(pixels[0]), Image.fromarray(pixels[1].transpose(1, 0, 2))]


def test_images_are_resized_as_released_both_sides_to_the_nearest(processor):
    inputs = processor(images=Image.new("RGB", (641, 427)), text=QUESTION)
    valid = inputs["pixel_mask"][0]
    assert (int(valid.any(1).sum()), int(valid.any(0).sum())) == (int(427 * 64 / 641 + 0.5), 64)


def test_pixels_are_those_of_pillows_antialiased_resizing(processor, images):
    inputs = processor(images=images[0], text=QUESTION)
    expected = np.asarray(images[0].resize((64, 43), Image.Resampling.BILINEAR), dtype=np.float32)
    np.testing.assert_array_equal(inputs["pixel_values"][0, :, :43].permute(1, 2, 0), expected)
    assert not inputs["pixel_values"][0, :, 43:].any()


def test_a_prompt_is_the_released_template_with_the_images_tokens_in_it(processor):
    ids = processor(images=Image.new("RGB", (8, 8)), text=QUESTION)["input_ids"][0].tolist()
    image = [processor.image_token_id] * 16
    start = ids.index(processor.image_token_id)
    assert ids[start : start + 16] == image and ids.count(processor.image_token_id) == 16
    before, after = processor.decode(ids[:start]), processor.decode(ids[start + 16 :])
    assert before.endswith("human's questions. user:<im_start>")
    assert after.startswith("<im_end>") and after.endswith(f"{QUESTION} assistant:")
    assert processor.tokenizer.eos_token_id not in ids


def test_a_chat_is_the_same_prompt_as_its_question(processor, images):
    chat = [{"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "text", "text": QUESTION}]}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    plain = processor(images=images[0], text=QUESTION)
    assert inputs["input_ids"].tolist() == plain["input_ids"].tolist()
    assert torch.equal(inputs["pixel_values"], plain["pixel_values"])


def test_questions_of_several_images_come_back_with_their_answers(processor, model, images):
    inputs = processor(images=images, text=[QUESTION, ["the dog", "a sofa"]])
    assert set(inputs) == set(processor.model_input_names)
    output = model.generate(**inputs, max_new_tokens=12)
    first, second = processor.post_process_reason(output, inputs)
    assert [answer.prompt for answer in first + second] == [QUESTION, "the dog", "a sofa"]
    assert [answer.image_size for answer in first + second] == [(90, 60), (60, 90), (60, 90)]
    assert [answer.prompt_index for answer in second] == [0, 1]


def test_every_target_of_an_answer_has_mask_score_and_phrase_in_the_image(processor, model, images):
    inputs = processor(images=images, text=QUESTION)
    output = model.generate(**inputs, max_new_tokens=24)
    answers = [answer for (answer,) in processor.post_process_reason(output, inputs)]
    assert [len(answer.targets) for answer in answers] == torch.bincount(output.row_of_target, minlength=2).tolist()
    assert any(len(answer.targets) > 1 for answer in answers)
    for answer in answers:
        assert "[SEG" not in answer.text and "  " not in answer.text
        for target in answer.targets:
            assert target.mask.shape == answer.image_size[::-1] and 0 <= target.mask_score <= 1
            assert 0 <= target.start <= target.end <= len(answer.text)
        assert type(answer).from_dict(json.loads(json.dumps(answer.to_dict()))).to_dict() == answer.to_dict()


def test_an_answer_does_not_depend_on_the_other_images_of_its_batch(processor, model, images):
    together = processor(images=images, text=[QUESTION, "a sofa"])
    alone = processor(images=images[0], text=QUESTION)
    options = dict(max_new_tokens=16)
    ((a,), _) = processor.post_process_reason(model.generate(**together, **options), together)
    ((b,),) = processor.post_process_reason(model.generate(**alone, **options), alone)
    assert a.text == b.text and len(a.targets) == len(b.targets) > 0
    assert all((x.mask == y.mask).mean() > 0.99 for x, y in zip(a.targets, b.targets, strict=True))


def test_an_answer_that_is_cut_within_a_target_keeps_the_others_and_says_so(processor, model, images):
    inputs = processor(images=images, text=QUESTION)
    free = model.generate(**inputs, max_new_tokens=24)
    row, last = int(free.row_of_target[-1]), int(free.target_positions[-1, 0])
    cut = model.generate(**inputs, max_new_tokens=last + 2)
    with pytest.warns(PartialAnswerWarning, match="ends within a target"):
        answers = [answer for (answer,) in processor.post_process_reason(cut, inputs)]
    assert len(answers[row].targets) == int((free.row_of_target == row).sum()) - 1
    assert "[SEG" not in answers[row].text


def test_an_empty_answer_is_an_answer_without_targets(processor, model, images):
    inputs = processor(images=images[0], text=QUESTION)
    output = model.generate(**inputs, max_new_tokens=1, suppress_tokens=list(range(2, len(processor.tokenizer))))
    ((answer,),) = processor.post_process_reason(output, inputs)
    assert (answer.text, answer.words, answer.targets) == ("", (), ())
    assert answer.draw(images[0]).size[0] > 0


def test_an_output_without_targets_is_refused_by_name(processor, images):
    inputs = processor(images=images[0], text=QUESTION)
    with pytest.raises(ValueError, match="segmentation codebook"):
        processor.post_process_reason({"sequences": torch.zeros(1, 2, dtype=torch.long)}, inputs)


def test_what_a_model_could_not_be_asked_is_refused(processor, images):
    for settings, message in (
        (dict(text=None), "needs a question"),
        (dict(text="   "), "is empty"),
        (dict(text="where is [SEG0]"), r"holds '\[SEG0\]'"),
        (dict(text="a dog </s>"), "no word to the model"),
        (dict(text="<image> and <image>"), "has it 2 times"),
        (dict(text="ж"), "cannot write anything"),
        (dict(text=QUESTION, boxes=[1, 2, 3, 4]), "reads no boxes"),
        (dict(text=QUESTION, task="caption"), "no task 'caption', but reason"),
        (dict(text="a dog " * 300), "max_prompt_tokens"),
        (dict(text="a" * 10**6), "1000000 characters"),
    ):
        with pytest.raises(PromptError, match=message), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor(images=images[0], **settings)
    with pytest.raises(TypeError, match="rounding"):
        processor(images=images[0], text=QUESTION, rounding="down")


def test_truncation_cuts_the_question_and_never_the_template_or_the_image(processor, images):
    long = "a red apple and the dog " * 100
    cut = processor(images=images[0], text=long, truncation=True)["input_ids"][0].tolist()
    assert len(cut) <= processor.max_prompt_tokens + 16 and cut.count(processor.image_token_id) == 16
    assert processor.decode(cut).endswith("assistant:") and "a red apple and" in processor.decode(cut)
    with pytest.raises(PromptError, match="template alone"):
        processor(images=images[0], text=long, truncation=True, max_length=30)


def test_a_tokenizer_without_the_tokens_says_how_to_add_them(tokenizer):
    images = PixelLLMImageProcessor(size={"height": 64, "width": 64}, rounding="nearest")
    with pytest.raises(ValueError, match=r"no token of a target.*add_pixellm_tokens"):
        PixelLMProcessor(images, tokenizer)


def test_added_tokens_get_the_released_ids(any_tokenizer):
    before = len(any_tokenizer)
    ids = add_pixellm_tokens(any_tokenizer)
    assert ids == list(range(before, before + 9))  # six of a target, two around an image, its own
    assert add_pixellm_tokens(any_tokenizer) == ids
    assert any_tokenizer.convert_ids_to_tokens(ids[5:]) == ["[SEG5]", "<im_start>", "<im_end>", "<image>"]


def test_a_saved_processor_asks_the_same(processor, images, tmp_path):
    processor.save_pretrained(tmp_path)
    again = PixelLMProcessor.from_pretrained(tmp_path)
    a, b = (one(images=images[0], text=QUESTION) for one in (processor, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    settings["image_processor"]["rounding"] = "up"
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(OSError, match="rounding must be down or nearest"):
        PixelLMProcessor.from_pretrained(tmp_path)
