"""What sees, for other runtimes, by `torch.export` and as ONNX: of a PixelLLM the towers, and what makes visual tokens
of a box; of a PixelLM, whose questions are text alone, the tower.

A language model with its search is left to runtimes that are made for them; they take the visual tokens as embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pixelllm_hf.extras import require
from pixelllm_hf.folders import atomic_folder
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.modeling_pixellm import PixelLMForReasoningSegmentation
from pixelllm_hf.modeling.prompt_pooling import agreement_of, overlaps_and_scores, prompt_weights

VISION, PROMPT = "vision", "prompt"
Model = PixelLLMForGroundedGeneration | PixelLMForReasoningSegmentation


class ExportError(ValueError):
    """A model whose parts cannot be exported; the message says what stands against it."""


class VisionPart(nn.Module):
    """pixel_values (B,3,S,S) 0..255, pixel_mask (B,S,S) -> the fused map (B,h,w,C) and, in models whose prompts pool
    them, the detections (B,h',w',5+K)."""

    inputs = ("pixel_values", "pixel_mask")

    def __init__(self, model: PixelLLMForGroundedGeneration):
        super().__init__()
        self.towers = model.vision_towers
        self.detections = model.config.prompt_config.pooled_detections
        self.outputs = ("fused_map",) if self.detections is None else ("fused_map", "detections")

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, ...]:
        features = self.towers(pixel_values, pixel_mask)
        return (features.fused,) if self.detections is None else (features.fused, features[self.detections])


class SightPart(nn.Module):
    """Of a PixelLM: pixel_values (B,3,S,S) 0..255, pixel_mask (B,S,S) -> image_tokens (B,P,H) for its language model,
    token_mask (B,P), which of them are of the image, and the decoder's maps (B,g,g,D), deepest first."""

    inputs = ("pixel_values", "pixel_mask")

    def __init__(self, model: PixelLMForReasoningSegmentation):
        super().__init__()
        self.model = model
        levels = (f"level_map_{number}" for number in range(model.config.codebook_config.num_scales))
        self.outputs = ("image_tokens", "token_mask", *levels)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, ...]:
        seen = self.model.get_image_features(pixel_values, pixel_mask)
        assert seen.image_tokens is not None and seen.token_mask is not None and seen.level_maps is not None
        return (seen.image_tokens, seen.token_mask, *seen.level_maps)


class PromptPart(nn.Module):
    """The fused map (R,h,w,C) of each row's image, boxes (R,4) xyxy canvas pixels and, where they are pooled, the
    image's detections (R,h',w',5+K) -> visual tokens (R,V,C') and, in models that read the map, its cells (R,h*w,C'').
    """

    def __init__(self, model: PixelLLMForGroundedGeneration):
        super().__init__()
        pooled = model.config.prompt_config.pooled_detections
        self.inputs = ("fused_map", "boxes") if pooled is None else ("fused_map", "boxes", "detections")
        self.side = model.config.image_size
        self.encoder, self.extractor = model.prompt_encoder, model.prompt_feature_extractor
        # what `project_visual` reads is registered by itself, without the rest of the language model
        self.projection, self.project = model.language_model.visual_projection, model.language_model.project_visual
        self.pooling = model.prompt_pooling
        self.outputs = ("visual_tokens", "cells") if model.config.prompt_config.reads_map else ("visual_tokens",)

    def forward(self, fused_map: Tensor, boxes: Tensor, detections: Tensor | None = None) -> tuple[Tensor, ...]:
        sparse = self.encoder(boxes[:, None], image_size_hw=(self.side, self.side))[:, 0]
        height, width = fused_map.shape[1:3]
        positions = self.encoder.dense_positions(height, width)
        tokens, cells = self.extractor.of_rows(fused_map, positions, sparse, self.encoder.no_mask)
        tokens = self.project(tokens)
        if self.pooling is not None:
            weights = prompt_weights(boxes[:, None], None, None, (height, width), image_size=self.side)
            pooled = (weights.flatten(2).to(fused_map.dtype) @ fused_map.flatten(1, 2))[:, 0]
            tokens = tokens + self.pooling.of_rows(pooled, self._agreement(boxes, detections))
        return (tokens,) if cells is None else (tokens, cells)

    def _agreement(self, boxes: Tensor, detections: Tensor | None) -> Tensor | None:
        """`class_agreement` of a box in each image, in one product: loops over rows have no place in a graph."""
        if detections is None:
            return None
        overlaps, scores = overlaps_and_scores(boxes[:, None] / self.side, detections.flatten(1, 2))
        return agreement_of(overlaps[:, 0], scores)


def exported(model: Model) -> dict[str, ExportedProgram]:
    """The parts by `torch.export`, for any number of images and of rows; in evaluation, float32 and on the CPU."""
    programs = {}
    for name, (part, inputs) in parts_and_inputs(model).items():
        shapes = tuple({0: Dim("rows", min=1, max=1024)} for _ in inputs)
        # In plain products: the fused kernel lays its result out as its decompositions for other runtimes do not.
        with torch.no_grad(), patch.object(F, "scaled_dot_product_attention", plain_attention):
            programs[name] = torch.export.export(part, inputs, dynamic_shapes=shapes)
    return programs


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """`scaled_dot_product_attention` of (…,Q,D), (…,K,D) and (…,K,V), in products that every runtime has; of what sees,
    which has no dropout in evaluation and is not causal."""
    assert not dropout_p and not is_causal
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


