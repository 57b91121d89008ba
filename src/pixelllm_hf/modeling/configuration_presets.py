"""The sizes behind the presets of `PixelLLMConfig`, as the keywords it is made of."""

from __future__ import annotations

from typing import Any


def t5_xl_sizes() -> dict[str, Any]:
    return dict(
        vision_config={"towers": _pair({}, {"frozen": True})},
        text_config=_t5(
            vocab_size=32128, d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, dropout_rate=0.1
        ),
    )


def bert_sizes() -> dict[str, Any]:
    return dict(
        vision_config={"towers": _pair({}, {"frozen": True})}, text_config={"model_type": "pixelllm_prefix_decoder"}
    )


def tiny_sizes() -> dict[str, Any]:
    return dict(
        vision_config={
            "image_size": 160,
            "towers": _pair(
                dict(
                    hidden_size=192,
                    num_hidden_layers=4,
                    num_attention_heads=6,
                    intermediate_size=512,
                    patch_size=16,
                    pretrain_image_size=160,
                    drop_path_rate=0.0,
                ),
                dict(
                    hidden_size=192,
                    num_hidden_layers=4,
                    num_attention_heads=6,
                    patch_size=16,
                    window_size=5,
                    global_attn_indexes=(1, 3),
                    output_channels=128,
                    pretrain_image_size=160,
                    drop_path_rate=0.0,
                ),
            ),
        },
        prompt_config=dict(
            embed_dim=128,
            position_scale=0.35,
            hidden_size=192,
            num_hidden_layers=2,
            num_attention_heads=6,
            intermediate_size=512,
            attention_downsample_rate=1,
            output_dim=192,
        ),
        text_config=_t5(vocab_size=1024, d_model=192, d_kv=32, d_ff=512, num_layers=3, num_heads=6, dropout_rate=0.0),
        point_head_config=dict(hidden_size=192),
        mask_head_config=dict(
            hidden_size=128,
            intermediate_size=256,
            head_hidden_size=128,
            text_length=24,
            prompt_length=24,
        ),
        # Levels of 20, 10, 5, 3 and 2 cells: the first three have the nominal strides 8, 16 and 32 exactly. The two
        # coarsest do not (160 / 3 is not 64), but no object is theirs: its half-diagonal is at most 113 pixels, within
        # the official range of the third level.
        proposal_head_config=dict(
            pyramid_channels=64,
            pyramid_input_size=128,
            tower_channels=64,
            num_tower_layers=2,
            tower_groups=16,
            pre_nms_topk=300,
            post_nms_topk=64,
            pre_nms_topk_train=400,
            post_nms_topk_train=120,
            roi_hidden_sizes=(192, 192),
            roi_samples=64,
            max_detections=20,
            num_caption_proposals=16,
        ),
    )


def photo_sizes() -> dict[str, Any]:
    """Semantic maps, localising maps and what a detector names, on a grid of stride 32; masks on one of stride 16."""
    return dict(
        vision_config={
            "image_size": 320,
            "towers": [
                {
                    "model_type": "pixelllm_efficientnet_lite_tower",
                    "frozen": True,
                    "output_maps": ["stage5", "head"],
                },
                {
                    "model_type": "pixelllm_yolox_tower",
                    "frozen": True,
                    "output_maps": ["p3", "p4", "p5", "classes", "boxes", "detections"],
                },
            ],
            "fused_maps": ["efficientnet_lite", "yolox.p3", "yolox.p4", "yolox.p5", "yolox.classes", "yolox.boxes"],
            "fused_grid_size": 10,
            "standardise": True,
            "channel_dropout": 0.12,
            "mask_map": "yolox.p4",
        },
        prompt_config=dict(
            embed_dim=256,
            position_scale=0.5,
            hidden_size=256,
            num_hidden_layers=2,
            num_attention_heads=8,
            intermediate_size=512,
            output_dim=256,
            reads_map=True,
            pools_prompt=True,
            pooled_detections="yolox.detections",
        ),
        text_config=_t5(
            vocab_size=5120,
            d_model=256,
            d_kv=32,
            d_ff=512,
            num_layers=1,
            num_decoder_layers=3,
            num_heads=8,
            dropout_rate=0.0,
        ),
        mask_head_config=dict(
            adapter_layers=1,
            intermediate_size=512,
            num_multimask_outputs=1,
            text_length=12,
            prompt_length=12,
        ),
        proposal_head_config=dict(model_type="pixelllm_tower_proposals", multiply_caption_score=True),
    )


def for_tests_sizes() -> dict[str, Any]:
    return dict(
        vision_config={
            "image_size": 64,
            "towers": _pair(
                dict(
                    hidden_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=32,
                    patch_size=14,
                    pretrain_image_size=42,
                    drop_path_rate=0.0,
                ),
                dict(
                    hidden_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    window_size=3,
                    global_attn_indexes=(1,),
                    output_channels=16,
                    pretrain_image_size=128,
                    drop_path_rate=0.0,
                ),
            ),
        },
        prompt_config=dict(
            embed_dim=16,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            num_tokens=6,
            output_dim=24,
        ),
        text_config=_t5(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0),
        point_head_config=dict(hidden_size=24),
        mask_head_config=dict(
            hidden_size=16,
            num_attention_heads=2,
            intermediate_size=24,
            head_hidden_size=16,
            text_length=12,
            prompt_length=12,
        ),
        proposal_head_config=dict(
            pyramid_channels=16,
            pyramid_input_size=32,
            tower_channels=16,
            num_tower_layers=1,
            tower_groups=4,
            pre_nms_topk=60,
            post_nms_topk=24,
            pre_nms_topk_train=60,
            post_nms_topk_train=40,
            roi_hidden_sizes=(32, 32),
            roi_samples=24,
            max_detections=6,
            num_caption_proposals=6,
        ),
    )


def _pair(eva02: dict[str, Any], sam: dict[str, Any]) -> list[dict[str, Any]]:
    """The paper's two towers, in the order in which their maps are joined."""
    return [{"model_type": "pixelllm_eva02_tower", **eva02}, {"model_type": "pixelllm_sam_tower", **sam}]


def _t5(**sizes: Any) -> dict[str, Any]:
    """A T5 v1.1 / Flan-T5 text config: gated GELU, BOS and padding share id 0, EOS is 1."""
    return {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **sizes,
    }
