"""Parity of the prompt path, the language model, the point head and the losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...modeling.box_ops import points_to_boxes
from ...modeling.language_model import make_visual_projection
from ...modeling.language_prefix_decoder import PrefixDecoderLanguageModel
from ...modeling.language_t5 import T5PrefixLanguageModel
from ...modeling.losses import has_location, label_loss, point_loss
from ...modeling.point_head import PointHead
from ...modeling.prompt_encoder import PromptEncoder
from ...modeling.prompt_feature_extractor import PromptFeatureExtractor
from ..scenic import convert_module
from ..scenic_hparams import ScenicLora, point_head_config, prefix_decoder_config, prompt_config, t5_config
from .detection import proposal_losses
from .golden import Computed, Golden
from .masks import mask_losses
from .token_selection import select_tokens


def prompt_encoder(golden: Golden) -> Computed:
    encoder = PromptEncoder(prompt_config({}, golden.hparams)).eval()
    encoder.load_state_dict(convert_module("prompt_encoder", golden.params))
    size_hw = tuple(golden.hparams["image_size"])
    points, labels = golden.inputs["points"], golden.inputs["labels"]
    height, width = golden.hparams["dense_pe_size"]
    return Computed(
        {
            "points_unpadded": encoder.embed_points(points, labels, image_size_hw=size_hw, pad=False),
            "points_padded": encoder.embed_points(points, labels, image_size_hw=size_hw, pad=True),
            "boxes": encoder.embed_boxes(golden.inputs["boxes"], image_size_hw=size_hw),
            "dense_pe": encoder.dense_positions(height, width),
            "no_mask": encoder.no_mask,
        }
    )


def prompt_adapter(golden: Golden) -> Computed:
    """One image, every prompt valid; the dense outputs are computed by nothing but this check."""
    inputs = golden.inputs
    image = inputs["image_embeddings"][None]
    extractor = PromptFeatureExtractor(prompt_config(golden.hparams), image.shape[-1]).eval()
    extractor.load_state_dict(convert_module("prompt_adapter", golden.params))
    sparse = inputs["sparse_prompt_embeddings"][None]
    arguments = (
        image,
        inputs["image_pe"],
        sparse,
        inputs["dense_prompt_embeddings"],
        torch.ones(sparse.shape[:2]).bool(),
    )
    return Computed({"sparse_outputs": extractor(*arguments)[0], "dense_outputs": dense_outputs(extractor, *arguments)})


def dense_outputs(
    extractor: PromptFeatureExtractor,
    image_map: Tensor,
    image_pe: Tensor,
    sparse: Tensor,
    dense: Tensor,
    prompt_mask: Tensor,
) -> Tensor:
    """The map as each prompt leaves it, (R,h,w,C); no released recipe uses it."""
    image_of_row = prompt_mask.nonzero()[:, 0]
    _, image = extractor._attend(*extractor._projected(image_map, image_pe), sparse[prompt_mask], dense, image_of_row)
    return extractor.dense_output_mlp(image).unflatten(1, image_map.shape[1:3])


def visual_project_layers(golden: Golden) -> Computed:
    features = golden.inputs["x"]
    projection = make_visual_projection(features.shape[-1], golden.hparams["emb_dim"])
    projection.load_state_dict(convert_module("visual_project_layers", golden.params))
    return Computed({"y": projection(features)})


def t5_text_head(golden: Golden) -> Computed:
    """With peft's LoRA as it is trained, and once more with LoRA merged into the weights."""
    from peft import inject_adapter_in_model

    lora = ScenicLora.from_hparams(golden.hparams)
    config = t5_config(golden.hparams)
    visual, context = golden.inputs["visual_features"], golden.inputs["context_tokens"]
    merged = T5PrefixLanguageModel(config, visual.shape[-1]).eval()
    load_text_head(merged, convert_module("textual", golden.params, merge_lora=lora))
    model: Any = merged
    if lora:
        model = inject_adapter_in_model(lora.peft_config(), T5PrefixLanguageModel(config, visual.shape[-1])).eval()
        load_text_head(model, convert_module("textual", golden.params))

    tokens = golden.inputs["text_tokens"]
    computed = Computed()
    encoded, mask = encode(model, visual, context)
    states, logits = decode(model, tokens, encoded, mask)
    computed.add({"encoded": encoded, "text_feats": states, "logits": logits})
    bare_states, bare_logits = decode(model, tokens, *encode(model, visual, None))
    computed.add({"text_feats": bare_states, "logits": bare_logits}, "no_context/")
    merged_encoded = encode(merged, visual, context)
    computed.add({"logits": decode(merged, golden.inputs["text_tokens_eos_filled"], *merged_encoded)[1]}, "eos_filled/")
    return computed


def bert_text_head(golden: Golden) -> Computed:
    """The GIT-style text head, with a prompt beside the visual tokens, and without one."""
    visual, tokens = golden.inputs["visual_features"], golden.inputs["text_tokens"]
    model: Any = PrefixDecoderLanguageModel(prefix_decoder_config(golden.hparams), visual.shape[-1]).eval()
    model.load_state_dict(convert_module("textual", golden.params))
    computed = Computed()
    for prefix, context in (("", golden.inputs["context_tokens"]), ("no_context/", None)):
        states, logits = decode(model, tokens, *encode(model, visual, context))
        computed.add({"text_feats": states, "logits": logits}, prefix)
    return computed


