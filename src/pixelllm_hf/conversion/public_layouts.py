"""Names of published SAM, EVA02 and language model weights -> names of a PixelLLM.

A layout is recognised by a name that it alone has, whatever stands before it (`module.`, `visual.`). `{tower}` in a
target is the tower's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Placement:
    """Where a source tensor goes: `part` (i, n) is the i-th of n equal parts along its first axis."""

    target: str
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Layout:
    """Names of one way to publish a part.

    landmark: the name that tells it. rules: pattern of a name -> targets, the first that fits; a string without
    targets says why the tensor has no use. fills: beginnings of the targets that must all be filled. published: names
    that are other ones today, by those that they are published under.
    """

    name: str
    landmark: str
    rules: tuple[tuple[str, tuple[str, ...] | str], ...]
    fills: tuple[str, ...]
    published: Mapping[str, str] = field(default_factory=dict)

    def prefix_in(self, names: Iterable[str]) -> str | None:
        """What stands before every name, None where the weights are of another layout."""
        return next((name.removesuffix(self.landmark) for name in names if _ends_with(name, self.landmark)), None)

    def place(self, name: str, tower: str) -> tuple[Placement, ...] | str | None:
        """The places of a tensor (its name without the prefix), why it has none, or None for an unknown name."""
        name = self.published.get(name, name)
        for pattern, targets in self.rules:
            if match := re.fullmatch(pattern, name):
                if isinstance(targets, str):
                    return targets
                parts = [match.expand(target.replace("{tower}", tower)) for target in targets]
                if len(parts) == 1:
                    return (Placement(parts[0]),)
                return tuple(Placement(part, (i, len(parts))) for i, part in enumerate(parts))
        return None


def _ends_with(name: str, landmark: str) -> bool:
    return name == landmark or name.endswith(f".{landmark}")


_NO_MASK_PROMPTS = "mask prompts, which a PixelLLM has not"
_ORIGINAL_SAM = Layout(
    "original SAM",
    "image_encoder.patch_embed.proj.weight",
    (
        (r"image_encoder\.(.+)", (r"vision_towers.{tower}.\1",)),
        (r"prompt_encoder\.mask_downscaling\..+", _NO_MASK_PROMPTS),
        (r"prompt_encoder\.(.+)", (r"prompt_encoder.\1",)),
        (r"mask_decoder\.(.+)", (r"mask_head.decoder.\1",)),
        (r"pixel_(mean|std)", "pixel statistics, which are in the config"),
    ),
    ("vision_towers.{tower}.", "prompt_encoder."),
)


def _transformers_sam(mlp_layers: int) -> Layout:
    """mlp_layers: layers between the first and the last of the mask decoder's MLPs, which have names of their own."""
    tower, decoder = r"vision_towers.{tower}", "mask_head.decoder"
    mlps = r"mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.\d+)\."
    transformer = r"mask_decoder\.transformer\."
    return Layout(
        "transformers' SamModel",
        "vision_encoder.patch_embed.projection.weight",
        (
            (r"vision_encoder\.pos_embed", (rf"{tower}.pos_embed",)),
            (r"vision_encoder\.patch_embed\.projection\.(\w+)", (rf"{tower}.patch_embed.proj.\1",)),
            (r"vision_encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", (rf"{tower}.blocks.\1.norm\2.\3",)),
            (r"vision_encoder\.layers\.(\d+)\.((attn|mlp)\..+)", (rf"{tower}.blocks.\1.\2",)),
            (r"vision_encoder\.neck\.conv1\.(\w+)", (rf"{tower}.neck.0.\1",)),
            (r"vision_encoder\.neck\.layer_norm1\.(\w+)", (rf"{tower}.neck.1.\1",)),
            (r"vision_encoder\.neck\.conv2\.(\w+)", (rf"{tower}.neck.2.\1",)),
            (r"vision_encoder\.neck\.layer_norm2\.(\w+)", (rf"{tower}.neck.3.\1",)),
            (
                r"(prompt_encoder\.shared_embedding|shared_image_embedding)\.positional_embedding",
                ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",),
            ),
            (r"prompt_encoder\.point_embed\.(\d)\.weight", (r"prompt_encoder.point_embeddings.\1.weight",)),
            (r"prompt_encoder\.(not_a_point_embed|no_mask_embed)\.weight", (r"prompt_encoder.\1.weight",)),
            (r"prompt_encoder\.mask_embed\..+", _NO_MASK_PROMPTS),
            (rf"{transformer}layers\.(\d+)\.layer_norm(\d)\.(\w+)", (rf"{decoder}.transformer.layers.\1.norm\2.\3",)),
            (rf"{transformer}layer_norm_final_attn\.(\w+)", (rf"{decoder}.transformer.norm_final_attn.\1",)),
            (r"mask_decoder\.upscale_conv1\.(\w+)", (rf"{decoder}.output_upscaling.0.\1",)),
            (r"mask_decoder\.upscale_layer_norm\.(\w+)", (rf"{decoder}.output_upscaling.1.\1",)),
            (r"mask_decoder\.upscale_conv2\.(\w+)", (rf"{decoder}.output_upscaling.3.\1",)),
            (rf"{mlps}proj_in\.(\w+)", (rf"{decoder}.\1.layers.0.\2",)),
            *(
                (rf"{mlps}layers\.{layer}\.(\w+)", (rf"{decoder}.\1.layers.{layer + 1}.\2",))
                for layer in range(mlp_layers)
            ),
            (rf"{mlps}proj_out\.(\w+)", (rf"{decoder}.\1.layers.{mlp_layers + 1}.\2",)),
            (r"mask_decoder\.(.+)", (rf"{decoder}.\1",)),
        ),
        ("vision_towers.{tower}.", "prompt_encoder."),
    )


