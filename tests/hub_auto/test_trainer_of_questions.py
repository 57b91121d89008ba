"""transformers' own training loops with a PixelLM, whose batches have answers behind their questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf import PixelLMForReasoningSegmentation, PixelLMProcessor
from pixelllm_hf.data import QuestionCollator
from pixelllm_hf.processing.mask_codec import encode_rle

transformers = pytest.importorskip("transformers")
QUESTION = "what can be eaten?"


def a_row(answer: str, question: str = QUESTION) -> dict[str, Any]:
    targets = []
    for index in range(answer.count("{seg}")):
        mask = np.zeros((48, 64), bool)
        mask[8:30, 4 + 20 * index : 20 + 20 * index] = True
        targets.append({"name": "apple", "box": [4 + 20 * index, 8, 20 + 20 * index, 30], "mask": encode_rle(mask)})
    prompt = {
        "box": None, "context": question, "target": answer, "object_box": None, "mask": None, "utterances": [],
        "text_loss": True, "point_loss": False, "targets": targets,
    }  # fmt: skip
    image = Image.new("RGB", (64, 48), "red")
    return {"image": image, "image_id": "1", "width": 64, "height": 48, "task": "reason", "prompts": [prompt]}


ROWS = [a_row("a red apple {seg}."), a_row("the dog {seg} and a sofa {seg}.", "dog and sofa"), a_row("sure.")]


@pytest.fixture
def parts(small_pixellm: Path) -> tuple[Any, Any]:
    model = PixelLMForReasoningSegmentation.from_pretrained(small_pixellm)
    return model, PixelLMProcessor.from_pretrained(small_pixellm)


@pytest.fixture
def trainer_of(parts: tuple[Any, Any], tmp_path: Path) -> Any:
    model, processor = parts

    def make(*, kind: Any = transformers.Seq2SeqTrainer, rows: Any = ROWS, metrics: Any = None, **settings: Any) -> Any:
        form = transformers.TrainingArguments if kind is transformers.Trainer else transformers.Seq2SeqTrainingArguments
        arguments = {
            "output_dir": str(tmp_path), "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
            "per_device_eval_batch_size": 2, "per_device_train_batch_size": 2, "max_steps": 1,
        }  # fmt: skip
        return kind(
            model=model,
            args=form(**arguments | settings),
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=QuestionCollator.for_model(model, processor),
            processing_class=processor,
            compute_metrics=metrics,
        )

    return make


@pytest.mark.parametrize("kind", [transformers.Trainer, transformers.Seq2SeqTrainer])
def test_training_and_the_loss_of_an_evaluation_need_no_settings(trainer_of, parts, kind):
    model, processor = parts
    with torch.no_grad():
        expected = model.eval()(**QuestionCollator.for_processor(processor)(ROWS[:2])).loss
    trainer = trainer_of(kind=kind)
    assert trainer.evaluate(ROWS[:2])["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert trainer.train().global_step == 1


def test_predictions_without_generation_are_logits_alone(trainer_of, parts):
    shapes = []

    def look(prediction: Any) -> dict[str, float]:
        shapes.extend([prediction.predictions.shape, prediction.label_ids.shape])
        return {}

    trainer_of(kind=transformers.Trainer, metrics=look).evaluate()
    logits, labels = shapes
    assert logits == (*labels, parts[0].config.text_config.vocab_size) and labels[0] == len(ROWS)


def test_generated_predictions_answer_the_question_and_have_not_seen_the_answer(trainer_of, parts):
    model, processor = parts
    seen = {}

    def read(prediction: Any) -> dict[str, float]:
        ids = np.where(prediction.label_ids < 0, processor.pad_token_id, prediction.label_ids)
        seen["labels"] = processor.batch_decode(ids, skip_special_tokens=True)
        seen["texts"] = processor.batch_decode(prediction.predictions, skip_special_tokens=True)
        return {}

    metrics = trainer_of(predict_with_generate=True, generation_max_length=9, metrics=read).evaluate()
    assert metrics["eval_loss"] > 0 and len(seen["texts"]) == len(ROWS)
    assert seen["labels"][2] == "sure."
    for row, text in zip(ROWS, seen["texts"], strict=True):
        inputs = processor(images=row["image"], text=row["prompts"][0]["context"])
        alone = model.generate(**inputs, max_new_tokens=9).sequences
        assert processor.batch_decode(alone, skip_special_tokens=True) == [text]


def test_questions_of_a_batch_that_is_trained_on_are_answered_as_alone(parts):
    model, processor = parts
    batch = QuestionCollator.for_processor(processor)(ROWS)
    alone = processor(images=[row["image"] for row in ROWS], text=[row["prompts"][0]["context"] for row in ROWS])
    options = {"max_new_tokens": 12, "repetition_penalty": 1.3}
    answers, expected = model.generate(**batch, **options), model.generate(**alone, **options)
    assert torch.equal(answers.sequences, expected.sequences)
    torch.testing.assert_close(answers.token_log_probs, expected.token_log_probs, equal_nan=True)


def test_labels_of_another_shape_are_refused_by_generate(parts):
    model, processor = parts
    batch = QuestionCollator.for_processor(processor)(ROWS)
    with pytest.raises(ValueError, match=r"labels must have the shape of input_ids"):
        model.generate(**batch | {"labels": batch["labels"][:, 1:]})


def test_smoothing_by_the_trainer_is_refused(trainer_of):
    with pytest.raises(ValueError, match=r"label_smoothing_factor.*not smoothed"):
        trainer_of(label_smoothing_factor=0.1).train()


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(trainer_of, parts, tmp_path):
    model, _ = parts
    trainer = trainer_of(max_steps=3, save_strategy="steps", save_steps=1)
    trainer.train()
    ends = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(tensor, ends[name]) for name, tensor in model.state_dict().items())


def test_a_questions_length_is_that_of_the_processor_unless_said_otherwise(parts):
    _, processor = parts
    assert QuestionCollator.for_processor(processor).max_context_tokens == processor.max_prompt_tokens
    assert QuestionCollator.for_processor(processor, max_context_tokens=200).max_context_tokens == 200
    with pytest.raises(ValueError, match="max_context_tokens, which counts the template"):
        QuestionCollator.for_processor(processor, max_context_tokens=32)(ROWS)


def test_without_the_model_the_collator_says_who_removed_its_columns(parts, tmp_path):
    model, processor = parts
    arguments = transformers.TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[])
    collator = QuestionCollator.for_processor(processor)
    with pytest.raises(ValueError, match=r"needs .*task.*QuestionCollator\.for_model\(model, processor\)"):
        transformers.Trainer(model, arguments, train_dataset=ROWS, data_collator=collator).train()


def test_what_a_row_or_a_prompt_lacks_is_named(parts):
    collate = QuestionCollator.for_processor(parts[1])
    with pytest.raises(ValueError, match="needs width, height"):
        collate([{name: value for name, value in ROWS[0].items() if name not in ("width", "height")}])
    with pytest.raises(ValueError, match="prompt 0 of image '1' lacks utterances, text_loss"):
        prompt = {k: v for k, v in ROWS[0]["prompts"][0].items() if k not in ("utterances", "text_loss")}
        collate([ROWS[0] | {"prompts": [prompt]}])


def test_rows_with_a_length_can_be_grouped_by_it(trainer_of):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([row | {"length": index, "note": "dropped"} for index, row in enumerate(ROWS)])
    assert trainer_of(rows=rows, train_sampling_strategy="group_by_length").train().global_step == 1
