"""A PixelLM learns from MUSE's layout by the same trainer as a PixelLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from pixelllm_hf import PixelLMConfig, PixelLMForReasoningSegmentation, PixelLMProcessor
from pixelllm_hf.data.question_collator import QuestionCollator
from pixelllm_hf.evaluation.runner import GenerationSettings, evaluate
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.training.build_model import family_of_start
from pixelllm_hf.training.config import ConfigError, load_config
from pixelllm_hf.training.dry_run import describe
from pixelllm_hf.training.language_objective import language_objective
from pixelllm_hf.training.objective import Objective
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.trainer import Trainer

ASKED = {
    "what can be eaten?": ("a red apple {seg}.", 1),
    "the dog and a sofa": ("the dog {seg} and a sofa {seg}.", 2),
    "what can be red?": ("sure.", 0),
}


@pytest.fixture(scope="module")
def muse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of two squares each, and three questions about each, with one, two and no targets."""
    folder = tmp_path_factory.mktemp("muse")
    (folder / "images").mkdir()
    records = []
    for number in range(4):
        image = np.full((48, 64, 3), 90, np.uint8)
        squares = [(4 + 3 * number, 6, 20, 18), (38, 10 + 5 * number, 18, 16)]
        for (x, y, width, height), colour in zip(squares, ((220, 40, 40), (40, 60, 220)), strict=True):
            image[y : y + height, x : x + width] = colour
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        targets = [
            {
                "category_name": name,
                "bbox": [x, y, w, h],
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for name, (x, y, w, h) in zip(("apple", "dog"), squares, strict=True)
        ]
        records.append(
            {
                "file_name": f"{number}.png",
                "height": 48,
                "width": 64,
                "questions": list(ASKED),
                "answers": [targets[:count] for _, count in ASKED.values()],
                "text_answers": [answer for answer, _ in ASKED.values()],
            }
        )
    (folder / "muse.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def start(small_pixellm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small PixelLM with weights as a model is made with."""
    folder = tmp_path_factory.mktemp("start") / "checkpoint"
    torch.manual_seed(2)
    config = PixelLMConfig.from_pretrained(small_pixellm)
    config.codebook_config.hidden_size = config.codebook_config.intermediate_size = 32  # 16 do not learn masks
    model = PixelLMForReasoningSegmentation(config)
    model.save_pretrained(folder)
    PixelLMProcessor.from_pretrained(small_pixellm).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(muse: Path, start: Path, tmp_path: Path) -> Any:
    def made(*overrides: str) -> TrainConfig:
        source = {"format": "muse", "annotations": f"{muse}/muse.json", "images": f"{muse}/images", "max_prompts": 3}
        content = {
            "model": {"init": str(start), "freeze": ["vision_tower"]},
            "data": {
                "batch_size": 4,
                "max_context_tokens": 256,
                "cache_dir": str(tmp_path / "cache"),
                "sources": [source],
            },
            "optimizer": {"learning_rate": 1e-2, "betas": [0.9, 0.95], "max_grad_norm": 1.0},
            "run": {"output_dir": str(tmp_path / "run"), "total_steps": 6, "cpu": True, "progress": False},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        return load_config(TrainConfig, tmp_path / "recipe.yaml", overrides)

    return made


def trained(recipe: TrainConfig) -> tuple[Trainer, Objective]:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    objective = language_objective(recipe, accelerator)
    trainer = Trainer(
        objective.module,
        objective.batches,
        accelerator=accelerator,
        run=recipe.run,
        optimizer=recipe.optimizer,
        recipe=recipe,
        save_model=lambda _, folder, final: objective.save(folder, final),
        trained_only=objective.trained_only,
    )
    trainer.run()
    return trainer, objective


def test_four_images_are_learnt_by_heart_and_saved_whole(recipe: Any, muse: Path, tmp_path: Path) -> None:
    trainer, _ = trained(
        recipe("total_steps=180", "warmup_steps=10", "model.freeze=[]", "optimizer.learning_rate=5e-3")
    )
    folder = tmp_path / "run" / "model"
    model = PixelLMForReasoningSegmentation.from_pretrained(folder).eval()
    for name, tensor in trainer.bare_model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    found = evaluate(
        model,
        PixelLMProcessor.from_pretrained(folder),
        TASKS["muse"],
        muse,
        generation=GenerationSettings(batch_size=4),
    )
    metrics = {name: estimate["value"] for name, estimate in found.result["metrics"].items()}
    assert metrics["right_number"] == 1 and metrics["empty_accuracy"] == 1
    assert metrics["gIoU"] > 0.5
    answers = {q["question"]: q["answer"] for row in found.answers for q in row["questions"]}
    assert answers == {question: answer.replace(" {seg}", "") for question, (answer, _) in ASKED.items()}


def test_a_run_that_was_interrupted_ends_with_the_same_weights(recipe: Any, tmp_path: Path) -> None:
    lora = ["model.lora={rank: 2, fully_trained: [model.embed_tokens, lm_head]}"]
    ways: dict[str, list[tuple[str, ...]]] = {"whole": [()], "twice": [("run.stop_at=3",), ()]}
    ends = {}
    for name, runs in ways.items():
        for words in runs:
            trainer, _ = trained(recipe(f"run.output_dir={tmp_path / name}", *lora, *words))
        ends[name] = trainer.bare_model.state_dict()
    for name, tensor in ends["whole"].items():
        assert torch.equal(tensor, ends["twice"][name]), name
    start = PixelLMForReasoningSegmentation.from_pretrained(recipe().model.init).state_dict()
    merged = PixelLMForReasoningSegmentation.from_pretrained(tmp_path / "twice" / "model").state_dict()
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, start[name])}
    assert {"language_model.lm_head.weight", "language_model.model.embed_tokens.weight"} <= changed
    assert {"language_model.model.layers.0.self_attn.q_proj.weight", "image_feature_neck.0.weight"} <= changed
    assert not any("mlp" in name and "language_model" in name or "vision_tower" in name for name in changed)


def test_batches_are_what_the_processor_makes_with_the_answers_behind(recipe: Any, start: Path) -> None:
    processor = PixelLMProcessor.from_pretrained(start)
    settings = recipe()
    batches = language_objective(settings, Accelerator(cpu=True)).batches
    batch = batches.batch_at(0)
    assert batch["prompt_mask"].tolist() == [[True] * 3] * 4 and len(batch["mask_labels"]) == 4 * (1 + 2 + 0)
    asked = processor.encode_prompts(list(ASKED) * 4)
    rows = zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    for row, (ids, mask, labels) in enumerate(rows):
        prompt = asked["input_ids"][row][asked["attention_mask"][row] > 0]
        written = ids[mask.bool()]
        assert written[: len(prompt)].tolist() == prompt.tolist()
        assert (labels[: len(prompt)] == -100).all() and (labels[~mask.bool()] == -100).all()
        learnt = labels[len(prompt) : len(written)]
        assert learnt.tolist() == written[len(prompt) :].tolist() and learnt[-1] == processor.tokenizer.eos_token_id
        targets = list(ASKED.values())[row % 3][1]
        assert torch.isin(learnt, torch.tensor(processor.codebook_token_ids)).sum() == 4 * targets


def test_a_target_that_does_not_fit_has_neither_tokens_nor_a_mask(recipe: Any) -> None:
    settings = recipe("data.max_text_tokens=10")
    batch = language_objective(settings, Accelerator(cpu=True)).batches.batch_at(0)
    model = language_objective(settings, Accelerator(cpu=True)).module
    assert 0 < len(batch["mask_labels"]) < 12
    assert batch.pop("source") == "muse"
    assert torch.isfinite(model(**batch).loss)


def test_what_is_for_pixelllms_is_refused(recipe: Any) -> None:
    for words in (["data.cache_features=true"], ["data.pack_texts=true"], ["model.lora={fully_trained: [head]}"]):
        with pytest.raises(ConfigError, match="Leave it out|has no such part"):
            language_objective(recipe(*words), Accelerator(cpu=True))
    collator = QuestionCollator.for_processor(PixelLMProcessor.from_pretrained(recipe().model.init))
    with pytest.raises(ValueError, match="rows of task 'reason', but these are of task caption"):
        collator([{"image": None, "task": "caption", "prompts": []}])


def test_a_dry_run_tells_of_a_pixellm(recipe: Any) -> None:
    settings = recipe("model.lora={rank: 2, fully_trained: [lm_head]}")
    told = describe(settings)
    model = family_of_start(settings.model.init).model_class.from_pretrained(settings.model.init)
    tower = sum(p.numel() for p in model.vision_tower.parameters())
    assert f"{'vision_tower':<28}{0:>16,}{tower:>16,}" in told
    assert "memory a device in GiB" in told and "muse" in told