def parts_and_inputs(model: Model) -> dict[str, tuple[Any, tuple[Tensor, ...]]]:
    """The parts with two rows of inputs each: random pixels, the second image half as high as the canvas; boxes."""
    quantized = getattr(model, "hf_quantizer", None) is not None
    if model.training or model.dtype != torch.float32 or model.device.type != "cpu" or quantized:
        raise ExportError(
            "parts are exported of a model in evaluation, in float32, on the CPU and not quantized: load it with "
            'dtype="float32", then model.eval().'
        )
    side = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, side, side, generator=generator) * 255
    mask = torch.ones(2, side, side, dtype=torch.bool)
    mask[1, side // 2 :] = False
    if isinstance(model, PixelLMForReasoningSegmentation):
        return {VISION: (SightPart(model), (pixels, mask))}
    vision = VisionPart(model)
    with torch.no_grad():
        fused, *detections = vision(pixels, mask)
    boxes = torch.tensor([[0.1, 0.2, 0.7, 0.9], [0.0, 0.0, 1.0, 0.5]]) * side
    return {VISION: (vision, (pixels, mask)), PROMPT: (PromptPart(model), (fused, boxes, *detections))}


def write_onnx(model: Model, folder: str | Path) -> dict[str, float]:
    """`vision.onnx` and, of a PixelLLM, `prompt.onnx` in a new folder, whole or not there; gives `onnx_differences`."""
    require("onnx", "onnxscript", "onnxruntime", what="the export to ONNX")
    parts = {name: part for name, (part, _) in parts_and_inputs(model).items()}
    with atomic_folder(Path(folder), replace=False) as temporary:
        for name, program in exported(model).items():
            torch.onnx.export(
                program,
                f=str(temporary / f"{name}.onnx"),
                input_names=list(parts[name].inputs),
                output_names=list(parts[name].outputs),
                custom_translation_table={torch.ops.aten.sort.stable: _sorted_in_onnx},
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        return onnx_differences(model, temporary)


def _sorted_in_onnx(values: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """A detector's order of its cells, which torch's exporter does not know: of equals TopK, too, takes the first."""
    from onnxscript import opset20

    op: Any = opset20
    number = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, number, axis=dim, largest=int(descending), sorted=1)


def onnx_differences(model: Model, folder: str | Path) -> dict[str, float]:
    """The largest difference of each output between the plain model and onnxruntime, as a share of its range; of three
    rows, which is not the number that the parts were exported with."""
    require("onnxruntime", what="the check of ONNX files")
    import onnxruntime

    def run(name: str, given: Sequence[Tensor]) -> Sequence[np.ndarray]:
        session = onnxruntime.InferenceSession(Path(folder) / f"{name}.onnx", providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        return session.run(None, {key: value.numpy() for key, value in zip(names, given, strict=True)})

    return _differences(model, run)


def program_differences(model: Model, programs: Mapping[str, ExportedProgram]) -> dict[str, float]:
    """The same between the plain model and what `exported` gave."""

    def run(name: str, given: Sequence[Tensor]) -> Sequence[np.ndarray]:
        return [value.numpy() for value in programs[name].module()(*given)]

    return _differences(model, run)


def _differences(model: Model, run: Callable[[str, Sequence[Tensor]], Sequence[np.ndarray]]) -> dict[str, float]:
    """run: the name of a part and its inputs -> its outputs."""
    differences: dict[str, float] = {}
    for name, (part, inputs) in parts_and_inputs(model).items():
        given = [torch.cat([x, x[:1]]) for x in inputs]
        with torch.no_grad():
            found, expected = run(name, given), part(*given)
        for output, theirs, ours in zip(part.outputs, found, expected, strict=True):
            compare = set_difference if output == "detections" else difference
            differences[output] = compare(theirs, ours.numpy())
    return differences


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest, as a share of the range of what is expected."""
    found, expected = found.astype(np.float32), expected.astype(np.float32)  # masks too
    return float(np.abs(found - expected).max() / max(np.ptp(expected), 1e-12))


def set_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The same of (R,h,w,C) whose cells of an image have no order that counts: of each the nearest cell found.

    They are sorted by how sure they are, and of two that are equally sure a rounding decides which comes first.
    """
    ours, theirs = (torch.from_numpy(values).flatten(1, 2).float() for values in (expected, found))
    nearest = torch.cdist(ours, theirs, p=torch.inf).amin(-1)
    return float(nearest.max()) / max(np.ptp(expected), 1e-12)


__all__ = [
    "ExportError",
    "PromptPart",
    "SightPart",
    "VisionPart",
    "exported",
    "onnx_differences",
    "program_differences",
    "write_onnx",
]
