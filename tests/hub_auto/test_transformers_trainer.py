"""transformers' own training loops with our model, as somebody would first try them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.data import GroundedCollator

transformers = pytest.importorskip("transformers")


def a_row(*targets: str, points: bool = False) -> dict[str, Any]:
    prompt: dict[str, Any] = {
        "box": None,
        "context": None,
        "object_box": None,
        "mask": None,
        "utterances": [],
        "text_loss": True,
    }
    prompts = [{**prompt, "target": target, "point_loss": points, "object_box": [8, 8, 40, 30]} for target in targets]
    image = Image.new("RGB", (64, 48), "red")
    return {"image": image, "image_id": "1", "width": 64, "height": 48, "task": "caption", "prompts": prompts}


@pytest.fixture
def parts(small_checkpoint: Path) -> tuple[Any, Any]:
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    return model, PixelLLMProcessor.from_pretrained(small_checkpoint)


@pytest.fixture
def trainer_of(parts: tuple[Any, Any], tmp_path: Path) -> Any:
    model, processor = parts

    def make(
        rows: list[dict[str, Any]], *, kind: Any = transformers.Seq2SeqTrainer, pad: bool = True, **settings: Any
    ) -> Any:
        metrics, most = settings.pop("compute_metrics", None), settings.pop("max_prompts", 1)
        arguments = {
            "output_dir": str(tmp_path), "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
            "per_device_eval_batch_size": 2, "per_device_train_batch_size": 1,
        }  # fmt: skip
        form = transformers.TrainingArguments if kind is transformers.Trainer else transformers.Seq2SeqTrainingArguments
        return kind(
            model=model,
            args=form(**arguments | settings),
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=GroundedCollator.for_model(model, processor, max_prompts=most),
            processing_class=processor if pad else None,
            compute_metrics=metrics,
        )

    return make


@pytest.mark.parametrize("kind", [transformers.Trainer, transformers.Seq2SeqTrainer])
def test_evaluation_gives_the_loss_of_the_model(trainer_of, parts, kind):
    model, processor = parts
    rows = [a_row("a dog"), a_row("two red cats")]
    with torch.no_grad():
        batch = GroundedCollator.for_processor(processor)(rows)
        assert "point_labels" in batch and "mask_labels" not in batch
        expected = model.eval()(**batch).loss
    trainer = trainer_of(rows, kind=kind)
    assert trainer.label_names == ["labels"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_class_shows_labels_alone_and_the_model_every_argument(parts):
    model, _ = parts
    named = [name for name in inspect.signature(type(model).forward).parameters if "label" in name]
    assert named == ["labels"]
    whole = inspect.signature(model.forward).parameters
    assert {"prompt_point_labels", "point_labels", "mask_labels", "object_labels", "labels"} <= set(whole)
    assert "point_labels" in (type(model).forward.__doc__ or "")


def test_metrics_get_tensors_of_words_and_places(trainer_of, parts):
    model, _ = parts
    seen = {}

    def look(prediction: Any) -> dict[str, float]:
        seen.update(predictions=prediction.predictions, labels=prediction.label_ids)
        return {"looked": 1.0}

    rows = [a_row("a dog"), a_row("two red cats on the left"), a_row("a")]
    metrics = trainer_of(rows, kind=transformers.Trainer, compute_metrics=look).evaluate()
    assert metrics["eval_looked"] == 1 and metrics["eval_loss"] > 0
    logits, coordinates = seen["predictions"]
    answers, length = seen["labels"].shape
    assert answers == 3
    assert logits.shape == (3, length + 1, model.config.text_config.vocab_size)
    assert coordinates.shape == (3, length + 1, 2, 2)


@pytest.mark.parametrize("pad", [True, False])
def test_generated_answers_are_predictions(trainer_of, parts, pad):
    _, processor = parts
    seen = {}

    def read(prediction: Any) -> dict[str, float]:
        seen["texts"] = processor.batch_decode(prediction.predictions, skip_special_tokens=True)
        seen["labels"] = processor.batch_decode(prediction.label_ids, skip_special_tokens=True)
        return {}

    rows = [a_row("a dog"), a_row("two red cats"), a_row("on the left")]
    settings = {"predict_with_generate": True, "generation_max_length": 7, "compute_metrics": read}
    metrics = trainer_of(rows, pad=pad, **settings).evaluate()
    assert metrics["eval_loss"] > 0
    assert seen["labels"] == ["a dog", "two red cats", "on the left"] and len(seen["texts"]) == 3


def test_answers_of_the_trainer_are_those_of_generate(trainer_of, parts):
    model, processor = parts
    row = a_row("a dog")
    batch = GroundedCollator.for_processor(processor)([row])
    alone = model.generate(**{name: batch[name] for name in processor.model_input_names}, max_new_tokens=9)
    predicted = trainer_of([row], predict_with_generate=True).predict([row], max_new_tokens=9).predictions
    words = processor.batch_decode(alone, skip_special_tokens=True)
    assert processor.batch_decode(predicted, skip_special_tokens=True) == words
    assert model.generate(**batch, max_new_tokens=9).coordinates is not None  # labels in a batch change nothing


def test_a_step_over_several_batches_is_a_step_over_their_mean(trainer_of, parts):
    model, _ = parts
    rows = [a_row("a dog", points=True)] * 4
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    losses = {}
    for steps in (1, 4):
        model.load_state_dict(whole)
        trainer = trainer_of(rows, max_steps=1, gradient_accumulation_steps=steps, logging_steps=1, learning_rate=0.0)
        trainer.train()
        losses[steps] = trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]
    assert losses[1] == pytest.approx(losses[4], rel=0.3)  # equal but for dropout


def test_what_the_trainer_cannot_do_is_said(trainer_of):
    with pytest.raises(ValueError, match="label_smoothing_factor.*config.label_smoothing"):
        trainer_of([a_row("a dog")], max_steps=1, label_smoothing_factor=0.1).train()


def test_rows_of_objects_have_an_eval_loss_too(trainer_of, parts):
    model, processor = parts
    rows = [a_row("a dog", "two red cats") | {"task": "dense"}, a_row("on the left") | {"task": "dense"}]
    for row in rows:
        for prompt in row["prompts"]:
            prompt["box"], prompt["object_box"] = [8, 8, 40, 30], None
    with torch.no_grad():
        expected = model.eval()(**GroundedCollator.for_processor(processor, max_prompts=4)(rows)).loss
    trainer = trainer_of(rows, max_prompts=4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True, "max_steps": 1}
    assert trainer_of(rows, max_prompts=4, **settings).train().global_step == 1


@pytest.mark.parametrize("form", ["list", "Dataset", "IterableDataset", "Dataset under peft"])
def test_rows_of_any_form_are_trained_on_with_the_defaults(parts, tmp_path, form):
    datasets, peft = pytest.importorskip("datasets"), pytest.importorskip("peft")
    model, processor = parts
    if form.endswith("peft"):
        model = peft.get_peft_model(model, peft.LoraConfig(r=2))
    rows: Any = [a_row("a dog") | {"width": 64, "note": 7}, a_row("two red cats") | {"note": 8}]
    if form != "list":
        rows = datasets.Dataset.from_list(rows)
    if form == "IterableDataset":
        rows = rows.to_iterable_dataset()
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=GroundedCollator.for_model(model, processor),
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert (tmp_path / "checkpoint-2").is_dir()


def test_the_columns_that_stay_are_those_of_rows(parts):
    from pixelllm_hf.data import GROUNDED_FEATURES

    model, processor = parts
    before = set(inspect.signature(model.forward).parameters)
    GroundedCollator.for_model(model, processor)
    assert set(inspect.signature(model.forward).parameters) == before | set(GROUNDED_FEATURES) | {"length"}
    assert "self" not in before and "image" not in inspect.signature(type(model).forward).parameters


def test_without_the_model_the_collator_says_who_removed_its_columns(parts, tmp_path):
    model, processor = parts
    arguments = transformers.TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[])
    collator = GroundedCollator.for_processor(processor)
    trainer = transformers.Trainer(model, arguments, train_dataset=[a_row("a dog")], data_collator=collator)
    with pytest.raises(ValueError, match=r"for_model\(model, processor\)"):
        trainer.train()


def test_ready_made_tensors_need_no_settings(parts, tmp_path):
    datasets = pytest.importorskip("datasets")
    model, processor = parts
    inputs = processor(Image.new("RGB", (64, 48)), "a dog", return_tensors="np")
    row = {name: value[0] for name, value in inputs.items()} | {"labels": [3, 4, 1], "note": "dropped"}
    arguments = transformers.TrainingArguments(
        str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=1
    )
    data = datasets.Dataset.from_list([row, row])
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
