"""Learning from auxiliary labels alone: towers, prompt tokens or masks, before language meets them.

Jointly trained from scratch, a small model stays for long on a plateau where it names nothing; towers that already
tell objects apart make it leave at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.auxiliary.batches import ImageBatches, image_batches
from pixelllm_hf.training.auxiliary.cell_heads import AuxiliaryOutput, PatchHeads
from pixelllm_hf.training.auxiliary.heads import AuxiliaryHeads
from pixelllm_hf.training.auxiliary.labels import ImageLabels
from pixelllm_hf.training.auxiliary.masks import ImageObjects, MaskBatches, MaskLearner
from pixelllm_hf.training.auxiliary.token_heads import QueryTokenHeads, TokenTaskConfig
from pixelllm_hf.training.build_model import build_model, load_processor
from pixelllm_hf.training.export import export_dtype, save_folder
from pixelllm_hf.training.objective import Objective
from pixelllm_hf.training.recipe_values import ConfigError

if TYPE_CHECKING:
    from pixelllm_hf.training.auxiliary.config import AuxiliaryConfig
    from pixelllm_hf.training.recipe import TrainConfig

TOWERS_FILE = "vision_towers.safetensors"
TOKEN_PARTS = ("prompt_feature_extractor.", "prompt_pooling.", "language_model.visual_projection.")


class TowerLearner(nn.Module):
    """The towers and the throw-away heads that teach them."""

    def __init__(self, vision_towers: nn.Module, heads: PatchHeads):
        super().__init__()
        self.vision_towers, self.heads = vision_towers, heads

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor, labels: Tensor, boxes: Tensor | None = None
    ) -> AuxiliaryOutput:
        """pixel_values (B,3,S,S), pixel_mask (B,S,S); the rest as in `PatchHeads`."""
        return self.heads(self.vision_towers(pixel_values, pixel_mask), labels, boxes)


class TokenLearner(nn.Module):
    """A model of which only the way from the maps to the prompt tokens learns, and the heads that teach it."""

    def __init__(self, model: PixelLLMForGroundedGeneration, token_heads: QueryTokenHeads):
        super().__init__()
        self.model, self.token_heads = model, token_heads
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(TOKEN_PARTS))

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor, labels: Tensor, boxes: Tensor) -> AuxiliaryOutput:
        """pixel_values (B,3,S,S), pixel_mask (B,S,S); the rest as in `QueryTokenHeads`."""
        with torch.no_grad():
            features = self.model.get_image_features(pixel_values, pixel_mask)
        return self.token_heads(self.model.get_visual_tokens(features, pixel_mask), labels, boxes)


def towers_objective(recipe: TrainConfig, accelerator: Accelerator) -> Objective:
    """The vision towers name what they see, cell by cell; the result is their weights alone."""
    auxiliary, whole = _auxiliary(recipe), _model(recipe)
    towers, config = whole.vision_towers, whole.config
    del whole  # the language model need not stay in memory
    train, held_out, labels = _batches(recipe, config, accelerator)
    heads = AuxiliaryHeads(PatchHeads.for_model(config.vision_config, labels, auxiliary.cells))

    def save(folder: Path, final: bool) -> None:
        save_vision_towers(towers, folder / TOWERS_FILE, labels.class_names)
        heads.save(folder)
        config.save_pretrained(folder)

    assert heads.cells is not None
    learner = TowerLearner(towers, heads.cells)
    return Objective(learner, train, held_out, save, shown="fused_foreground_accuracy", result=f"model/{TOWERS_FILE}")


def prompt_tokens_objective(recipe: TrainConfig, accelerator: Accelerator) -> Objective:
    """Every prompt token tells of the object in a location of its own; towers and language stay as they are."""
    auxiliary, model = _auxiliary(recipe), _model(recipe)
    processor = load_processor(recipe.model.processor or recipe.model.init, image_size=model.config.image_size)
    train, held_out, labels = _batches(recipe, model.config, accelerator)
    heads = AuxiliaryHeads(None, QueryTokenHeads.for_model(model, labels, auxiliary.tokens or TokenTaskConfig()))

    def save(folder: Path, final: bool) -> None:
        save_folder(model, folder, processor=processor, dtype=_dtype(recipe, final))
        heads.save(folder)

    assert heads.tokens is not None
    return Objective(TokenLearner(model, heads.tokens), train, held_out, save, shown="object_accuracy")


def masks_objective(recipe: TrainConfig, accelerator: Accelerator) -> Objective:
    """SAM's own task, boxes to masks, through the towers; what these knew is kept beside it.

    What the model heard of language through its mask adapter is forgotten: the gate is closed, as in a new model.
    """
    auxiliary, model = _auxiliary(recipe), _model(recipe)
    processor = load_processor(recipe.model.processor or recipe.model.init, image_size=model.config.image_size)
    train, held_out, labels = _batches(recipe, model.config, accelerator)
    heads = AuxiliaryHeads.for_model(
        model,
        labels,
        cells=auxiliary.cells,
        tokens=auxiliary.tokens,
        cell_file=auxiliary.cell_heads,
        token_file=auxiliary.token_heads,
        cells_weight=auxiliary.cells_weight,
        tokens_weight=auxiliary.tokens_weight,
    )
    objects = ImageObjects.read(auxiliary.instances)
    others = ImageObjects.read(auxiliary.eval_instances) if auxiliary.eval_instances else objects
    seed, task = recipe.run.seed, auxiliary.masks

    def save(folder: Path, final: bool) -> None:
        save_folder(model, folder, processor=processor, dtype=_dtype(recipe, final))
        heads.save(folder)

    return Objective(
        MaskLearner(model, heads),
        MaskBatches(train, objects, task, seed=seed),
        MaskBatches(held_out, others, task, seed=seed),
        save,
        shown="mask_iou",
    )


def save_vision_towers(vision_towers: nn.Module, path: Path, about: Iterable[str] = ()) -> None:
    """The towers' weights as safetensors, named as in the whole model (`vision_towers.…`)."""
    from safetensors.torch import save_file

    state = vision_towers.state_dict()
    tensors = {f"vision_towers.{k}": v.detach().cpu().float().contiguous() for k, v in state.items()}
    save_file(tensors, str(path), metadata={"format": "pt", "classes": "\n".join(about)})


