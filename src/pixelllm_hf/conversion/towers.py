"""Published weights of small convolutional towers -> our state dict, strictly: every tensor has its place and shape.

tower = efficientnet_lite_tower("efficientnet_lite0_imagenet.safetensors")
tower = yolox_tower("yolox_nano.onnx")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..modeling.configuration_towers import PixelLLMEfficientNetLiteTowerConfig, PixelLLMYoloxTowerConfig
from ..modeling.configuration_vision import PixelLLMVisionConfig
from ..modeling.vision_convolutions import TowerConv2d
from ..modeling.vision_efficientnet_lite import EfficientNetLiteTower
from ..modeling.vision_yolox import YoloxTower
from .onnx_file import OnnxFile

_SHOWN = 8
_CLASSIFIER = {"_fc.weight", "_fc.bias"}


class TowerWeightsError(ValueError):
    """A weights file that is not of the tower that was asked for."""


def efficientnet_lite_tower(path: str | Path, config: Any = None) -> EfficientNetLiteTower:
    """EfficientNet-Lite from a safetensors file with the names of the PyTorch port (`_conv_stem.weight`, …)."""
    config = PixelLLMEfficientNetLiteTowerConfig() if config is None else config
    tower = EfficientNetLiteTower(config)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise TowerWeightsError(f"{path} must be a safetensors file, but {error}.") from error
    tower.load_state_dict(convert_efficientnet_lite(tensors, config))
    return tower.eval()


def convert_efficientnet_lite(
    tensors: Mapping[str, Tensor], config: PixelLLMEfficientNetLiteTowerConfig
) -> dict[str, Tensor]:
    """Tensors of the whole classifier -> those of a tower with this config; the classifier's own stay behind."""
    whole = PixelLLMEfficientNetLiteTowerConfig(**{**config.to_dict(), "output_maps": ["head"]})
    with torch.device("meta"):
        expected = {
            _lite_name(name, whole): tensor for name, tensor in EfficientNetLiteTower(whole).state_dict().items()
        }
        wanted = {name: _lite_name(name, whole) for name in EfficientNetLiteTower(config).state_dict()}
    _check({name: tensor for name, tensor in tensors.items() if name not in _CLASSIFIER}, expected)
    return {ours: tensors[theirs] for ours, theirs in wanted.items()}


def _lite_name(name: str, config: PixelLLMEfficientNetLiteTowerConfig) -> str:
    """Our name of a tensor -> that of the PyTorch port, which numbers the blocks of all stages together."""
    part, *where, kind, rest = re.fullmatch(
        r"(stem|head|stages\.(\d+)\.(\d+)\.(\w+))\.(conv|norm)\.(\w+)", name
    ).groups()  # type: ignore[union-attr]
    if where[0] is None:
        conv, norm = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}[part]
    else:
        stage, block, layer = int(where[0]), int(where[1]), where[2]
        conv, norm = {
            "expand": ("_expand_conv", "_bn0"),
            "depthwise": ("_depthwise_conv", "_bn1"),
            "project": ("_project_conv", "_bn2"),
        }[layer]
        prefix = f"_blocks.{sum(config.stage_depths[:stage]) + block}"
        conv, norm = f"{prefix}.{conv}", f"{prefix}.{norm}"
    return f"{conv if kind == 'conv' else norm}.{rest}"


def yolox_tower(path: str | Path, config: Any = None) -> YoloxTower:
    """YOLOX from an ONNX file that the official exporter made, batch norms folded."""
    config = PixelLLMYoloxTowerConfig() if config is None else config
    tower = YoloxTower(config)
    tower.load_state_dict(convert_yolox(OnnxFile.read(path), config))
    return tower.eval()


def convert_yolox(file: OnnxFile, config: PixelLLMYoloxTowerConfig) -> dict[str, Tensor]:
    """Convolutions of the whole detector -> those of a tower with this config.

    The exporter forgets the names of folded convolutions, but keeps the order in which they run, which is the order of
    our modules. The network was trained on BGR; the first convolution is turned so that it reads RGB.
    """
    whole = PixelLLMYoloxTowerConfig(**{**config.to_dict(), "output_maps": ["p3", "p4", "p5", "classes"]})
    with torch.device("meta"):
        convolutions = _convolutions(YoloxTower(whole))
        own = YoloxTower(config).state_dict()
    given = [node.inputs[1:] for node in file.nodes if node.op_type == "Conv"]
    if len(given) != len(convolutions) or any(len(names) != 2 for names in given):
        raise TowerWeightsError(
            f"a YOLOX of this size has {len(convolutions)} convolutions with a bias, but the file has {len(given)}, "
            f"{sum(len(names) != 2 for names in given)} of them without. Take the file of the size in the config."
        )
    tensors, expected = {}, {}
    for (name, convolution), sources in zip(convolutions.items(), given, strict=True):
        for kind, source in zip(("weight", "bias"), sources, strict=True):
            expected[f"{name}.{kind}"] = getattr(convolution, kind)
            if source in file.tensors:
                tensors[f"{name}.{kind}"] = torch.from_numpy(file.tensors[source])
    _check(tensors, expected)
    first = next(iter(tensors))
    tensors[first] = tensors[first].unflatten(1, (4, 3)).flip(2).flatten(1, 2)
    return {name: tensors[name] for name in own}


def tower_tensors(vision_config: PixelLLMVisionConfig, files: Mapping[str, str | Path]) -> dict[str, Tensor]:
    """Weights files by the names of their towers -> tensors by their names in a whole model with these towers."""
    towers = {tower.name: tower for tower in vision_config.towers}
    readers: dict[type, Callable[[str | Path, Any], nn.Module]] = {
        PixelLLMEfficientNetLiteTowerConfig: efficientnet_lite_tower,
        PixelLLMYoloxTowerConfig: yolox_tower,
    }
    tensors: dict[str, Tensor] = {}
    for name, path in files.items():
        if name not in towers or type(towers[name]) not in readers:
            known = ", ".join(tower.name for tower in towers.values() if type(tower) in readers) or "none"
            raise TowerWeightsError(f"no tower {name!r} whose weights can be read. The towers that can: {known}.")
        state = readers[type(towers[name])](path, towers[name]).state_dict()
        tensors |= {f"vision_towers.{name}.{key}": tensor for key, tensor in state.items()}
    return tensors


def _convolutions(tower: nn.Module) -> dict[str, TowerConv2d]:
    return {name: module for name, module in tower.named_modules() if isinstance(module, TowerConv2d)}


def _check(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in expected]
    problems += [
        f"{name} has shape {tuple(given[name].shape)} and not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise TowerWeightsError(
            f"the weights do not fit the tower's config: {'; '.join(problems[:_SHOWN])}{more}. Take the file of the "
            "config's size."
        )


__all__ = [
    "TowerWeightsError",
    "convert_efficientnet_lite",
    "convert_yolox",
    "efficientnet_lite_tower",
    "tower_tensors",
    "yolox_tower",
]
