"""Towers that go on learning what is where while language trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.auxiliary.batches import LabelledBatches
from pixelllm_hf.training.auxiliary.beside_language import WithAuxiliary, with_auxiliary
from pixelllm_hf.training.auxiliary.cell_heads import PatchHeads
from pixelllm_hf.training.auxiliary.config import AuxiliaryConfig
from pixelllm_hf.training.auxiliary.heads import AuxiliaryHeads
from pixelllm_hf.training.auxiliary.labels import image_labels
from pixelllm_hf.training.auxiliary.token_heads import TokenTaskConfig
from pixelllm_hf.training.build_model import load_processor
from pixelllm_hf.training.config import ConfigError, from_dict
from pixelllm_hf.training.parameter_groups import freeze
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.sources import DataConfig, SourceConfig, grounded_batches


@pytest.fixture
def model() -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())


@pytest.fixture
def made(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> Callable[..., tuple[WithAuxiliary, LabelledBatches]]:
    """made(heads=None, tokens=None, **settings of the source) -> model and batches of a recipe with `auxiliary`."""

    def make(
        heads: Path | None = None, tokens: TokenTaskConfig | None = None, **settings: Any
    ) -> tuple[WithAuxiliary, LabelledBatches]:
        source = replace(SourceConfig("localized_narratives", str(squares.narratives), str(squares.images)), **settings)
        data = DataConfig([source], batch_size=3, cache_dir=str(tmp_path))
        processor = load_processor(str(tokenizer_folder), image_size=model.config.image_size)
        batches = grounded_batches(data.sources, data, processor=processor, seed=1)
        config = AuxiliaryConfig(
            str(squares.instances),
            cell_heads=str(heads) if heads else None,
            cells_weight=0.5,
            tokens=tokens,
            tokens_weight=0.25,
        )
        return with_auxiliary(model, batches, config, data.cache_dir)

    return make


def test_every_image_comes_with_its_own_labels(made: Any, squares: SimpleNamespace, tmp_path: Path) -> None:
    _, batches = made()
    canvas, cells = 64, batches.labels.shape[-1]
    labels = image_labels(squares.instances, squares.images, tmp_path, canvas=canvas, cells=cells)
    for index in range(4):
        batch = batches.batch_at(index)
        for row, pixels in enumerate(batch["pixel_values"]):
            # The squares are far brighter in one channel than the grey around them.
            colourful = (pixels.amax(0) - pixels.amin(0) > 60).float()
            here = torch.nn.functional.adaptive_avg_pool2d(colourful[None], cells)[0] > 0.9
            assert here.any() and bool((batch["auxiliary_labels"][row, 0][here] > 0).all())
        own = {tuple(image.flatten().tolist()) for image in batch["auxiliary_labels"][:, 0]}
        assert len(own) == 3 and own <= {tuple(image.flatten().tolist()) for image in labels.labels}


def test_the_loss_is_the_models_and_the_weighted_one_of_the_heads(made: Any) -> None:
    both, batches = made()
    batch = batches.batch_at(0)
    batch.pop("source")
    output = both(**batch)
    labels, boxes = batch.pop("auxiliary_labels"), batch.pop("auxiliary_boxes")
    alone = both.model(**batch)
    features = both.model.get_image_features(batch["pixel_values"], batch["pixel_mask"])
    heads = both.heads.cells(features, labels, boxes)
    torch.testing.assert_close(output.loss, alone.loss + 0.5 * heads.loss)
    torch.testing.assert_close(output.loss_parts["text"], alone.loss_parts["text"])
    torch.testing.assert_close(output.loss_parts["cells"], heads.loss)


def test_the_towers_learn_from_the_heads(made: Any) -> None:
    both, batches = made()
    batch = batches.batch_at(0)
    batch.pop("source")
    gradients = []
    for weight in (0.0, 0.5):
        both.heads.cells_weight = weight
        both.zero_grad()
        both(**batch).loss.backward()
        gradients.append(both.model.vision_towers.sam.neck[0].weight.grad.clone())
    assert not torch.allclose(*gradients)


def test_the_loss_of_the_prompt_tokens_comes_on_top_and_teaches_them(made: Any) -> None:
    both, batches = made(tokens=TokenTaskConfig(1, 2))
    batch = batches.batch_at(0)
    batch.pop("source")
    with_tokens = both(**batch)
    features = both.model.get_image_features(batch["pixel_values"], batch["pixel_mask"])
    tokens = both.model.get_visual_tokens(features, batch["pixel_mask"])
    expected = both.heads.tokens(tokens, batch["auxiliary_labels"], batch["auxiliary_boxes"]).loss
    torch.testing.assert_close(with_tokens.loss_parts["tokens"], expected)
    both.heads.tokens_weight = 0.0
    torch.testing.assert_close(with_tokens.loss, both(**batch).loss + 0.25 * expected)
    expected.backward()
    assert both.model.prompt_feature_extractor.output_tokens.weight.grad.any()


def test_tokens_of_whole_images_are_extracted_once_and_those_of_boxes_beside_them(
    made: Any, squares: SimpleNamespace
) -> None:
    grids = {"tokens": TokenTaskConfig(1, 2)}
    referring = {"format": "referring_expressions", "annotations": str(squares.refs), "max_prompts": 2}
    regions = {"format": "visual_genome", "annotations": str(squares.regions), "image_data": str(squares.image_data)}
    for settings, times in (({}, 1), (referring | {"instances": str(squares.instances)}, 1), (regions, 2)):
        both, batches = made(**grids, **settings)
        batch = batches.batch_at(0)
        batch.pop("source")
        calls: list[Any] = []
        handle = both.model.prompt_feature_extractor.register_forward_hook(lambda *call, to=calls: to.append(call))
        tokens = both(**batch).loss_parts["tokens"]
        handle.remove()
        assert len(calls) == times
        features = both.model.get_image_features(batch["pixel_values"], batch["pixel_mask"])
        visual = both.model.get_visual_tokens(features, batch["pixel_mask"])
        expected = both.heads.tokens(visual, batch["auxiliary_labels"], batch["auxiliary_boxes"]).loss
        torch.testing.assert_close(tokens, expected)


def test_prompt_tokens_learn_beside_frozen_towers(made: Any, model: PixelLLMForGroundedGeneration) -> None:
    freeze(model, ["vision_towers"])
    both, batches = made(tokens=TokenTaskConfig(1, 2))
    batch = batches.batch_at(0)
    batch.pop("source")
    assert {"tokens", "token_box"} <= set(both(**batch).loss_parts) and "cells" not in both(**batch).loss_parts
    assert both.heads.cells is None


def test_heads_go_on_from_their_file(made: Any, tmp_path: Path) -> None:
    both, _ = made()
    both.heads.save(tmp_path)
    again, _ = made(heads=tmp_path / "cell_heads.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(both.heads.parameters(), again.heads.parameters(), strict=True))
    AuxiliaryHeads(PatchHeads({"fused": 40}, 9, {}, both.heads.cells.task)).save(tmp_path)
    with pytest.raises(ConfigError, match="cell_heads.safetensors"):
        made(heads=tmp_path / "cell_heads.safetensors")


@pytest.mark.parametrize(
    ("settings", "named"), [({"flip": 0.5}, "flip"), ({"scale": (0.75, 1.25)}, "scale")], ids=["flip", "scale"]
)
def test_images_that_change_are_refused(made: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        made(**settings)


def test_images_without_labels_are_refused(made: Any, squares: SimpleNamespace, tmp_path: Path) -> None:
    _, batches = made()
    labels = image_labels(squares.instances, squares.images, tmp_path, canvas=64, cells=8)
    fewer = replace(labels, image_files=labels.image_files[1:])
    with pytest.raises(ConfigError, match="1 of 12 images"):
        LabelledBatches(batches.batches, fewer, 64)


def test_frozen_towers_and_cached_features_are_refused(
    made: Any, model: PixelLLMForGroundedGeneration, squares: SimpleNamespace
) -> None:
    source = {"format": "localized_narratives", "annotations": "a.jsonl", "images": "b"}
    recipe = {"data": {"sources": [source], "cache_features": True}, "auxiliary": {"instances": "c.json"}}
    with pytest.raises(ConfigError, match="cache_features"):
        from_dict(TrainConfig, recipe)
    freeze(model, ["vision_towers"])
    with pytest.raises(ConfigError, match="model.freeze"):
        made()


def test_a_recipe_with_auxiliary_gives_a_plain_model(
    squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path, launch: Callable[..., Any]
) -> None:
    recipe = {
        "model": {"init": "for_tests", "processor": str(tokenizer_folder), "freeze": []},
        "data": {
            "batch_size": 3,
            "cache_dir": str(tmp_path / "cache"),
            "sources": [
                {
                    "format": "localized_narratives",
                    "annotations": str(squares.narratives),
                    "images": str(squares.images),
                }
            ],
        },
        "auxiliary": {"instances": str(squares.instances), "tokens": {"rows": 1, "columns": 2}},
        "run": {"output_dir": str(tmp_path / "run"), "total_steps": 2, "cpu": True, "progress": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launch("train.py", tmp_path / "recipe.yaml").finish()
    saved = tmp_path / "run" / "model"
    assert (saved / "cell_heads.safetensors").is_file() and (saved / "token_heads.safetensors").is_file()
    loaded, report = PixelLLMForGroundedGeneration.from_pretrained(saved, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    assert loaded.config.image_size == 64
