"""Weights of the official Flax implementation -> our state dict, name by name (official.md#parameter-names).

Conversion is strict in both directions: a name that no rule knows and a name that a rule expects but the checkpoint
lacks are errors which list every such name. The tables below are the whole truth; `{i}` in a name is a running index
(block, layer, token) and every index from 0 to the largest one seen must be there.

    state_dict = convert_pixelllm(flat)                       # flat: {"git_backbone/blocks.0/norm1/scale": array, ...}
    model.load_state_dict(state_dict)                         # our names, strict again
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .scenic_hparams import ScenicLora

# Flax keeps a Linear as (in, out) and a Conv as (kh, kw, in, out); torch wants (out, in) and (out, in, kh, kw). A
# transposed Conv that Flax was not told to mirror runs over its kernel backwards, and torch wants (in, out, kh, kw).
_PERMUTATIONS: dict[str, tuple[int, ...] | None] = {
    "keep": None,
    "transpose": (1, 0),
    "conv": (3, 2, 0, 1),
    "mirrored_conv": (2, 3, 0, 1),
}
_INVERSES: dict[str, tuple[int, ...] | None] = {**_PERMUTATIONS, "conv": (2, 3, 1, 0)}
_MIRRORED = {"mirrored_conv": (0, 1)}  # axes of the official kernel
_SHOWN_NAMES = 40


class ScenicNamesError(ValueError):
    """Names of a checkpoint that do not fit the model; `unknown` and `missing` hold all of them."""

    def __init__(self, part: str, unknown: Iterable[str] = (), missing: Iterable[str] = ()):
        self.part = part
        self.unknown = tuple(sorted(unknown))
        self.missing = tuple(sorted(missing))
        super().__init__(
            f"the names of {part} must be exactly those of the official implementation, but "
            f"{len(self.unknown)} are unknown{_listed(self.unknown)} and {len(self.missing)} are missing"
            f"{_listed(self.missing)}. Check that the checkpoint is complete and of this model, and that names are "
            "joined with '/'."
        )


@dataclass(frozen=True)
class Rule:
    """One tensor: its Flax name, our name, and how its axes move. `adaptable` kernels may carry LoRA factors.

    Its index runs from `first` in steps of `step`, where several kinds of tensors share one numbering.
    """

    source: str
    target: str
    layout: str = "keep"
    adaptable: bool = False
    first: int = 0
    step: int = 1


@dataclass(frozen=True)
class Move:
    """A rule with its index filled in."""

    source: str
    target: str
    layout: str
    adapted: bool = False


def _raw(source: str, target: str | None = None, layout: str = "keep") -> list[Rule]:
    return [Rule(source, target or source.replace("/", "."), layout)]


def _linear(source: str, *, bias: bool = True, layout: str = "transpose", target: str | None = None) -> list[Rule]:
    target = target or source.replace("/", ".")
    rules = [Rule(f"{source}/kernel", f"{target}.weight", layout)]
    return rules + [Rule(f"{source}/bias", f"{target}.bias")] if bias else rules


def _conv(source: str, *, bias: bool = True) -> list[Rule]:
    return _linear(source, bias=bias, layout="conv")


def _norm(source: str, target: str | None = None) -> list[Rule]:
    target = target or source.replace("/", ".")
    return [Rule(f"{source}/scale", f"{target}.weight"), Rule(f"{source}/bias", f"{target}.bias")]


def _sam() -> list[Rule]:
    block = "blocks.{i}"
    return [
        *_conv("patch_embed.proj"),
        *_raw("pos_embed"),
        *_norm(f"{block}/norm1"),
        *_linear(f"{block}/attn/qkv"),
        *_linear(f"{block}/attn/proj"),
        *_raw(f"{block}/attn/rel_pos_h"),
        *_raw(f"{block}/attn/rel_pos_w"),
        *_norm(f"{block}/norm2"),
        *_linear(f"{block}/mlp/lin1"),
        *_linear(f"{block}/mlp/lin2"),
        *_conv("neck/0", bias=False),
        *_norm("neck/1"),
        *_conv("neck/2", bias=False),
        *_norm("neck/3"),
    ]


def _eva02() -> list[Rule]:
    block = "blocks.{i}"
    return [
        *_conv("patch_embed.proj"),
        *_raw("cls_token"),
        *_raw("pos_embed"),
        *_norm(f"{block}/norm1"),
        *_linear(f"{block}/attn/q_proj", bias=False),
        *_linear(f"{block}/attn/k_proj", bias=False),
        *_linear(f"{block}/attn/v_proj", bias=False),
        *_raw(f"{block}/attn/q_bias"),
        *_raw(f"{block}/attn/v_bias"),
        *_linear(f"{block}/attn/proj"),
        *_norm(f"{block}/norm2"),
        *_linear(f"{block}/mlp/w1"),
        *_linear(f"{block}/mlp/w2"),
        *_norm(f"{block}/mlp/ffn_ln"),
        *_linear(f"{block}/mlp/w3"),
        *_norm("ln_post"),
    ]


def _two_way_transformer(at: str) -> list[Rule]:
    rules = []
    layer = f"{at}/layers.{{i}}"
    for attention in (
        f"{layer}/self_attn",
        f"{layer}/cross_attn_token_to_image",
        f"{layer}/cross_attn_image_to_token",
        f"{at}/final_attn_token_to_image",
    ):
        rules += [rule for name in ("q", "k", "v", "out") for rule in _linear(f"{attention}/{name}_proj")]
    rules += [rule for k in (1, 2, 3, 4) for rule in _norm(f"{layer}/norm{k}")]
    return [*rules, *_linear(f"{layer}/mlp/lin1"), *_linear(f"{layer}/mlp/lin2"), *_norm(f"{at}/norm_final_attn")]


def _prompt_encoder() -> list[Rule]:
    # The reference never uses its mask-downscaling stack, so Flax never makes weights for it.
    return [
        *_raw("pe_layer/positional_encoding_gaussian_matrix"),
        # Always four: background point, foreground point, top-left corner, bottom-right corner.
        *(rule for k in range(4) for rule in _raw(f"point_embeddings.{k}.weight")),
        *_raw("not_a_point_embed.weight"),
        *_raw("no_mask_embed.weight"),
    ]


def _prompt_feature_extractor() -> list[Rule]:
    return [
        *_raw("output_tokens.weight"),
        *_linear("image_projection_mlp/layers.0"),
        *_linear("prompt_embedding_projection_mlp/layers.0"),
        *_linear("image_pe_projection_mlp/layers.0"),
        *_two_way_transformer("transformer"),
        *_linear("output_hypernetworks_mlps.{i}/layers.0"),
        *_linear("dense_output_mlp/layers.0"),
    ]


def _visual_projection() -> list[Rule]:
    return [
        Rule("visual_projection.0/kernel", "0.weight", "transpose"),
        Rule("visual_projection.0/bias", "0.bias"),
        *_norm("visual_projection.1", "1"),
    ]


def _point_head() -> list[Rule]:
    return [*_norm("LayerNorm_0", "norm"), *_linear("mlp/layers.{i}")]


def _mask_adapter() -> list[Rule]:
    rules = [*_raw("output_tokens.weight"), *_raw("alpha_output.weight", "alpha")]
    for projection in ("visual_projection_mlp", "textual_projection_mlp"):
        rules += [*_norm(f"{projection}/LayerNorm_0", f"{projection}.norm"), *_linear(f"{projection}/layers.0")]
    return [*rules, *_two_way_transformer("transformer")]


def _mask_decoder() -> list[Rule]:
    return [
        *_raw("iou_token.weight"),
        *_raw("mask_tokens.weight"),
        *_two_way_transformer("transformer"),
        # Transposed convolutions: (kh, kw, out, in) there and (in, out, kh, kw) here, so the moves of a Conv fit them.
        *_conv("output_upscaling/0"),
        *_norm("output_upscaling/1"),
        *_conv("output_upscaling/3"),
        *(rule for k in range(3) for rule in _linear(f"output_hypernetworks_mlps.{{i}}/layers.{k}")),
        *_linear("iou_prediction_head/layers.{i}"),
    ]


def _box_decoder() -> list[Rule]:
    rules = _linear("fpn/simfp_3.0", layout="mirrored_conv")
    for layer in ("simfp_3.1", "simfp_3.2", "simfp_4.0", "simfp_4.1", "simfp_5.1", "simfp_5.2"):
        rules += [*_conv(f"fpn/{layer}", bias=False), *_norm(f"fpn/{layer}.norm")]
    rules += [*_conv("fpn/top_block/p6"), *_conv("fpn/top_block/p7")]

    centernet = "proposal_generator"
    # Every third is a ReLU.
    rules += [replace(rule, first=0, step=3) for rule in _conv(f"{centernet}/bbox_tower/{{i}}")]
    rules += [replace(rule, first=1, step=3) for rule in _norm(f"{centernet}/bbox_tower/{{i}}")]
    rules += [*_conv(f"{centernet}/bbox_pred"), *_conv(f"{centernet}/agn_hm")]
    rules += [Rule(f"{centernet}/scales.{k}/scale", f"{centernet}.scales.{k}") for k in range(5)]
    for layer in ("fc1", "fc2", "cls_score", "bbox_pred"):
        rules += _linear(f"roi_heads/box_head.{{i}}/{layer}")
    return rules


def _t5() -> list[Rule]:
    """The tree of T5X against the one of transformers; ours is `body` (a T5Model) and `lm_head`."""
    table = "token_embedder/embedding"
    rules = [Rule(f"t5_module/{table}", f"body.{name}.weight") for name in ("shared", *_TIED_T5_TABLES)]
    rules.append(Rule("t5_module/decoder/logits_dense/kernel", "lm_head.weight", "transpose"))
    for side, sublayers in _T5_SUBLAYERS.items():
        flax, ours = f"t5_module/{side}", f"body.{side}"
        first_attention = f"{ours}.block.0.layer.0.SelfAttention"
        rules += [
            Rule(f"{flax}/{side}_norm/scale", f"{ours}.final_layer_norm.weight"),
            # One table for all layers; Flax keeps it (heads, buckets), transformers (buckets, heads).
            Rule(f"{flax}/relpos_bias/rel_embedding", f"{first_attention}.relative_attention_bias.weight", "transpose"),
        ]
        for k, (norm, flax_name, our_name, linears) in enumerate(sublayers):
            theirs, here = f"{flax}/layers_{{i}}", f"{ours}.block.{{i}}.layer.{k}"
            rules.append(Rule(f"{theirs}/{norm}/scale", f"{here}.layer_norm.weight"))
            rules += [
                Rule(f"{theirs}/{flax_name}/{a}/kernel", f"{here}.{our_name}.{b}.weight", "transpose", len(b) == 1)
                for a, b in linears.items()
            ]
    return rules


_TIED_T5_TABLES = ("encoder.embed_tokens", "decoder.embed_tokens")
_T5_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_T5_MLP = ("pre_mlp_layer_norm", "mlp", "DenseReluDense", {"wi_0": "wi_0", "wi_1": "wi_1", "wo": "wo"})
_T5_SUBLAYERS: dict[str, list[tuple[str, str, str, dict[str, str]]]] = {
    "encoder": [("pre_attention_layer_norm", "attention", "SelfAttention", _T5_ATTENTION), _T5_MLP],
    "decoder": [
        ("pre_self_attention_layer_norm", "self_attention", "SelfAttention", _T5_ATTENTION),
        ("pre_cross_attention_layer_norm", "encoder_decoder_attention", "EncDecAttention", _T5_ATTENTION),
        _T5_MLP,
    ],
}


def _prefix_decoder() -> list[Rule]:
    """The GIT-style text head, which projects visual tokens itself."""
    theirs, ours = "transformer/encoder/layer.{i}", "layers.{i}"
    linears = {
        "attention/self/query": "attention.query",
        "attention/self/key": "attention.key",
        "attention/self/value": "attention.value",
        "attention/output/dense": "attention.out",
        "intermediate/dense": "lin1",
        "output/dense": "lin2",
    }
    return [
        *_linear("visual_projection.0"),
        *_norm("visual_projection.1"),
        Rule("embedding/words/embedding", "embedding.words.weight"),
        Rule("embedding/positions/embedding", "embedding.positions.weight"),
        *_norm("embedding/layer_norm"),
        *(rule for a, b in linears.items() for rule in _linear(f"{theirs}/{a}", target=f"{ours}.{b}")),
        *_norm(f"{theirs}/attention/output/LayerNorm", f"{ours}.attention_norm"),
        *_norm(f"{theirs}/output/LayerNorm", f"{ours}.mlp_norm"),
        *_linear("output", target="lm_head"),
    ]


# Official parameter group -> (where it lives in our model, its rules).
GROUPS: dict[str, tuple[str, list[Rule]]] = {
    "git_backbone": ("vision_towers.eva02", _eva02()),
    "sam_backbone": ("vision_towers.sam", _sam()),
    "prompt_encoder": ("prompt_encoder", _prompt_encoder()),
    "prompt_adapter": ("prompt_feature_extractor", _prompt_feature_extractor()),
    "visual_project_layers": ("language_model.visual_projection", _visual_projection()),
    "textual": ("language_model", _t5()),
    "point_predictor": ("point_head", _point_head()),
    "mask_adapter": ("mask_head.adapter", _mask_adapter()),
    "mask_decoder": ("mask_head.decoder", _mask_decoder()),
    "box_decoder": ("proposal_head", _box_decoder()),
}
# The group "textual" of the other language family; it has no group "visual_project_layers" beside it.
_PREFIX_DECODER = _prefix_decoder()
# Groups of heads that a checkpoint may lack and a model may leave out.
OPTIONAL_GROUPS = ("mask_adapter", "mask_decoder", "box_decoder")


def convert_pixelllm(
    flat: Mapping[str, Any], *, skip_groups: Iterable[str] = (), merge_lora: ScenicLora | None = None
) -> dict[str, Tensor]:
    """The state dict of `PixelLLMForGroundedGeneration` from the official flat names.

    flat maps names joined with '/' to arrays or tensors. Heads that a model may go without (`OPTIONAL_GROUPS`) are
    converted if they are there and not named in skip_groups. LoRA factors become peft's names, unless merge_lora folds
    them into the weights.
    """
    state_dict = {}
    for group, part in _by_group(flat, skip_groups).items():
        place = GROUPS[group][0]
        converted = convert_module(group, {name: flat[f"{group}/{name}"] for name in part}, merge_lora=merge_lora)
        state_dict.update({f"{place}.{name}": value for name, value in converted.items()})
    return state_dict


def restore_pixelllm(names: Iterable[str], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: tensors by official name and in official layout, from ours (weights, gradients, …) by our names.

    names are all official names of the model; those that ours holds nothing for are left out.
    """
    flat: dict[str, Tensor] = {}
    for group, part in _by_group(names, ()).items():
        place = f"{GROUPS[group][0]}."
        of_part = {name.removeprefix(place): value for name, value in ours.items() if name.startswith(place)}
        flat |= {f"{group}/{name}": value for name, value in restore_module(group, part, of_part).items()}
    return flat


