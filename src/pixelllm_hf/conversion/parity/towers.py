"""Parity of the convolutional towers with their published weights, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ...modeling.configuration_towers import PixelLLMEfficientNetLiteTowerConfig, PixelLLMYoloxTowerConfig
from ..towers import efficientnet_lite_tower, yolox_tower
from .onnx_graph import OnnxGraph, run_onnx


def efficientnet_lite_deviations(
    path: str | Path, config: PixelLLMEfficientNetLiteTowerConfig | None = None, side: int = 320
) -> dict[str, float]:
    """Largest deviation of every stage's map and the head's, as a share of the map's range.

    The other side is the network written out in ONNX operators after its description, with the file's own tensors,
    TensorFlow's padding as onnxruntime knows it (`SAME_UPPER`), and batch norms that are not folded.
    """
    given = {} if config is None else config.to_dict()
    config = PixelLLMEfficientNetLiteTowerConfig(**{**given, "output_maps": ["head"]})
    config.output_maps = [*(f"stage{number}" for number in range(1, config.num_stages + 1)), "head"]
    pixels = (_pixels(side) - 127) / 128
    model = efficientnet_lite_graph(load_file(path), config, side)
    expected = run_onnx(model, {"pixels": pixels.numpy()})
    with torch.no_grad():
        maps = efficientnet_lite_tower(path, config)(pixels)
    return {name: _deviation(maps[name], _last(map_)) for name, map_ in zip(config.output_maps, expected, strict=True)}


def efficientnet_lite_graph(
    tensors: Mapping[str, Tensor], config: PixelLLMEfficientNetLiteTowerConfig, side: int
) -> bytes:
    """The classifier's feature extractor by the names of its PyTorch port; outputs are all stages and the head."""
    graph = OnnxGraph()
    zero, six = graph.constant(np.float32(0)), graph.constant(np.float32(6))

    def conv(x: str, name: str, norm: str, *, stride: int = 1, groups: int = 1, active: bool = True) -> str:
        weight = graph.constant(tensors[f"{name}.weight"].numpy())
        x = graph.add("Conv", x, weight, auto_pad="SAME_UPPER", strides=[stride, stride], group=groups)
        statistics = (graph.constant(tensors[f"{norm}.{kind}"].numpy()) for kind in _NORM)
        x = graph.add("BatchNormalization", x, *statistics, epsilon=config.batch_norm_eps)
        return graph.add("Clip", x, zero, six) if active else x

    x = conv("pixels", "_conv_stem", "_bn0", stride=2)
    outputs, width, number = [], config.stem_channels, 0
    for stage, channels in enumerate(config.stage_channels):
        for index in range(config.stage_depths[stage]):
            prefix, stride = f"_blocks.{number}", config.stage_strides[stage] if index == 0 else 1
            inner, start = width if stage == 0 else width * config.expand_ratio, x
            if stage:
                x = conv(x, f"{prefix}._expand_conv", f"{prefix}._bn0")
            x = conv(x, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride=stride, groups=inner)
            x = conv(x, f"{prefix}._project_conv", f"{prefix}._bn2", active=False)
            if stride == 1 and width == channels:
                x = graph.add("Add", x, start)
            width, number = channels, number + 1
        outputs.append(x)
    outputs.append(conv(x, "_conv_head", "_bn1"))
    return graph.model({"pixels": (len(_pixels(1)), 3, side, side)}, outputs)


_NORM = ("weight", "bias", "running_mean", "running_var")


def yolox_deviations(path: str | Path, config: PixelLLMYoloxTowerConfig | None = None) -> dict[str, float]:
    """Largest deviation of boxes, scores and classes from what the file gives as it is, as shares of their range."""
    given = {} if config is None else config.to_dict()
    config = PixelLLMYoloxTowerConfig(**{**given, "output_maps": ["classes"]})
    content = Path(path).read_bytes()
    side = yolox_input_side(content)
    pixels = _pixels(side)[:1]
    found = run_onnx(content, {"images": pixels.flip(1).numpy()})[0]  # BGR
    with torch.no_grad():
        tower, seen = yolox_tower(path, config), pixels - pixels.new_tensor(config.image_mean).view(3, 1, 1)
        ours, classes = tower.detect(seen), tower(seen)["classes"]
    expected = _decoded(torch.from_numpy(found), side)
    return {
        "boxes": _deviation(ours[..., :4], expected[..., :4]),
        "objectness": _deviation(ours[..., 4], expected[..., 4]),
        "class scores": _deviation(ours[..., 5:], expected[..., 5:]),
        "classes": _deviation(classes, _class_map(expected, side)),
    }


def yolox_input_side(content: bytes) -> int:
    """Side in pixels of the square input that an exported detector was made for."""
    import onnxruntime

    return int(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).get_inputs()[0].shape[-1])


def _decoded(raw: Tensor, side: int) -> Tensor:
    """The exporter's output (1, N, 5 + K) -> boxes xyxy in shares of the input; cells row by row, level by level."""
    at = torch.cat([_cells(side // stride, stride) for stride in (8, 16, 32)])
    centre, size = (raw[..., :2] + at[:, :2]) * at[:, 2:], raw[..., 2:4].exp() * at[:, 2:]
    return torch.cat([(centre - size / 2) / side, (centre + size / 2) / side, raw[..., 4:]], dim=-1)


def _cells(count: int, stride: int) -> Tensor:
    """(count * count, 3): column, row and stride of every cell, row by row."""
    steps = torch.arange(count, dtype=torch.float32)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([columns, rows, torch.full_like(rows, stride)], dim=-1).flatten(0, 1)


def _class_map(expected: Tensor, side: int) -> Tensor:
    """Decoded answers -> root of each class' surest score at every cell of stride 16, (1, h, w, K)."""
    middle, start, surest = side // 16, 0, None
    for stride in (8, 16, 32):
        cells = side // stride
        level = expected[:, start : start + cells**2]
        start += cells**2
        scores = (level[..., 4:5] * level[..., 5:]).unflatten(1, (cells, cells))
        if stride == 8:
            scores = scores.unflatten(2, (middle, 2)).unflatten(1, (middle, 2)).amax((2, 4))
        elif stride == 32:
            scores = scores.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        surest = scores if surest is None else torch.maximum(surest, scores)
    assert surest is not None
    return surest.sqrt()


def _pixels(side: int) -> Tensor:
    """Two random images (2, 3, S, S) of 0..255 with large and small structure, the same every time."""
    generator = torch.Generator().manual_seed(0)
    large = torch.rand(2, 3, 8, 8, generator=generator)
    large = torch.nn.functional.interpolate(large, size=(side, side), mode="bilinear", align_corners=False)
    return (0.8 * large + 0.2 * torch.rand(2, 3, side, side, generator=generator)) * 255


def _last(image_map: np.ndarray) -> Tensor:
    return torch.from_numpy(image_map).permute(0, 2, 3, 1)


def _deviation(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max() / (expected.max() - expected.min()))


__all__ = ["efficientnet_lite_deviations", "efficientnet_lite_graph", "yolox_deviations"]
