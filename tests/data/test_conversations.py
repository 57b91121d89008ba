from __future__ import annotations

import pytest

from pixelllm_hf.data.bad_records import BadRecordError, ReadReport
from pixelllm_hf.data.conversations import read_conversations
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES


def conversation(image_id: int, *texts: str) -> dict:
    speakers = ("human", "gpt")
    turns = [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": str(image_id), "image": f"coco/train2017/{image_id:012d}.png", "conversations": turns}


def test_every_question_is_a_prompt_on_the_whole_image_and_its_answer_the_target(squares):
    talk = conversation(1, "What is it?\n<image>", "A red square.", "<image>\nWhere?", " Left. ")
    rows = read_conversations(squares.dump("c.json", [talk]), squares.images)
    assert rows.features == GROUNDED_FEATURES
    row = rows[0]
    assert (row["task"], row["image_id"], row["width"], row["height"]) == ("caption", "000000000001", 60, 40)
    assert [(p["context"], p["target"], p["box"]) for p in row["prompts"]] == [
        ("Question: What is it?Answer: ", "A red square.", None),
        ("Question: Where?Answer: ", "Left.", None),
    ]
    assert all(p["text_loss"] and not p["point_loss"] for p in row["prompts"])


def test_questions_to_a_pixellm_stand_alone_and_their_answers_point_at_nothing(squares):
    talk = conversation(1, "What is it?", "A red square.", "And here?", "A {seg}.")
    report = ReadReport()
    path = squares.dump("c.json", [talk])
    (row,) = read_conversations(path, squares.images, task="reason", on_error="skip", report=report)
    assert row["task"] == "reason"
    assert [(p["context"], p["target"], p["targets"]) for p in row["prompts"]] == [("What is it?", "A red square.", [])]
    assert report.dropped == {"placeholders and targets differ": 1}


def test_a_conversation_without_an_image_is_left_out_even_where_mistakes_are_raised(squares):
    text_only = conversation(1, "Hello?", "Hello.")
    del text_only["image"]
    report = ReadReport()
    path = squares.dump("c.json", [text_only, conversation(2, "What?", "A square.")])
    assert len(read_conversations(path, squares.images, report=report)) == 1
    assert report.dropped == {"no image": 1}
    assert report.read == {"conversations": 2, "questions": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, "turns out of order"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "turns out of order"),
        ({"conversations": [{"from": "human"}]}, "missing key"),
        ({"conversations": ["hello"]}, "malformed record"),
        ({"conversations": "hello"}, "malformed record"),
        ({"conversations": []}, "no turns"),
        ({"image": "nowhere.png", "id": "nowhere"}, "missing image"),
        ({"image": ["a.png", "b.png"]}, "several images"),
        ({"image": 7}, "malformed text"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_named_and_counted(squares, change, reason):
    bad = {**conversation(1, "What?", "A square."), **change}
    path, report = squares.dump("c.json", [conversation(2, "What?", "A square."), bad]), ReadReport()
    with pytest.raises(BadRecordError, match=r"c\.json, record 1"):
        read_conversations(path, squares.images)
    assert len(read_conversations(path, squares.images, on_error="skip", report=report)) == 1
    assert report.dropped == {reason: 1}


def test_a_bad_turn_leaves_the_others(squares):
    talk = conversation(1, "<image>", "Nothing asked.", "What?", "A square.", "And?", " ")
    report = ReadReport()
    rows = read_conversations(squares.dump("c.json", [talk]), squares.images, on_error="skip", report=report)
    assert [prompt["target"] for prompt in rows[0]["prompts"]] == ["A square."]
    assert report.dropped == {"empty text": 2}