def load_text_head(model: T5PrefixLanguageModel, weights: dict[str, Tensor]) -> None:
    """The weights of the group "textual"; the visual projection, a group of its own, stays as it is."""
    own = {f"visual_projection.{name}": value for name, value in model.visual_projection.state_dict().items()}
    model.load_state_dict(weights | own)


def encode(model: T5PrefixLanguageModel, visual: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """visual (R,V,C), context (R,L) ids padded with 0 -> encoder states (R,V+L,C) and their mask."""
    embeddings, mask = model.embed_prompt(visual, context, None if context is None else context > 0)
    return model.encode(embeddings, mask), mask


def decode(model: T5PrefixLanguageModel, tokens: Tensor, encoded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """tokens (R,T), first BOS -> states (R,T,C), logits (R,T,V), with the reference's masks."""
    states, _ = model.decode(tokens, encoded, mask, decoder_mask=takes_part(tokens))
    return states, model.logits(states)


def takes_part(tokens: Tensor) -> Tensor:
    """Positions whose *next* token is not padding: the reference masks all others out (official.md#t5)."""
    following = torch.cat([tokens[..., 1:], torch.zeros_like(tokens[..., :1])], dim=-1)
    return following > 0


def point_predictor(golden: Golden) -> Computed:
    hparams, features, tokens = golden.hparams, golden.inputs["text_feats"], golden.inputs["text_tokens"]
    head = PointHead(point_head_config(hparams), features.shape[-1]).eval()
    head.load_state_dict(convert_module("point_predictor", golden.params))
    output = head(features)
    sizes_wh = golden.inputs["image_shape_hw"].flip(-1)[:, None, None, None, :]
    pixels = output.coordinates * sizes_wh
    computed = Computed(
        {"point_coords_rel": output.coordinates, "point_coords_abs": pixels, "point_logits": output.logits}
    )
    bos, eos = hparams["begin_token_id"], hparams["end_token_id"]
    for name, ignore in _IGNORE_STRINGS.items():
        keep = select_tokens(tokens, ignore, bos, eos, 0)
        computed.add({f"token_mask/{name}": keep, f"boxes/{name}": points_to_boxes(pixels, keep)})
    return computed


_IGNORE_STRINGS = {
    "begin_end_pad": "begin,end,pad",
    "end_minus1": "end-1",
    "not_end_minus1": "^end-1",
    "text": "text",
}


def losses(golden: Golden) -> Computed:
    """Losses of texts, points, masks and proposals."""
    computed = Computed(mask_losses(golden) | proposal_losses(golden))
    text, eos = golden.below("text/"), golden.hparams["end_token_id"]
    for name in golden.outputs:
        if name.startswith("text/loss"):
            mask = None if "nomask" in name else text["mask"]
            smoothing = float(name.rpartition("smooth")[2])
            loss = text_loss(
                text["logits"], text["tokens"], mask, label_smoothing=smoothing, eos_token_id=eos, pad_token_id=0
            )
            computed.add({name: loss})

    point = golden.below("point/")
    valid = point["pred_valid"].bool() & point["gt_valid"].bool()[..., None]
    # One target per caption counts for each of its tokens; the golden file takes the first token's.
    per_caption = point["gt"][:, :, :1].expand_as(point["gt"])
    computed.add({"point/l1_nonzero_gt_per_caption": official_point_loss(point["pred"], per_caption, valid)})
    for kind in ("l1", "l2", "l1_nonzero"):
        computed.add({f"point/{kind}": official_point_loss(point["pred"], point["gt"], valid, kind)})
    return computed


def official_point_loss(pred: Tensor, target: Tensor, valid: Tensor, kind: str = "l1_nonzero") -> Tensor:
    """The reference's three kinds. Recipes take "l1_nonzero", which is ours: tokens with a location alone count."""
    if kind == "l2":
        error = (pred - target).square().mean((-2, -1))
        return error.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)
    return point_loss(pred, target, valid & has_location(target) if kind == "l1_nonzero" else valid)


def text_loss(
    logits: Tensor,
    tokens: Tensor,
    row_mask: Tensor | None = None,
    *,
    label_smoothing: float,
    eos_token_id: int | list[int] | None,
    pad_token_id: int | None,
) -> Tensor:
    """`label_loss` of the next token: logits (…,T,V), tokens (…,T) as the decoder consumes them."""
    # Shifting the targets and not the logits spares a copy of the logits; the last position predicts nothing.
    targets = F.pad(tokens[..., 1:], (0, 1))
    return label_loss(
        logits, targets, row_mask, label_smoothing=label_smoothing, eos_token_id=eos_token_id, pad_token_id=pad_token_id
    )


__all__ = [
    "bert_text_head",
    "decode",
    "encode",
    "losses",
    "official_point_loss",
    "point_predictor",
    "prompt_adapter",
    "prompt_encoder",
    "t5_text_head",
    "takes_part",
    "text_loss",
    "visual_project_layers",
]
