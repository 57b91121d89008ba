"""The released PixelLM checkpoints' names of the codebook's parts, and ours (LLaVA layout, `model.` in front)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# Trained with nothing that reads them: filters and scores of masks that no loss and no answer uses, and the parts of
# SAM's prompt encoder for points and masks.
_UNREAD = (
    "mask_decoder.output_hypernetworks_mlps.1.",
    "mask_decoder.output_hypernetworks_mlps.2.",
    "mask_decoder.output_hypernetworks_mlps.3.",
    "mask_decoder.iou_prediction_head.",
    "prompt_encoder.mask_downscaling.",
    "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.point_embeddings.",
)
_PARTS = {
    "text_hidden_fcs.0.": ("text_hidden_fcs", "text_hidden_fcs."),
    "mask_decoder.": ("mask_decoder", ""),
    "prompt_encoder.": ("mask_decoder", ""),
    "image_feature_neck.": ("image_feature_neck", ""),
}
# Of the neck, a sequence of convolution, norm, convolution, norm.
_NECK = {"0": "0", "1": "0.norm", "2": "1", "3": "1.norm"}


def codebook_weights(released: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state dicts of "text_hidden_fcs", "mask_decoder" and "image_feature_neck" from released names.

    Tensors of other parts are not looked at. The scales of tokens and levels are no released parameters: they are
    constants that our modules begin with.
    """
    parts: dict[str, dict[str, Tensor]] = {name: {} for name, _ in _PARTS.values()}
    for released_name, value in released.items():
        name = released_name.removeprefix("model.")
        if name.startswith(_UNREAD):
            continue
        for prefix, (part, ours) in _PARTS.items():
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                if part == "image_feature_neck":
                    layer, _, parameter = rest.partition(".")
                    rest = f"{_NECK[layer]}.{parameter}"
                parts[part][ours + rest] = value
                break
    return parts


__all__ = ["codebook_weights"]