def _auxiliary(recipe: TrainConfig) -> AuxiliaryConfig:
    if recipe.auxiliary is None or not recipe.auxiliary.images:
        raise ConfigError(
            f"objective {recipe.objective} learns from auxiliary.instances and auxiliary.images. Set both."
        )
    if recipe.data.sources or recipe.data.held_out:
        raise ConfigError(f"objective {recipe.objective} reads no data.sources. Leave them out, or train language.")
    return recipe.auxiliary


def _model(recipe: TrainConfig) -> PixelLLMForGroundedGeneration:
    settings = recipe.model
    return build_model(
        settings.init,
        overrides=settings.overrides,
        vision_weights=settings.vision_weights,
        weights=settings.weights,
    )


def _dtype(recipe: TrainConfig, final: bool) -> torch.dtype:
    return export_dtype(recipe.model.export_dtype if final else "float32")


def _batches(
    recipe: TrainConfig, config: Any, accelerator: Accelerator
) -> tuple[ImageBatches, ImageBatches, ImageLabels]:
    auxiliary, data = _auxiliary(recipe), recipe.data
    if data.cache_dir is None:
        raise ConfigError(f"objective {recipe.objective} needs data.cache_dir: the folder that receives the images.")
    held_out = auxiliary.eval_instances
    with accelerator.main_process_first():
        return image_batches(
            (auxiliary.instances, auxiliary.images),
            None if held_out is None else (held_out, auxiliary.eval_images or auxiliary.images),
            held_out_fraction=auxiliary.eval_fraction,
            cache_dir=data.cache_dir,
            canvas=config.image_size,
            cells=auxiliary.label_side(config),
            batch_size=data.batch_size,
            seed=recipe.run.seed,
            flip=auxiliary.flip,
            threads=data.cache_threads,
        )
