"""Released PixelLM checkpoints (LLaVA's layout of names, with LoRA merged or beside it) to our names, strictly.

Names are those of the official implementation's state dict; `docs/paper.md` says what they are. The released files lack
CLIP's weights, which the official program takes from their own checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..modeling.configuration_pixellm import PixelLMConfig
from ..modeling.modeling_pixellm import PixelLMForReasoningSegmentation
from ..modeling.vision_clip import resize_positions

# In the released files, and read by nothing: filters and scores of masks that no loss and no answer uses, the parts of
# SAM's prompt encoder for points and masks, and tables that are computed anew.
_UNREAD = (
    "mask_decoder.output_hypernetworks_mlps.1.",
    "mask_decoder.output_hypernetworks_mlps.2.",
    "mask_decoder.output_hypernetworks_mlps.3.",
    "mask_decoder.iou_prediction_head.",
    "prompt_encoder.mask_downscaling.",
    "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.point_embeddings.",
)
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
_CODEBOOK = {
    "text_hidden_fcs.0.": "target_projection.text_hidden_fcs.",
    "mask_decoder.": "mask_decoder.",
    "prompt_encoder.": "mask_decoder.",
    "image_feature_neck.": "image_feature_neck.",
    "mm_projector.": "mm_projector.",
    "out_mm_projector.": "out_mm_projector.",
}
# Of the neck, a sequence of convolution, norm, convolution, norm.
_NECK = {"0": "0", "1": "0.norm", "2": "1", "3": "1.norm"}
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight$")
_VOCABULARY = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_POSITIONS = "vision_tower.vision_model.embeddings.position_embedding.weight"


class ReleasedNamesError(ValueError):
    """A checkpoint whose names are not those of a released PixelLM; says which."""


def convert_pixellm(
    released: Mapping[str, Tensor],
    config: PixelLMConfig,
    *,
    clip: Mapping[str, Tensor] | None = None,
    lora_scale: float = 2.0,
    class_row: str = "last",
) -> dict[str, Tensor]:
    """The state dict of `PixelLMForReasoningSegmentation(config)` from released names, every one accounted for.

    clip: CLIP's own weights, where the released ones lack them (`vision_model.…`). lora_scale: alpha / r of LoRA
    weights that are not merged, 16 / 8 as released. class_row: how CLIP's positions are resized, "last" as released
    (see `resize_positions`); a table that fits already is left alone. A row for the image's token, which is ours, is
    put behind the released vocabulary where the config has one there. Scales of tokens and levels are no released
    parameters but constants, which our modules begin with.

    Raises ReleasedNamesError for names that are unknown or missing and for tensors of another shape.
    """
    with torch.device("meta"):
        expected = PixelLMForReasoningSegmentation(config).state_dict()
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, value in _merged(released, lora_scale).items():
        plain = name.removeprefix("model.")
        if _COMPUTED.search(plain) or plain.startswith(_UNREAD):
            continue
        target = _our_name(name)
        if target is None or target not in expected:
            unknown.append(name)
        else:
            ours[target] = value
    for name, value in (clip or {}).items():
        target = f"vision_tower.vision_model.{name.removeprefix('vision_model.')}"
        if target in expected:
            ours[target] = value
    if _POSITIONS in ours and ours[_POSITIONS].shape != expected[_POSITIONS].shape:
        ours[_POSITIONS] = resize_positions(ours[_POSITIONS], config.grid_size, class_row=class_row)
    for name in _VOCABULARY:  # the release has no token of its own for what is seen: it is never embedded or written
        if name in ours and len(ours[name]) == config.image_token_id == len(expected[name]) - 1:
            ours[name] = torch.cat([ours[name], ours[name].float().mean(0, keepdim=True).to(ours[name].dtype)])
    codebook = config.codebook_config
    ours["mask_decoder.level_scales"] = torch.full((codebook.num_scales,), 1 / codebook.num_scales)
    ours["target_projection.token_scales"] = torch.full((codebook.tokens_per_scale,), 1 / codebook.group_size)
    _check(ours, expected, unknown)
    return ours


def codebook_weights(released: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state dicts of our `target_projection`, `mask_decoder` and `image_feature_neck`; others are not looked at."""
    parts: dict[str, dict[str, Tensor]] = {"target_projection": {}, "mask_decoder": {}, "image_feature_neck": {}}
    for name, value in released.items():
        target = None if name.removeprefix("model.").startswith(_UNREAD) else _our_name(name)
        part, _, rest = (target or "").partition(".")
        if part in parts:
            parts[part][rest] = value
    return parts


def _our_name(released: str) -> str | None:
    """Our name of a released tensor, None if it is none of a PixelLM's."""
    name = released.removeprefix("model.")
    for prefix, ours in _CODEBOOK.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            if ours == "image_feature_neck.":
                layer, _, parameter = rest.partition(".")
                return f"{ours}{_NECK[layer]}.{parameter}" if layer in _NECK else None
            return ours + rest
    if name.startswith("vision_tower.vision_tower."):
        return (
            f"vision_tower.vision_model.{name.removeprefix('vision_tower.vision_tower.').removeprefix('vision_model.')}"
        )
    if released.startswith(("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")):
        return f"language_model.{released}"
    return None


def _merged(released: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Names without peft's wrapping, W + scale * B A where LoRA weights lie beside W."""
    plain: dict[str, Tensor] = {}
    lora: dict[str, dict[str, Tensor]] = {}
    for name, value in released.items():
        short = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        found = _LORA.match(short)
        if found:
            lora.setdefault(found["module"], {})[found["side"]] = value
        elif ".original_module." in short:  # what peft kept of a module that was trained whole; the trained one counts
            plain.setdefault(short.replace(".original_module.", "."), value)
        else:
            plain[short.replace(".modules_to_save.default.", ".")] = value
    for module, sides in lora.items():
        base = f"{module}.weight"
        if base not in plain or set(sides) != {"A", "B"}:
            raise ReleasedNamesError(
                f"LoRA weights of {module} must be lora_A and lora_B beside {base}, but there are "
                f"{sorted(f'lora_{side}' for side in sides)} and the weight is "
                f"{'there' if base in plain else 'missing'}. Give the base model's weights and the adapter's together."
            )
        a, b = sides["A"], sides["B"]
        if (b.shape[0], a.shape[1]) != tuple(plain[base].shape) or a.shape[0] != b.shape[1]:
            raise ReleasedNamesError(
                f"the LoRA weights of {module} are {tuple(b.shape)} and {tuple(a.shape)} and do not fit its weight "
                f"{tuple(plain[base].shape)}. They are of another base model."
            )
        plain[base] = (plain[base].float() + scale * (b.float() @ a.float())).to(plain[base].dtype)
    return plain


def _check(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor], unknown: Iterable[str]) -> None:
    unknown, missing = sorted(unknown), sorted(expected.keys() - ours.keys())
    if unknown:
        raise ReleasedNamesError(f"{len(unknown)} tensors are none of a PixelLM's, the first is {unknown[0]!r}.")
    if missing:
        hint = " CLIP's weights come from their own checkpoint: give them as clip." if "vision" in missing[-1] else ""
        raise ReleasedNamesError(f"{len(missing)} tensors are missing, the first is {missing[0]!r}.{hint}")
    for name, value in ours.items():
        if value.shape != expected[name].shape:
            raise ReleasedNamesError(
                f"{name} has shape {tuple(value.shape)}, but this config needs {tuple(expected[name].shape)}. "
                "Is it the config of this checkpoint?"
            )


__all__ = ["ReleasedNamesError", "codebook_weights", "convert_pixellm"]
