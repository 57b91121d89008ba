"""Which tensor of a new PixelLLM comes from where, checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..modeling.configuration_heads import PixelLLMMaskHeadConfig
from ..modeling.configuration_pixelllm import PixelLLMConfig
from ..modeling.configuration_towers import PixelLLMEva02TowerConfig, PixelLLMSamTowerConfig
from ..modeling.mask_head import SamMaskDecoder
from ..modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from ..modeling.vision_sam import resize_map
from .assembled_config import MASK_DECODER, language_config, output_factor, paper_config, with_language
from .public_layouts import Placement
from .published_backbone import backbone_part
from .published_part import EVA02, LANGUAGE_MODEL, SAM, AssemblyError, Part
from .source_sizes import mask_decoder_sizes
from .weight_sources import DTYPE_NAMES, DTYPES, find_weights

_WORDS, _OUTPUT = "language_model.body.shared.weight", "language_model.lm_head.weight"
_SHOWN = 8
_FLOATS = {name for name, dtype in DTYPES.items() if dtype.is_floating_point}


@dataclass(frozen=True)
class Origin:
    """What a tensor is made of. part: (i, n), the i-th of n parts; factor: what it is multiplied by."""

    kind: str
    name: str
    part: tuple[int, int] | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the result; without an origin it starts anew."""

    dtype: str
    shape: tuple[int, ...]
    origin: Origin | None = None

    @property
    def num_values(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        return self.num_values * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Row:
    """What became of a source tensor."""

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    fate: str  # used, resized or unused
    where: str


@dataclass
class Plan:
    """tensors: of the model. mask_decoder: SAM's, where the model has no mask head to put it into."""

    config: PixelLLMConfig
    parts: dict[str, Part]
    tensors: dict[str, PlannedTensor] = field(default_factory=dict)
    mask_decoder: dict[str, PlannedTensor] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def tensor(self, planned: PlannedTensor, name: str) -> Tensor:
        """A tensor of the result that has an origin; `AssemblyError` where it is not finite."""
        origin = planned.origin
        assert origin is not None
        value = self.parts[origin.kind].source.read(origin.name)
        if origin.part is not None:
            value = value.chunk(origin.part[1])[origin.part[0]]
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise AssemblyError(f"{origin.name} of {origin.kind} is not finite (NaN or infinite). Copy it again.")
        if origin.factor != 1.0:
            value = value.float() * origin.factor
        if tuple(value.shape) != planned.shape:
            value = _resized(value, planned.shape, name)
        return value.to(DTYPES[planned.dtype])


def make_plan(
    *,
    sam: str,
    eva02: str | None,
    lm: str | None,
    backbones: Sequence[str] = (),
    config: PixelLLMConfig | None = None,
    image_size: int = 384,
    heads: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Plan:
    """Where each tensor comes from; what does not fit is one `AssemblyError` with names and shapes.

    config: what the model is to be; by default the paper's, with towers and language model of the sources' sizes.
    heads: of `mask` and `dense`, those that a model without a config has. backbones: of transformers, as further
    towers, or in the place of EVA02 where that is None.
    """
    if eva02 is None and not backbones:
        raise AssemblyError("the model needs EVA02 or another backbone beside SAM, but neither is given.")
    given = {SAM: sam} | ({} if eva02 is None else {EVA02: eva02})
    parts = {kind: Part.of(kind, find_weights(name)) for kind, name in given.items()}
    further = [backbone_part(find_weights(name)) for name in backbones]
    language = None
    if lm is not None:
        source = find_weights(lm)
        language = language_config(source)
        parts[LANGUAGE_MODEL] = Part.of(LANGUAGE_MODEL, source, language)
    if config is None:
        if language is None:
            raise AssemblyError("without a config a language model is needed: its config.json says what it is.")
        config = paper_config(parts, language, image_size, heads, [tower for _, tower in further])
    elif language is not None:
        config = with_language(config, language)
    for kind, family in ((SAM, PixelLLMSamTowerConfig), (EVA02, PixelLLMEva02TowerConfig)):
        if kind not in parts:
            continue
        tower = next((tower.name for tower in config.vision_config.towers if isinstance(tower, family)), None)
        if tower is None:
            raise AssemblyError(f"the config has no tower for {kind}. Its vision_config.towers must list one.")
        parts[kind] = Part(kind, parts[kind].source, parts[kind].layout, parts[kind].prefix, tower)
    names = [tower.name for tower in config.vision_config.towers]
    for part, _ in further:
        if part.tower not in names:
            raise AssemblyError(f"the config has no tower {part.tower!r} for {part.kind}, only {', '.join(names)}.")
        parts[part.kind] = part
    return _planned(Plan(config, parts), dtype, output_factor(language))


def empty_model(config: PixelLLMConfig) -> PixelLLMForGroundedGeneration:
    """The model without memory for its weights."""
    try:
        with torch.device("meta"):
            return PixelLLMForGroundedGeneration(config)
    except ValueError as error:
        raise AssemblyError(f"the parts make no model: {' '.join(str(error).split())}") from error


def _planned(plan: Plan, dtype: torch.dtype, output_factor: float) -> Plan:
    model = empty_model(plan.config)
    in_float32 = tuple(f"{name}." for name in model._keep_in_fp32_modules_strict or ())
    aliases = model.get_expanded_tied_weights_keys()
    for name, tensor in model.state_dict().items():
        if name not in aliases:
            wanted = torch.float32 if name.startswith(in_float32) else dtype
            kind = wanted if tensor.is_floating_point() else tensor.dtype
            plan.tensors[name] = PlannedTensor(DTYPE_NAMES[kind], tuple(tensor.shape))
    extra = {} if plan.config.mask_head_config is not None else _mask_decoder_shapes(plan.parts[SAM])
    problems: list[str] = []
    misfits: set[str] = set()
    for part in plan.parts.values():
        problems += _place(plan, part, aliases, extra, dtype, misfits)
    _put_output_layer(plan, output_factor)
    fills = [(part, beginning.replace("{tower}", part.tower)) for part in plan.parts.values()
             for beginning in part.layout.fills]  # fmt: skip
    for name, planned in plan.tensors.items():
        owner = next((part for part, beginning in fills if name.startswith(beginning)), None)
        if owner is not None and planned.origin is None and name not in misfits:
            problems.append(f"{owner.kind} lacks what {name} of shape {planned.shape} would be made of")
    lacking = [name for name in extra if name not in plan.mask_decoder and name not in misfits]
    problems += [f"SAM lacks what {name} would be made of" for name in lacking]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise AssemblyError(f"the parts do not make the model: {'; '.join(problems[:_SHOWN])}{more}.")
    return plan


def _mask_decoder_shapes(sam: Part) -> dict[str, tuple[int, ...]]:
    given = sam.shapes(MASK_DECODER)
    if not given:
        return {}
    with torch.device("meta"):
        decoder = SamMaskDecoder(PixelLLMMaskHeadConfig(**mask_decoder_sizes(given)))
    return {f"{MASK_DECODER}{name}": tuple(tensor.shape) for name, tensor in decoder.state_dict().items()}


def _place(
    plan: Plan,
    part: Part,
    aliases: Mapping[str, str],
    extra: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    misfits: set[str],
) -> Iterator[str]:
    """Give every tensor of a part its place in the plan; yields what does not fit.

    aliases: names of the model's that are another tensor of it, by that one's. extra: shapes of SAM's mask decoder.
    misfits: gets the names of the model's whose tensor has come and does not fit.
    """
    tables = set(_position_tables(plan.config))
    for name, stored in part.source.tensors.items():
        placements = _placements(part, name)
        if placements is None:
            yield (
                f"{name} of shape {stored.shape} in {part.kind} ({part.layout.name}) has no place in the model"
                f"{_hint(name)}"
            )
            continue
        if isinstance(placements, str):
            plan.rows.append(Row(part.kind, name, stored.shape, stored.dtype, "unused", placements))
            continue
        fate, places = "used", []
        for placement in placements:
            target = aliases.get(placement.target, placement.target)
            into = plan.tensors if target in plan.tensors else plan.mask_decoder if target in extra else None
            if into is None:
                yield f"{name} of shape {stored.shape} in {part.kind}: the model has no {target}{_hint(name)}"
                continue
            wanted = plan.tensors.get(target) or PlannedTensor(DTYPE_NAMES[dtype], extra[target])
            shape = _part_shape(stored.shape, placement.part)
            if DTYPES[wanted.dtype].is_floating_point and stored.dtype not in _FLOATS:
                misfits.add(target)
                yield f"{name} of {part.kind} has numbers of type {stored.dtype}: give weights that are not quantized"
                continue
            if shape != wanted.shape and not (target in tables and _is_table_of(shape, wanted.shape)):
                misfits.add(target)
                yield f"{name} of {part.kind} has shape {stored.shape} where the model's {target} has {wanted.shape}"
                continue
            earlier = into[target].origin if target in into else None
            if earlier is not None:
                if not torch.equal(part.source.read(earlier.name), part.source.read(name)):
                    yield f"{name} and {earlier.name} of {part.kind} are one tensor in the model, but differ"
                fate, places = "unused", [f"the same as {earlier.name}"]
                continue
            if shape != wanted.shape:
                fate = "resized"
            places.append(f"{target} {wanted.shape}" if fate == "resized" else target)
            into[target] = replace(wanted, origin=Origin(part.kind, name, placement.part))
        plan.rows.append(Row(part.kind, name, stored.shape, stored.dtype, fate, ", ".join(places)))


def _put_output_layer(plan: Plan, factor: float) -> None:
    """Where a language model has no output layer of its own, its words are it."""
    words, head = (plan.tensors.get(name) for name in (_WORDS, _OUTPUT))
    if words is None or head is None or words.origin is None:
        return
    origin = head.origin or words.origin
    plan.tensors[_OUTPUT] = replace(head, origin=replace(origin, factor=factor))
    if head.origin is None:
        plan.rows = [
            replace(row, where=f"{row.where}, {_OUTPUT}") if row.name == words.origin.name else row for row in plan.rows
        ]


def _placements(part: Part, name: str) -> tuple[Placement, ...] | str | None:
    if not name.startswith(part.prefix):
        return f"not below {part.prefix!r}"
    return part.layout.place(name.removeprefix(part.prefix), part.tower)


def _hint(name: str) -> str:
    if name.endswith(("attn.norm.weight", "attn.inner_attn_ln.weight")):
        return " (EVA-CLIP's EVA02 has a norm within attention; take the EVA02 of masked image modelling)"
    return ""


def _part_shape(shape: tuple[int, ...], part: tuple[int, int] | None) -> tuple[int, ...]:
    return shape if part is None or not shape else (shape[0] // part[1], *shape[1:])


def _position_tables(config: PixelLLMConfig) -> Iterator[str]:
    """Tables that are resized to another grid anyway when the model runs."""
    for tower in config.vision_config.towers:
        at = f"vision_towers.{tower.name}"
        if isinstance(tower, (PixelLLMSamTowerConfig, PixelLLMEva02TowerConfig)):
            yield f"{at}.pos_embed"
        if isinstance(tower, PixelLLMSamTowerConfig):
            for block in tower.global_attn_indexes:
                yield from (f"{at}.blocks.{block}.attn.rel_pos_{axis}" for axis in "hw")


def _is_table_of(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether only the number of positions differs."""
    return len(shape) == len(wanted) and shape[-1] == wanted[-1] and all(shape)


def _resized(table: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if len(shape) == 4:  # SAM's (1,h,w,C)
        return resize_map(table, (shape[1], shape[2]))
    if len(shape) == 2:  # relative positions (2L-1,C)
        return resize_map(table.unsqueeze(1), (shape[0], 1), mode="bilinear").squeeze(1)
    old, new = round((table.shape[1] - 1) ** 0.5), round((shape[1] - 1) ** 0.5)  # EVA02's (1,1+h*w,C)
    if old * old + 1 != table.shape[1]:
        raise AssemblyError(f"the table for {name} has shape {tuple(table.shape)}, which is no square grid and CLS.")
    grid = resize_map(table[:, 1:].unflatten(1, (old, old)), (new, new)).flatten(1, 2)
    return torch.cat([table[:, :1], grid], dim=1)


def source_folder(plan: Plan) -> Path | None:
    """Where the language model's tokenizer would lie."""
    part = plan.parts.get(LANGUAGE_MODEL)
    return part.source.folder if part is not None else None
