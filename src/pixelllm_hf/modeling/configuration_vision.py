"""The vision towers together: a list of them, the maps that they give, and which maps are read where."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_towers import (
    FUSED,
    PixelLLMBackboneTowerConfig,
    PixelLLMEva02TowerConfig,
    PixelLLMSamTowerConfig,
    PixelLLMTowerConfig,
    map_name,
    tower_config,
)


@strict
class PixelLLMVisionConfig(PreTrainedConfig):
    """The towers and their fusion: chosen maps on one grid, joined along channels.

    A map is called by its tower's name, or `TOWER.MAP` where the tower gives several. Wherever maps are chosen a
    tower's name stands for all of its maps.

    Args:
        image_size: side of the square canvas in pixels.
        towers: configs of the towers, or dicts with a `model_type` of `TOWER_CONFIGS` or of any backbone that
            transformers knows. None is the paper's pair, EVA02 and SAM.
        fused_maps: what is fused, in this order; None is every map of every tower.
        fused_grid_size: side of the fused map in cells; None is the largest grid among the fused maps.
        standardise: whether each channel of the fused map is standardised by statistics that are saved with the weights
            (see `VisionTowers.set_statistics`), and cut at 8 standard deviations.
        channel_dropout: share of the fused map's channels that an image loses while training, all cells alike; maps of
            plain numbers keep theirs.
        mask_map: the map that masks are made from, or `fused`; None is the last of the fused maps.
    """

    model_type = "pixelllm_vision"
    base_config_key = "vision_config"

    image_size: int = 384
    towers: list | tuple | None = None
    fused_maps: list[str] | tuple[str, ...] | None = None
    fused_grid_size: int | None = None
    standardise: bool = False
    channel_dropout: float = 0.0
    mask_map: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.towers = [tower_config(tower) for tower in self._listed(kwargs)]
        super().__post_init__(**kwargs)
        names = [tower.name for tower in self.towers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"towers must be at least one, each with a name of its own, but their names are {names}.")
        chosen = self.map_names if self.fused_maps is None else self.fused_maps
        self.fused_maps = [name for reference in chosen for name in self._called(reference, "fused_maps")]
        if not self.fused_maps or len(set(self.fused_maps)) < len(self.fused_maps):
            raise ValueError(f"fused_maps must name at least one map and none twice, but it is {list(chosen)}.")
        if self.mask_map != FUSED:
            called = self._called(self.mask_map or self.fused_maps[-1], "mask_map")
            if len(called) != 1:
                raise ValueError(f"mask_map must be one map, but {self.mask_map!r} gives several: {', '.join(called)}.")
            self.mask_map = called[0]

    def check_grids(self) -> None:
        """Raise unless every tower has a cell at least on this canvas. Backbones of transformers say so themselves."""
        for tower in self.towers:
            side = tower.input_size or self.image_size
            for name in () if isinstance(tower, PixelLLMBackboneTowerConfig) else tower.map_names:
                shape = tower.map_shapes[name]
                if shape.cells(side) < 1:
                    raise ValueError(
                        f"tower {tower.name!r} sees {side} x {side} pixels, but one of its cells has {shape.stride}. "
                        "Enlarge image_size, or the tower's input_size."
                    )

    @property
    def weights_notices(self) -> list[str]:
        """What has to stand beside the towers' weights, each once."""
        return list(dict.fromkeys(tower.weights_notice for tower in self.towers if tower.weights_notice))

    @property
    def map_names(self) -> list[str]:
        """All maps of all towers, in order, as they are called in the model's image features."""
        return [map_name(tower, name) for tower in self.towers for name in tower.map_names]

    @property
    def exact_maps(self) -> list[str]:
        """The maps that say in plain numbers where things are: half precision would move them."""
        return [map_name(t, name) for t in self.towers for name in t.map_names if t.has_plain_numbers(name)]

    @property
    def exact_towers(self) -> list[str]:
        """The towers that such maps come from."""
        return [t.name for t in self.towers if any(map(t.has_plain_numbers, t.map_names))]

    @property
    def map_shapes(self) -> dict[str, tuple[int, int]]:
        """Channels and cells per side of every map of every tower on this canvas."""
        shapes: dict[str, tuple[int, int]] = {}
        for tower in self.towers:
            side = tower.input_size or self.image_size
            shapes |= {map_name(tower, name): shape for name, shape in tower.shapes_at(side).items()}
        return shapes

    @property
    def grid_size(self) -> int:
        """Side of the fused map in cells."""
        shapes = self.map_shapes
        return self.fused_grid_size or max(shapes[name][1] for name in self.fused_maps or ())

    @property
    def feature_channels(self) -> int:
        """Channels of the fused map."""
        shapes = self.map_shapes
        return sum(shapes[name][0] for name in self.fused_maps or ())

    @property
    def standardised_channels(self) -> list[bool]:
        """For each channel of the fused map, whether `standardise` and `channel_dropout` are about it."""
        shapes, plain = self.map_shapes, set(self.exact_maps)
        return [name not in plain for name in self.fused_maps or () for _ in range(shapes[name][0])]

    @property
    def mask_map_channels(self) -> int:
        """Channels of the map that masks are made from."""
        assert self.mask_map is not None  # from __post_init__ on
        return self.feature_channels if self.mask_map == FUSED else self.map_shapes[self.mask_map][0]

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        values["towers"] = [tower.to_diff_dict() for tower in self.towers]
        for tower in values["towers"]:
            tower.pop("transformers_version")
        return values

    def _listed(self, kwargs: dict[str, Any]) -> list[Any]:
        """The towers as given, or as configs had them before there was a list: `eva02_config` and `sam_config`."""
        pair = {PixelLLMEva02TowerConfig: "eva02_config", PixelLLMSamTowerConfig: "sam_config"}
        given = {cls: kwargs.pop(key, None) for cls, key in pair.items()}
        if self.towers is None:
            return [_of_family(family, config) for family, config in given.items()]
        if any(config is not None for config in given.values()):
            raise ValueError(
                "towers were given twice: as towers and as eva02_config or sam_config. Leave the latter out."
            )
        return list(self.towers)

    def _called(self, reference: str, where: str) -> list[str]:
        """The maps that a reference stands for."""
        called = [name for name in self.map_names if reference in (name, name.partition(".")[0])]
        if not called:
            raise ValueError(
                f"{where} has {reference!r}, but no map is called so. There are: {', '.join(self.map_names)}."
            )
        return called


def _of_family(family: type[PixelLLMTowerConfig], config: Any) -> Any:
    if isinstance(config, PreTrainedConfig):
        return config
    return {"model_type": family.model_type, **(config or {})}


__all__ = ["PixelLLMVisionConfig"]