def sam_layout(names: Iterable[str]) -> tuple[Layout, str] | None:
    """The layout of SAM's weights and what stands before their names; None for other weights."""
    names = list(names)
    numbers = [int(m[1]) for name in names if (m := re.search(r"iou_prediction_head\.layers\.(\d+)\.weight", name))]
    for layout in (_ORIGINAL_SAM, _transformers_sam(max(numbers, default=-1) + 1)):
        if (prefix := layout.prefix_in(names)) is not None:
            return layout, prefix
    return None


_BLOCK = r"blocks\.(\d+)\."
_INTO_BLOCK = r"vision_towers.{tower}.blocks.\1."
_QKV = tuple(f"{_INTO_BLOCK}attn.{name}_proj.weight" for name in "qkv")
_OF_PRETRAINING = "of pre-training or classification"
_EVA02_COMMON: tuple[tuple[str, tuple[str, ...] | str], ...] = (
    (r"cls_token|pos_embed|patch_embed\.proj\.\w+", (r"vision_towers.{tower}.\g<0>",)),
    (rf"{_BLOCK}(norm[12]\.\w+)", (rf"{_INTO_BLOCK}\2",)),
    (rf"{_BLOCK}(attn\.(?:[qkv]_proj\.weight|q_bias|v_bias|proj\.\w+))", (rf"{_INTO_BLOCK}\2",)),
    (rf"{_BLOCK}attn\.qkv\.weight", _QKV),
    (rf"({_BLOCK}attn\.)?(rope|rot_emb)\..+", "rotary angles, which are computed"),
    (r"mask_token|lm_head\.\w+|head\.\w+|logit_scale", _OF_PRETRAINING),
)


