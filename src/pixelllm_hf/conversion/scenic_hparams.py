"""Hyper-parameters of the official implementation (as JSON) -> our configs and peft's LoRA config.

Only what a run of the reference states is taken from its hyper-parameters; everything else keeps the released
recipe's value, which is the default of our configs (official.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import T5Config

from ..extras import require
from ..modeling.configuration_heads import PixelLLMMaskHeadConfig, PixelLLMPointHeadConfig, PixelLLMProposalHeadConfig
from ..modeling.configuration_language import PixelLLMPrefixDecoderConfig
from ..modeling.configuration_pixelllm import PixelLLMConfig, PixelLLMPromptConfig
from ..modeling.configuration_towers import PixelLLMEva02TowerConfig, PixelLLMSamTowerConfig
from ..modeling.configuration_vision import PixelLLMVisionConfig

if TYPE_CHECKING:
    from peft import LoraConfig

Hparams = Mapping[str, Any]

# T5 sizes by the official name of the text decoder, for hyper-parameters that do not spell them out.
_T5_SIZES = {
    "flan_t5_xl": {
        "emb_dim": 2048,
        "num_heads": 32,
        "num_encoder_layers": 24,
        "num_decoder_layers": 24,
        "head_dim": 64,
        "mlp_dim": 5120,
    },
}
_PREFIX_DECODER_NAME = "git"
_NONE = "none"
_LORA_MODULES = ("q", "k", "v", "o")


@dataclass(frozen=True)
class ScenicLora:
    """The LoRA of an official T5: rank, scale and adapted projections of the encoder and of the decoder.

    The scale multiplies the product of the factors as it is (official.md#t5); peft divides by the rank, hence
    `lora_alpha = scale * rank`. A side of rank 0 has no LoRA.
    """

    encoder_rank: int = 0
    decoder_rank: int = 0
    encoder_scale: float = 2.0
    decoder_scale: float = 2.0
    encoder_modules: tuple[str, ...] = ("q", "v")
    decoder_modules: tuple[str, ...] = ("q", "v")

    @classmethod
    def from_hparams(cls, hparams: Hparams) -> ScenicLora:
        """hparams of the text head, e.g. `{"encoder_lora_rank": 32, "encoder_lora_modules": "q,v", ...}`."""
        values: dict[str, Any] = {}
        for side in ("encoder", "decoder"):
            values[f"{side}_rank"] = int(hparams.get(f"{side}_lora_rank", 0) or 0)
            values[f"{side}_scale"] = float(hparams.get(f"{side}_lora_scale", 2.0))
            values[f"{side}_modules"] = tuple(
                _lora_module(name.strip())
                for name in str(hparams.get(f"{side}_lora_modules", "q,v")).split(",")
                if name.strip()
            )
        return cls(**values)

    def __bool__(self) -> bool:
        return bool(self.encoder_rank or self.decoder_rank)

    def delta(self, source: str, flat: Mapping[str, Any]) -> Tensor:
        """What LoRA adds to the kernel called source, (in, out) as the kernel itself."""
        left, right = (torch.as_tensor(flat[f"{source}_{side}_lora"]) for side in ("left", "right"))
        return (self.encoder_scale if "/encoder/" in source else self.decoder_scale) * (left @ right)

    def peft_config(self, **overrides: Any) -> LoraConfig:
        """peft's config of the same LoRA, for the whole model or for its language model alone."""
        require("peft", what="LoRA")
        from peft import LoraConfig

        sides = [
            (rf"body\.{side}\..*\.({'|'.join(modules)})", rank, scale)
            for side, modules, rank, scale in (
                ("encoder", self.encoder_modules, self.encoder_rank, self.encoder_scale),
                ("decoder", self.decoder_modules, self.decoder_rank, self.decoder_scale),
            )
            if rank
        ]
        if not sides:
            raise ValueError(
                f"a LoRA config needs a rank above 0 on at least one side, got {self}. "
                "Without LoRA, use the plain model."
            )
        rank = max(rank for _, rank, _ in sides)
        settings: dict[str, Any] = {
            "r": rank,
            "lora_alpha": max(scale * rank for _, rank, scale in sides),
            "target_modules": rf"(.*\.)?({'|'.join(pattern for pattern, _, _ in sides)})",
            "rank_pattern": {pattern: rank for pattern, rank, _ in sides},
            "alpha_pattern": {pattern: scale * rank for pattern, rank, scale in sides},
            "lora_dropout": 0.0,
            "bias": "none",
        }
        return LoraConfig(**(settings | overrides))


def lora_config(hparams: Hparams, **overrides: Any) -> LoraConfig:
    """peft's LoRA config from the hyper-parameters of the official text head."""
    return ScenicLora.from_hparams(hparams).peft_config(**overrides)


def sam_config(hparams: Hparams) -> PixelLLMSamTowerConfig:
    """hparams of `sam_vit`; its list of *windowed* blocks becomes our list of global ones."""
    values = _renamed(
        hparams,
        embed_dim="hidden_size",
        depth="num_hidden_layers",
        num_heads="num_attention_heads",
        mlp_ratio="mlp_ratio",
        patch_size="patch_size",
        window_size="window_size",
        out_chans="output_channels",
        img_size="pretrain_image_size",
        drop_path_rate="drop_path_rate",
    )
    if "window_block_indexes" in hparams:
        depth = values.get("num_hidden_layers", PixelLLMSamTowerConfig().num_hidden_layers)
        values["global_attn_indexes"] = tuple(sorted(set(range(depth)) - set(hparams["window_block_indexes"])))
    return PixelLLMSamTowerConfig(**values)


def eva02_config(hparams: Hparams) -> PixelLLMEva02TowerConfig:
    """hparams of `eva02_vit`; the width of its MLP is a ratio that is rounded down."""
    if not hparams.get("use_ln_post", True):
        raise ValueError("eva02_vit must have its final LayerNorm, got use_ln_post=False, which no released model has.")
    values = _renamed(
        hparams,
        embed_dim="hidden_size",
        depth="num_hidden_layers",
        num_heads="num_attention_heads",
        patch_size="patch_size",
        pretrain_img_size="pretrain_image_size",
        drop_path_rate="drop_path_rate",
    )
    width = values.get("hidden_size", PixelLLMEva02TowerConfig().hidden_size)
    values["intermediate_size"] = int(width * hparams.get("mlp_ratio", 8 / 3))
    return PixelLLMEva02TowerConfig(**values)


def prompt_config(
    adapter: Hparams, encoder: Hparams | None = None, two_way: Hparams | None = None
) -> PixelLLMPromptConfig:
    """hparams of `prompt_adapter`, of `prompt_encoder` and of the two-way transformers, where they are given apart."""
    values = _renamed(
        {**(two_way or {}), **adapter},
        transformer_dim="hidden_size",
        depth="num_hidden_layers",
        num_heads="num_attention_heads",
        mlp_dim="intermediate_size",
        attention_downsample_rate="attention_downsample_rate",
        num_outputs="num_tokens",
        output_dim="output_dim",
        input_embedding_dim="embed_dim",
    )
    return PixelLLMPromptConfig(**(values | _renamed(encoder or {}, embed_dim="embed_dim")))


def t5_config(hparams: Hparams) -> T5Config:
    """hparams of the T5 text head, its sizes spelled out or known by `text_decoder_name`."""
    activations = list(hparams.get("mlp_activations", ["gelu", "linear"]))
    if activations != ["gelu", "linear"] or hparams.get("logits_via_embedding", False):
        raise ValueError(
            f"the T5 must have a gated GELU and its own output layer, got mlp_activations={activations}, "
            f"logits_via_embedding={hparams.get('logits_via_embedding')}. Use a T5 v1.1 or Flan-T5."
        )
    sizes = {**_T5_SIZES.get(hparams.get("text_decoder_name", ""), {}), **hparams}
    values = _renamed(
        sizes,
        vocab_size="vocab_size",
        emb_dim="d_model",
        num_heads="num_heads",
        num_encoder_layers="num_layers",
        num_decoder_layers="num_decoder_layers",
        head_dim="d_kv",
        mlp_dim="d_ff",
        dropout_rate="dropout_rate",
        rel_buckets="relative_attention_num_buckets",
        rel_max_distance="relative_attention_max_distance",
    )
    if lacking := [name for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers") if name not in values]:
        raise ValueError(
            f"hyper-parameters of the T5 must give its sizes, but {', '.join(lacking)} cannot be told from "
            f"{sorted(hparams)}. Spell the sizes out or give a known text_decoder_name ({', '.join(_T5_SIZES)})."
        )
    values |= {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    return T5Config(**values)


def prefix_decoder_config(hparams: Hparams) -> PixelLLMPrefixDecoderConfig:
    """hparams of the GIT-style text head, with the ids of its text if they are given.

    The reference's MLP is always four times as wide as the model.
    """
    if hparams.get("out_feat_fuse_method"):
        raise ValueError(
            "the text head must give the states of its last layer, got out_feat_fuse_method="
            f"{hparams['out_feat_fuse_method']!r}, which no released model has."
        )
    values = _renamed(
        hparams,
        vocab_size="vocab_size",
        hidden_size="hidden_size",
        num_heads="num_attention_heads",
        num_hidden_layers="num_hidden_layers",
        max_caption_length="max_position_embeddings",
        begin_token_id="bos_token_id",
        end_token_id="eos_token_id",
    )
    if "hidden_size" in values:
        values["intermediate_size"] = 4 * values["hidden_size"]
    if "bos_token_id" in values:
        values["decoder_start_token_id"] = values["bos_token_id"]
    return PixelLLMPrefixDecoderConfig(**values)


def point_head_config(hparams: Hparams) -> PixelLLMPointHeadConfig:
    """hparams of the point predictor; the released recipe's pre-norm and GELU are the only ones we have."""
    if not hparams.get("pre_norm", True) or hparams.get("mlp_activation", "gelu") != "gelu":
        raise ValueError(
            f"the point predictor must have pre_norm and GELU, got {dict(hparams)}: no released model differs."
        )
    values = _renamed(
        hparams,
        hidden_dim="hidden_size",
        depth="num_layers",
        num_output_points="points_per_token",
        num_classes="num_classes",
    )
    return PixelLLMPointHeadConfig(**values)


def mask_head_config(adapter: Hparams, decoder: Hparams, two_way: Hparams | None = None) -> PixelLLMMaskHeadConfig:
    """hparams of `mask_adapter`, of `mask_decoder` and of the two-way transformers, where they are given apart."""
    if adapter.get("num_outputs", 2) != 2 or not adapter.get("gating", True):
        raise ValueError(
            f"the mask adapter must have a gate and two tokens, one for each corner of a box, got {dict(adapter)}: no "
            "released model differs."
        )
    shared = _renamed(
        {**(two_way or {}), **decoder},
        transformer_dim="hidden_size",
        num_heads="num_attention_heads",
        mlp_dim="intermediate_size",
        attention_downsample_rate="attention_downsample_rate",
        depth="decoder_layers",
        num_multimask_outputs="num_multimask_outputs",
        iou_head_depth="head_layers",
        iou_head_hidden_dim="head_hidden_size",
    )
    return PixelLLMMaskHeadConfig(**(shared | _renamed(adapter, depth="adapter_layers")))


def proposal_head_config(hparams: Hparams) -> PixelLLMProposalHeadConfig:
    """hparams of `box_decoder`; those of the whole model that concern it may be among them.

    `score_thresh` is left out: the reference never reads it (official.md#detector).
    """
    if hparams.get("num_classes", -1) > 0 or hparams.get("roi_num_classes", 1) != 1:
        raise ValueError(
            f"the box decoder must know one class, object, got num_classes={hparams.get('num_classes')}, "
            f"roi_num_classes={hparams.get('roi_num_classes')}: no released model differs."
        )
    names = dict(
        strides="strides",
        fpn_range="level_ranges",
        head_num_layers="num_tower_layers",
        head_out_channels="tower_channels",
        pre_nms_topk_test="pre_nms_topk",
        post_nms_topk_test="post_nms_topk",
        pre_nms_topk_train="pre_nms_topk_train",
        post_nms_topk_train="post_nms_topk_train",
        iou_thresh="proposal_nms_threshold",
        roi_fc_dims="roi_hidden_sizes",
        roi_matching_threshold="roi_matching_thresholds",
        roi_samples_per_image="roi_samples",
        roi_positive_fraction="roi_positive_fraction",
        roi_nms_threshold="detection_nms_threshold",
        roi_score_threshold="detection_score_threshold",
        roi_post_nms_num_detections="max_detections",
        match_gt_thresh="caption_matching_threshold",
        num_text_proposals="num_caption_proposals",
        mult_caption_score="multiply_caption_score",
        hm_weight="center_loss_weight",
        reg_weight="distance_loss_weight",
    )
    pyramid = _renamed(hparams.get("fpn_args", {}), in_dim="pyramid_input_size", out_channels="pyramid_channels")
    return PixelLLMProposalHeadConfig(**_renamed(hparams, **names), **pyramid)


def pixelllm_config(hparams: Hparams) -> PixelLLMConfig:
    """hparams of a whole model: `{"model": …}`, with `t5` and `two_way` sizes beside it unless they are the default."""
    model = hparams["model"]
    eva02, sam = eva02_config(model.get("git_backbone_args", {})), sam_config(model.get("sam_backbone_args", {}))
    canvas_hw = tuple(model.get("git_preprocess_args", {}).get("image_size", (384, 384)))
    sam_canvas_hw = tuple(model.get("sam_preprocess_args", {}).get("image_size", (384, 384)))
    if len({*canvas_hw, *sam_canvas_hw}) != 1:
        raise ValueError(
            f"both towers must see one square canvas, got {canvas_hw} and {sam_canvas_hw}. Set both image_size alike."
        )
    prompt = prompt_config(
        model.get("prompt_adapter_args", {}), model.get("prompt_encoder_args", {}), _only_prompt(hparams.get("two_way"))
    )
    if model.get("text_decoder_name") == _PREFIX_DECODER_NAME:
        ids = {name: model[name] for name in ("vocab_size", "begin_token_id", "end_token_id") if name in model}
        text = prefix_decoder_config({**ids, **model.get("text_decoder_args", {})})
    else:
        text = t5_config(
            {
                "text_decoder_name": model.get("text_decoder_name", ""),
                **hparams.get("t5", {}),
                **model.get("text_decoder_args", {}),
            }
        )
    masks, boxes = None, None
    if model.get("mask_decoder_name", _NONE) != _NONE:
        adapter, decoder = model.get("mask_adapter_args", {}), model.get("mask_decoder_args", {})
        masks = mask_head_config(adapter, decoder, _only_prompt(hparams.get("two_way")))
    if model.get("box_decoder_name", _NONE) != _NONE:
        boxes = proposal_head_config({**hparams, **model, **model.get("box_decoder_args", {})})
    return PixelLLMConfig(
        vision_config=PixelLLMVisionConfig(image_size=canvas_hw[0], towers=[eva02, sam]),
        prompt_config=prompt,
        text_config=text,
        point_head_config=point_head_config(model.get("point_predictor_args", {})),
        mask_head_config=masks,
        proposal_head_config=boxes,
        mask_loss_weight=model.get("mask_loss_weight", 1.0),
        detection_loss_weight=model.get("det_loss_weight", 1.0),
        point_loss_weight=model.get("point_loss_weight", 0.1),
        text_loss_weight=model.get("text_loss_weight", 1.0),
        label_smoothing=model.get("label_smooth", 0.1),
    )


def _only_prompt(two_way: Hparams | None) -> Hparams:
    """The shared sizes of the two-way transformers without those of the mask decoder's."""
    return {name: (two_way or {})[name] for name in ("num_heads", "mlp_dim") if name in (two_way or {})}


def _renamed(hparams: Hparams, **names: str) -> dict[str, Any]:
    return {ours: hparams[theirs] for theirs, ours in names.items() if theirs in hparams}


def _lora_module(name: str) -> str:
    if name not in _LORA_MODULES:
        raise ValueError(f"a LoRA module must be one of {', '.join(_LORA_MODULES)}, got {name!r}. Write e.g. 'q,v'.")
    return name


__all__ = [
    "ScenicLora",
    "eva02_config",
    "lora_config",
    "mask_head_config",
    "pixelllm_config",
    "point_head_config",
    "prefix_decoder_config",
    "prompt_config",
    "proposal_head_config",
    "sam_config",
    "t5_config",
]
