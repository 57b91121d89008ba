"""Sizes and choices of the heads: points, masks, proposals, targets in answers."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_pixellm import PixelLMCodebookConfig


@strict
class PixelLLMPointHeadConfig(PreTrainedConfig):
    """Per-token point head (official.md#points).

    Args:
        hidden_size: width of the hidden layers.
        num_layers: linear layers in all, the output included.
        points_per_token: 2 are the corners of the word's box, 1 a single point.
        num_classes: the reference's head also gives `num_classes + 1` logits a point, which no loss uses;
            they are kept so that its weights load whole.
        predict_scale: also predict how far off each coordinate is: the scale b of a Laplace distribution around it, in
            0..1 of the image as the coordinate. The point loss is then its negative log-likelihood,
            |error| / b + log b, and not the reference's L1 in canvas pixels. A likelihood has no unit: about 1 suits
            its `point_loss_weight`.
        predict_visual: also predict whether a word has a location at all (`visual_labels` teach it).
        scale_factor: what `generate` multiplies the scales with; visual_temperature, visual_bias: what it divides the
            logits by and then adds, before the sigmoid. Calibration sets them.
    """

    model_type = "pixelllm_point_head"
    base_config_key = "point_head_config"

    hidden_size: int = 512
    num_layers: int = 4
    points_per_token: int = 2
    num_classes: int = 1
    predict_scale: bool = False
    predict_visual: bool = False
    scale_factor: float = 1.0
    visual_temperature: float = 1.0
    visual_bias: float = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("scale_factor", "visual_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be above 0, but it is {getattr(self, name)}. 1 leaves predictions as is."
                )


@strict
class PixelLLMMaskHeadConfig(PreTrainedConfig):
    """Referring segmentation (official.md#masks): the mask adapter and SAM's mask decoder.

    Args:
        hidden_size: width of both; that of SAM's map and of the prompt encoder, and a multiple of 8.
        adapter_layers, decoder_layers: depths of their two-way transformers, which are alike otherwise.
        attention_downsample_rate: their cross-attention works at `hidden_size / attention_downsample_rate`.
        num_multimask_outputs: masks that the decoder can propose besides its single one.
        head_hidden_size, head_layers: of the MLPs that make each mask's filter and predict its overlap.
        text_length, prompt_length: tokens that captions (BOS counted) and text prompts are padded to where masks are
            made. The adapter reads padding too, and what padding says depends on how much of it there is: without one
            length a mask would depend on its neighbours' texts. Longer texts are read whole.
        layer_norm_eps: of the projections and the upscaling.
        transformer_layer_norm_eps: of the two-way transformers.
    """

    model_type = "pixelllm_mask_head"
    base_config_key = "mask_head_config"

    hidden_size: int = 256
    adapter_layers: int = 2
    decoder_layers: int = 2
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    head_hidden_size: int = 256
    head_layers: int = 3
    text_length: int = 40
    prompt_length: int = 40
    layer_norm_eps: float = 1e-6
    transformer_layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


@strict
class PixelLLMProposalHeadConfig(PreTrainedConfig):
    """Dense captioning's detector (official.md#detector): feature pyramid, CenterNet proposals, box heads.

    Args:
        pyramid_channels: width of the five levels of the pyramid.
        pyramid_input_size: twice the width of the upsampled map, whatever the width of the fused map is.
        strides: nominal strides of the levels in pixels, powers of 2 in a row. They say where cells are, even where
            the towers' patches are of another size.
        level_ranges: half-diagonals in pixels of the objects whose centre a level predicts.
        tower_channels, num_tower_layers, tower_groups: the convolutions that all levels share, and their GroupNorm.
        pre_nms_topk, post_nms_topk: cells that may become proposals, and proposals; likewise while training.
        proposal_nms_threshold, detection_nms_threshold: overlaps from which the worse of two boxes is dropped.
        roi_size, roi_hidden_sizes: side of a box's resampled features; widths of the box head.
        roi_matching_thresholds: overlap from which a proposal is an object, one for each stage of box heads (1 to 3).
        roi_samples, roi_positive_fraction: proposals per image that box heads are trained on, and how many of them
            may be objects.
        detection_score_threshold: boxes with this score or less are no detections.
        max_detections: boxes per image.
        caption_matching_threshold: overlap from which a proposal is trained to get its object's caption.
        num_caption_proposals: proposals per image that are captioned while training.
        multiply_caption_score: whether a detection's score counts how likely its caption is.
        center_loss_weight, distance_loss_weight: weights of CenterNet's losses in the detector's.
    """

    model_type = "pixelllm_proposal_head"
    base_config_key = "proposal_head_config"

    pyramid_channels: int = 256
    pyramid_input_size: int = 768
    strides: list[int] | tuple[int, ...] = (8, 16, 32, 64, 128)
    level_ranges: list | tuple = ((0, 40), (32, 80), (64, 160), (128, 320), (256, 50000))
    tower_channels: int = 256
    num_tower_layers: int = 4
    tower_groups: int = 32
    pre_nms_topk: int = 1000
    post_nms_topk: int = 256
    pre_nms_topk_train: int = 2000
    post_nms_topk_train: int = 1000
    proposal_nms_threshold: float = 0.9
    roi_size: int = 7
    roi_hidden_sizes: list[int] | tuple[int, ...] = (1024, 1024)
    roi_matching_thresholds: list[float] | tuple[float, ...] = (0.6,)
    roi_samples: int = 512
    roi_positive_fraction: float = 0.25
    detection_nms_threshold: float = 0.5
    detection_score_threshold: float = 0.05
    max_detections: int = 100
    caption_matching_threshold: float = 0.6
    num_caption_proposals: int = 32
    multiply_caption_score: bool = False
    center_loss_weight: float = 0.5
    distance_loss_weight: float = 1.0
    initializer_range: float = 0.02


@strict
class PixelLLMTowerProposalConfig(PreTrainedConfig):
    """Dense captioning with the boxes that a tower's own detector finds, whatever it calls them. It has no weights.

    Args:
        maps: the tower's detection maps: for each cell a box xyxy in shares of the canvas, whether there is an object,
            and the probability of each class, as in YOLOX's `detections`.
        pre_nms_topk: boxes per image that are looked at, the surest.
        detection_nms_threshold: overlap from which the worse of two boxes is dropped, whatever their classes.
        detection_score_threshold: boxes with this score or less are no detections.
        max_detections, multiply_caption_score, caption_matching_threshold, num_caption_proposals: as in
            `PixelLLMProposalHeadConfig`.
    """

    model_type = "pixelllm_tower_proposals"
    base_config_key = "proposal_head_config"

    maps: list[str] | tuple[str, ...] = ("yolox.detections",)
    pre_nms_topk: int = 300
    detection_nms_threshold: float = 0.5
    detection_score_threshold: float = 0.05
    max_detections: int = 30
    caption_matching_threshold: float = 0.6
    num_caption_proposals: int = 16
    multiply_caption_score: bool = False


PROPOSAL_HEADS = {config.model_type: config for config in (PixelLLMProposalHeadConfig, PixelLLMTowerProposalConfig)}


@strict
class PixelLLMCodebookHeadConfig(PixelLMCodebookConfig):
    """Answers of T5 that point at targets: PixelLM's segmentation codebook.

    Args:
        token_ids: the tokens that each target is written with, those of the deepest scale first. They lie in the
            vocabulary and have weights of their own; a released T5 has room behind its tokenizer's 32100 pieces.
        level_maps: the map that each scale is decoded on, by name: "fused", or a map of a tower. By default the fused
            map is the deepest, and the map that masks are made of (`mask_map`) serves the others.
        target_state: what says what a token means: "predicting", the state that predicts it (as in PixelLM), or
            "consumed", the one that has consumed it (as locations are read of words).
        The rest is as in `PixelLMCodebookConfig`.
    """

    model_type = "pixelllm_codebook_head"
    base_config_key = "codebook_config"

    token_ids: list[int] | tuple[int, ...] = (32100, 32101, 32102, 32103, 32104, 32105)
    level_maps: list[str] | tuple[str, ...] | None = None
    target_state: str = "predicting"


def proposal_head_config(given: Any) -> Any:
    """The config of a proposal head from what was given for it; without a model_type it is the official one."""
    model_type = given.get("model_type") if isinstance(given, dict) else getattr(given, "model_type", None)
    if model_type is None:
        return given
    if model_type not in PROPOSAL_HEADS:
        raise ValueError(
            f"model_type {model_type!r} is no proposal head. Supported as proposal_head_config are: "
            f"{', '.join(PROPOSAL_HEADS)}."
        )
    return PROPOSAL_HEADS[model_type](**given) if isinstance(given, dict) else given


__all__ = [
    "PROPOSAL_HEADS",
    "PixelLLMCodebookHeadConfig",
    "PixelLLMMaskHeadConfig",
    "PixelLLMPointHeadConfig",
    "PixelLLMProposalHeadConfig",
    "PixelLLMTowerProposalConfig",
    "proposal_head_config",
]