def eva02_layout(names: Iterable[str]) -> tuple[Layout, str] | None:
    """The layout of EVA02's weights and what stands before their names; None for other weights."""
    names = list(names)
    # The last norm is before the mean over patches or after it; one of a token is of use here.
    normed = any(_ends_with(name, "norm.weight") and ".blocks." not in f".{name}" for name in names)
    last = (
        (r"norm\.(\w+)", (r"vision_towers.{tower}.ln_post.\1",)),
        (r"fc_norm\.(\w+)", _OF_PRETRAINING if normed else (r"vision_towers.{tower}.ln_post.\1",)),
    )
    original = (
        (rf"{_BLOCK}(mlp\.(?:w[123]|ffn_ln)\.\w+)", (rf"{_INTO_BLOCK}\2",)),
        (rf"{_BLOCK}mlp\.w12\.(\w+)", (rf"{_INTO_BLOCK}mlp.w1.\2", rf"{_INTO_BLOCK}mlp.w2.\2")),
    )
    timm = (
        (rf"{_BLOCK}attn\.([qv])_proj\.bias", (rf"{_INTO_BLOCK}attn.\2_bias",)),
        (rf"{_BLOCK}mlp\.fc1_g\.(\w+)", (rf"{_INTO_BLOCK}mlp.w1.\2",)),
        (rf"{_BLOCK}mlp\.fc1_x\.(\w+)", (rf"{_INTO_BLOCK}mlp.w2.\2",)),
        (rf"{_BLOCK}mlp\.fc1\.(\w+)", (rf"{_INTO_BLOCK}mlp.w1.\2", rf"{_INTO_BLOCK}mlp.w2.\2")),
        (rf"{_BLOCK}mlp\.norm\.(\w+)", (rf"{_INTO_BLOCK}mlp.ffn_ln.\2",)),
        (rf"{_BLOCK}mlp\.fc2\.(\w+)", (rf"{_INTO_BLOCK}mlp.w3.\2",)),
    )
    fills = ("vision_towers.{tower}.",)
    for layout in (
        Layout("original EVA02", "blocks.0.mlp.w3.weight", (*_EVA02_COMMON, *original, *last), fills),
        Layout("timm's EVA02", "blocks.0.mlp.fc2.weight", (*_EVA02_COMMON, *timm, *last), fills),
    ):
        if (prefix := layout.prefix_in(names)) is not None:
            return layout, prefix
    return None


_T5 = Layout(
    "transformers' T5",
    "decoder.block.0.layer.0.SelfAttention.q.weight",
    (
        (r"shared\.weight", ("language_model.body.shared.weight",)),
        (r"(encoder|decoder)\.embed_tokens\.weight", ("language_model.body.shared.weight",)),
        (
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
            "a table that T5 never reads",
        ),
        (r"(encoder|decoder)\.(.+)", (r"language_model.body.\1.\2",)),
        (r"lm_head\.weight", (r"language_model.lm_head.weight",)),
    ),
    ("language_model.body.", "language_model.lm_head."),
)


def t5_layout(names: Iterable[str]) -> tuple[Layout, str] | None:
    """The layout of T5's weights and what stands before their names; None for other weights."""
    prefix = _T5.prefix_in(names)
    return None if prefix is None else (_T5, prefix)


def causal_layout(names: Iterable[str], words: str, body: str) -> tuple[Layout, str] | None:
    """The layout of a decoder-only model of transformers; None for other weights.

    words: the name of its table of words in the whole model. body: what stands there before the names of its layers,
    which some are published without.
    """
    names, computed = list(names), "of attention, which is computed"
    for landmark, into in ((words, ""), (words.removeprefix(f"{body}."), f"{body}.")):
        layout = Layout(
            "transformers' decoder-only model",
            landmark,
            (
                (r"(?:.+\.)?rotary_emb\.inv_freq", f"rotary angles {computed}"),
                (r"(?:.+\.)?(?:attn|attention)\.(?:bias|masked_bias)", f"a causal mask {computed}"),
                (r"lm_head\..+", (r"language_model.body.\g<0>",)),
                (r".+", (rf"language_model.body.{into}\g<0>",)),
            ),
            ("language_model.body.",),
        )
        if (prefix := layout.prefix_in(names)) is not None:
            return layout, prefix
    return None


def named_shapes(shapes: Mapping[str, tuple[int, ...]], layout: Layout, prefix: str) -> Iterator[tuple[str, tuple]]:
    """Targets and the shapes that the source has for them; the tower is called `tower`."""
    for name, shape in shapes.items():
        placements = layout.place(name.removeprefix(prefix), "tower") if name.startswith(prefix) else None
        if isinstance(placements, tuple):
            for placement in placements:
                parts = placement.part[1] if placement.part else 1
                yield placement.target, (shape[0] // parts, *shape[1:]) if shape else shape


__all__ = ["Layout", "Placement", "causal_layout", "eva02_layout", "named_shapes", "sam_layout", "t5_layout"]