def convert_module(group: str, flat: Mapping[str, Any], *, merge_lora: ScenicLora | None = None) -> dict[str, Tensor]:
    """The state dict of one part from its official names, both without the name of the group itself."""
    moves = name_map(group, flat)
    state_dict = {}
    for move in moves:
        value = torch.as_tensor(flat[move.source])
        if merge_lora is not None and move.adapted:
            value = value + merge_lora.delta(move.source, flat)
        elif merge_lora is not None and _is_lora(move.source):
            continue
        target = move.target if merge_lora is None else move.target.replace(".base_layer.", ".")
        state_dict[target] = _to_ours(value, move.layout)
    return state_dict


def restore_module(group: str, names: Iterable[str], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back for one part, all names without those of the group and of its place in our model."""
    return {
        move.source: _to_official(ours[move.target], move.layout)
        for move in name_map(group, names)
        if move.target in ours
    }


def name_map(group: str, names: Iterable[str]) -> list[Move]:
    """Where every tensor of a part goes; raises `ScenicNamesError` unless names are exactly the expected ones."""
    given = set(names)
    rules = _PREFIX_DECODER if group == "textual" and _is_prefix_decoder(given) else GROUPS[group][1]
    moves = _expand(rules, given)
    expected = {move.source for move in moves}
    if given != expected:
        raise ScenicNamesError(f"{group!r}", unknown=given - expected, missing=expected - given)
    return moves


def _by_group(names: Iterable[str], skip_groups: Iterable[str]) -> dict[str, list[str]]:
    """Names without their group, by group; every group that no model lacks is there, even if empty."""
    skipped = frozenset(skip_groups)
    if not_skippable := skipped - frozenset(OPTIONAL_GROUPS):
        raise ValueError(
            f"skip_groups may name {', '.join(OPTIONAL_GROUPS)} only, got {sorted(not_skippable)}: every other group "
            "is part of the model."
        )
    by_group: dict[str, list[str]] = {group: [] for group in GROUPS if group not in OPTIONAL_GROUPS}
    unknown = []
    for name in names:
        group, _, rest = name.partition("/")
        if group in skipped:
            continue
        if group in GROUPS:
            by_group.setdefault(group, []).append(rest)
        else:
            unknown.append(name)
    if unknown:
        raise ScenicNamesError("the whole model", unknown=unknown)
    if _is_prefix_decoder(by_group["textual"]) and not by_group["visual_project_layers"]:
        del by_group["visual_project_layers"]
    return by_group


def _is_prefix_decoder(names: Iterable[str]) -> bool:
    """Which of the two language families the names of the group "textual" are of."""
    return any(name.startswith(("transformer/", "embedding/", "visual_projection.")) for name in names)


def _to_ours(value: Tensor, layout: str) -> Tensor:
    order = _PERMUTATIONS[layout]
    value = value.flip(_MIRRORED[layout]) if layout in _MIRRORED else value
    return value if order is None else value.permute(order).contiguous()


def _to_official(value: Tensor, layout: str) -> Tensor:
    order = _INVERSES[layout]
    value = value if order is None else value.permute(order).contiguous()
    return value.flip(_MIRRORED[layout]) if layout in _MIRRORED else value


def _expand(rules: list[Rule], given: set[str]) -> list[Move]:
    """Fill the running indices of the rules up to the largest one that a known name has; add LoRA where it is used."""
    seen: dict[str, set[int]] = {}
    adapted = set()
    for rule in rules:
        stem, indexed, _ = rule.source.partition("{i}")
        pattern = _pattern(rule.source)
        for name in given:
            base = re.sub(r"/kernel_(left|right)_lora$", "/kernel", name) if rule.adaptable else name
            if match := pattern.fullmatch(base):
                if indexed:
                    seen.setdefault(stem, set()).add(int(match[1]))
                if base != name:
                    adapted.add(rule.source)
    moves = []
    for rule in rules:
        stem, indexed, _ = rule.source.partition("{i}")
        count = 1 + max(seen.get(stem, {0})) // rule.step if indexed else 1
        for i in range(rule.first, rule.first + count * rule.step, rule.step):
            source, target = (name.replace("{i}", str(i)) for name in (rule.source, rule.target))
            if rule.source not in adapted:
                moves.append(Move(source, target, rule.layout))
                continue
            module = target.removesuffix(".weight")
            moves += [
                Move(source, f"{module}.base_layer.weight", rule.layout, adapted=True),
                Move(f"{source}_left_lora", f"{module}.lora_A.default.weight", "transpose"),
                Move(f"{source}_right_lora", f"{module}.lora_B.default.weight", "transpose"),
            ]
    return moves


def _pattern(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(re.escape("{i}"), r"(\d+)"))


def _is_lora(name: str) -> bool:
    return name.endswith("_lora")


def _listed(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f", … {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f" ({', '.join(names[:_SHOWN_NAMES])}{more})"


__all__ = [
    "GROUPS",
    "OPTIONAL_GROUPS",
    "ScenicNamesError",
    "convert_module",
    "convert_pixelllm",
    "name_map",
    "restore_module",
    "restore_pixelllm",
]
