"""Sizes and choices of a PixelLLM: vision towers, prompt, language model, heads."""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .checked_loading import CheckedConfig
from .configuration_pixellm import PixelLMCodebookConfig
from .configuration_presets import bert_sizes, for_tests_sizes, photo_sizes, t5_xl_sizes, tiny_sizes
from .configuration_vision import (
    FUSED,
    PixelLLMBackboneTowerConfig,
    PixelLLMEfficientNetLiteTowerConfig,
    PixelLLMEva02TowerConfig,
    PixelLLMSamTowerConfig,
    PixelLLMVisionConfig,
    PixelLLMYoloxTowerConfig,
)


@strict
class PixelLLMPromptConfig(PreTrainedConfig):
    """Location prompt -> visual tokens (official.md#prompt-feature-extractor).

    Args:
        embed_dim: width of SAM's prompt encoder.
        position_scale: standard deviation of the random frequencies that locations are encoded with when a model is
            made anew. SAM's 1 tells apart points a few percent of the image from each other; on a small grid, less lets
            the two corners of a box find what lies between them.
        hidden_size: width of the two-way transformer.
        attention_downsample_rate: its cross-attention works at `hidden_size / attention_downsample_rate`.
        num_tokens: how many visual tokens the language model sees per prompt.
        output_dim: width of these tokens before they are projected to the language model's width.
        reads_map: whether the language model also reads the cells of the map, projected as for the prompts and told
            their positions: behind an encoder the decoder's cross-attention does, otherwise they are more visual
            tokens. A small model learns to describe and to point much sooner so; the official one does without.
        pools_prompt: whether the mean of the fused map over a prompt's box, through a linear layer and a norm, is added
            to each of its visual tokens: a short way from what is in the box to its name. The official one does
            without.
        pooled_detections: a detection map of the towers, as `yolox.detections`; how sure it is of each class in a
            prompt's box then counts too. None leaves it out, and so does the official model.
        max_points: points that one prompt may have; with the padding point they fill the same number of
            sparse tokens as a box, so that an answer never depends on its neighbours' prompts.
    """

    model_type = "pixelllm_prompt"
    base_config_key = "prompt_config"

    embed_dim: int = 256
    position_scale: float = 1.0
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    attention_downsample_rate: int = 2
    num_tokens: int = 32
    output_dim: int = 1024
    reads_map: bool = False
    pools_prompt: bool = False
    pooled_detections: str | None = None
    max_points: int = 4
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


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
    """Answers of T5 that point at targets: PixelLM's segmentation codebook (spec of PixelLM, section 12).

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


@strict
class PixelLLMPrefixDecoderConfig(PreTrainedConfig):
    """GIT-style text head (official.md#prefix-decoder): one BERT stack over [visual tokens ; prompt ; text], causal.

    The defaults are the released sizes with the ids of BERT's uncased vocabulary.

    Args:
        max_position_embeddings: longest prompt and longest text, each counted from 0.
        dropout_rate: of embeddings, attention probabilities and sublayer outputs.
        visual_norm_eps, embedding_norm_eps, attention_norm_eps, mlp_norm_eps: the reference mixes them.
        bos_token_id, eos_token_id, pad_token_id: [CLS], [SEP] and [PAD]; the text begins with BOS, which is no padding.
    """

    model_type = "pixelllm_prefix_decoder"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 1024
    dropout_rate: float = 0.1
    visual_norm_eps: float = 1e-5
    embedding_norm_eps: float = 1e-8
    attention_norm_eps: float = 1e-5
    mlp_norm_eps: float = 1e-12
    pad_token_id: int = 0
    bos_token_id: int = 101
    eos_token_id: int | list[int] | None = 102
    decoder_start_token_id: int = 101
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02


SEGMENTATION_HEADS = ("codebook", "sam")
TOKEN_STATES = ("consumed", "predicting")  # of which what is known of a token may be read
PREFIX_DECODER = PixelLLMPrefixDecoderConfig.model_type
T5_FAMILY = ("t5", "mt5", "umt5")


def is_language_model(text: PreTrainedConfig) -> bool:
    """Whether a PixelLLM can be made of it: an encoder-decoder of T5's family, our prefix decoder, or what
    transformers' `AutoModelForCausalLM` makes, if it writes and all its layers attend."""
    return text.model_type in (*T5_FAMILY, PREFIX_DECODER) or (
        text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and getattr(text, "is_decoder", True) is not False
        and set(getattr(text, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    )


@strict
class PixelLLMConfig(CheckedConfig, PreTrainedConfig):
    """Sizes and choices of a PixelLLM. `t5_xl()` is the released recipe, `tiny()` the embedded model.

    Args:
        vision_config, prompt_config, text_config, point_head_config: the parts; each a config, a dict or None.
        mask_head_config, proposal_head_config: heads that a model may lack. None means that it does; `{}` is the
            official size, and {"model_type": "pixelllm_tower_proposals"} takes a tower's own boxes as proposals.
        codebook_config: lets answers of T5 point at targets, each with a mask; None or a config likewise.
        segmentation_head: what makes these masks: "codebook", the light decoder (by default), or "sam", the mask
            head's decoder, prompted with what the codebook's tokens say.
        label_smoothing: of the text loss.
        text_loss_weight, point_loss_weight, mask_loss_weight, target_loss_weight, detection_loss_weight: weights of the
            parts in the total (the point loss is in canvas pixels, or has no unit where the point head predicts
            scales).
        giou_loss_weight: of 1 - GIoU of the box that a word's two points span, besides the point loss. The reference
            has none.
        location_state: which state a token's location is read from: the one that has consumed it, as here in the paper,
            or the one that predicts it.
        visual_loss_weight: of the cross entropy of "this word has a location", where the point head predicts that.
    """

    model_type = "pixelllm"
    # Of an output, Trainer gathers the rest as predictions: logits (R,T,V) and coordinates (R,T,P,2).
    keys_to_ignore_at_inference = [
        "loss_parts", "decoder_states", "encoder_last_hidden_state", "encoder_attention_mask", "cache",
        "visual_tokens", "coordinate_scales", "visual_logits",
    ]  # fmt: skip
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=PixelLLMVisionConfig),
        "prompt_config": SubConfigSpec(config_class=PixelLLMPromptConfig),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="t5",
            init_kwargs={"decoder_start_token_id": 0},
        ),
        "point_head_config": SubConfigSpec(config_class=PixelLLMPointHeadConfig),
        "mask_head_config": SubConfigSpec(config_class=PixelLLMMaskHeadConfig, optional=True),
        "proposal_head_config": SubConfigSpec(config_class=PixelLLMProposalHeadConfig, optional=True),
        "codebook_config": SubConfigSpec(config_class=PixelLLMCodebookHeadConfig, optional=True),
    }

    vision_config: dict | PreTrainedConfig | None = None
    prompt_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    point_head_config: dict | PreTrainedConfig | None = None
    mask_head_config: dict | PreTrainedConfig | None = None
    proposal_head_config: dict | PreTrainedConfig | None = None
    codebook_config: dict | PreTrainedConfig | None = None
    segmentation_head: str | None = None
    label_smoothing: float = 0.1
    text_loss_weight: float = 1.0
    point_loss_weight: float = 0.1
    mask_loss_weight: float = 1.0
    target_loss_weight: float = 1.0
    detection_loss_weight: float = 1.0
    giou_loss_weight: float = 0.0
    visual_loss_weight: float = 0.3
    location_state: str = "consumed"
    initializer_range: float = 0.02
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict) and self.text_config.get("model_type") == PREFIX_DECODER:
            # Remote code registers nothing: transformers' own look-up by model_type would not find it there.
            self.text_config = PixelLLMPrefixDecoderConfig(**self.text_config)
        self.proposal_head_config = _proposal_head(self.proposal_head_config)
        if self._auto_class is None:
            # A class of the package, not of code beside weights: it neither needs such code nor saves it.
            kwargs = {name: value for name, value in kwargs.items() if name not in ("auto_map", "custom_pipelines")}
        if self.segmentation_head is not None and self.codebook_config is None:
            self.codebook_config = {}
        super().__post_init__(**kwargs)
        self._check_language_model()
        if self.location_state not in TOKEN_STATES:
            raise ValueError(f"location_state must be {' or '.join(TOKEN_STATES)}, but it is {self.location_state!r}.")
        if self.giou_loss_weight and self.point_head_config.points_per_token != 2:
            raise ValueError(
                f"giou_loss_weight is {self.giou_loss_weight}, but a box has two points and points_per_token is "
                f"{self.point_head_config.points_per_token}. Set giou_loss_weight to 0 or points_per_token to 2."
            )
        self._check_detection_maps()
        if self.codebook_config is not None:
            self.segmentation_head = self.segmentation_head or "codebook"
            self._check_codebook_head()

    @property
    def target_token_ids(self) -> list[int]:
        """The tokens that a target is written with; none if answers point at nothing."""
        return [] if self.codebook_config is None else list(self.codebook_config.token_ids)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's config; for its decoder, of which caches are made, with the decoder's own depth."""
        text = super().get_text_config(decoder=decoder, encoder=encoder)
        if not decoder:
            return text
        depth = getattr(text, "num_decoder_layers", None)
        if depth is not None and depth != text.num_hidden_layers:
            text = copy.deepcopy(text)
            text.num_hidden_layers = depth
        if getattr(text, "sliding_window", None) is not None or getattr(text, "layer_types", None):
            text = copy.deepcopy(text)  # prompts and answers are shorter than windows: nothing of them is forgotten
            text.sliding_window, text.layer_types = None, None
        return text

    def _check_detection_maps(self) -> None:
        head, pooled = self.proposal_head_config, self.prompt_config.pooled_detections
        if pooled is not None and not self.prompt_config.pools_prompt:
            raise ValueError("pooled_detections of prompt_config counts where pools_prompt is on: set that too.")
        if pooled is not None:
            self._check_detections("pooled_detections of prompt_config", [pooled])
        if head is not None and head.model_type == PixelLLMTowerProposalConfig.model_type:
            self._check_detections("maps of proposal_head_config", list(head.maps))

    def _check_detections(self, setting: str, names: list[str]) -> None:
        known = self.vision_config.map_shapes
        if not names or any(name not in known or known[name][0] < 6 for name in names):
            raise ValueError(
                f"{setting} must be detection maps of the towers, not {names}. There are: {', '.join(known)}. Add "
                "detections to output_maps of a pixelllm_yolox_tower."
            )

    def _check_language_model(self) -> None:
        text = self.text_config
        if not is_language_model(text):
            raise ValueError(
                f"model_type {text.model_type!r} is no language model that a PixelLLM can be made of. Supported as "
                f"text_config are: {', '.join((*T5_FAMILY, PREFIX_DECODER))}, and decoder-only models of transformers, "
                "as llama, qwen3, gemma2 or gpt2."
            )
        start, pad = getattr(text, "decoder_start_token_id", None), text.pad_token_id
        if start is not None and pad is not None:
            return
        if text.model_type in T5_FAMILY:
            if pad is None and start is None:
                raise ValueError(
                    "text_config says neither decoder_start_token_id nor pad_token_id, and T5 starts with either. Set "
                    "both; released T5s have 0."
                )
            start = pad if start is None else start  # as T5 is trained
        else:
            ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
            start = start if start is not None else text.bos_token_id if text.bos_token_id is not None else ends[0]
            pad = pad if pad is not None else ends[0] if ends[0] is not None else start
            if start is None:
                raise ValueError(
                    "text_config says neither bos_token_id nor eos_token_id, and an answer starts with one."
                )
        self.text_config = copy.deepcopy(text)  # it is the caller's
        self.text_config.decoder_start_token_id, self.text_config.pad_token_id = start, pad

    def _check_codebook_head(self) -> None:
        head, text = self.codebook_config, self.text_config
        if text.model_type not in T5_FAMILY:
            raise ValueError(
                f"codebook_config needs a T5 as text_config, but that is {text.model_type!r}. Leave the head out."
            )
        if self.segmentation_head not in SEGMENTATION_HEADS:
            raise ValueError(
                f"segmentation_head must be {' or '.join(SEGMENTATION_HEADS)}, but it is {self.segmentation_head!r}."
            )
        if len(set(head.token_ids)) != head.group_size or len(head.token_ids) != head.group_size:
            raise ValueError(
                f"token_ids of codebook_config must be {head.group_size} different ids (scales times tokens per "
                f"scale), but they are {list(head.token_ids)}."
            )
        if not all(0 <= token < text.vocab_size for token in head.token_ids):
            raise ValueError(
                f"token_ids of codebook_config must lie in the language model's vocabulary of {text.vocab_size}, "
                f"but they are {list(head.token_ids)}. Choose ids that the tokenizer leaves free or enlarge vocab_size."
            )
        if head.level_maps is None:
            head.level_maps = [FUSED, *[self.vision_config.mask_map] * (head.num_scales - 1)]
        known = [FUSED, *self.vision_config.map_names]
        if len(head.level_maps) != head.num_scales or not set(head.level_maps) <= set(known):
            raise ValueError(
                f"level_maps of codebook_config must name a map for each of the {head.num_scales} scales, of "
                f"{', '.join(known)}, but it is {list(head.level_maps)}."
            )
        if head.target_state not in TOKEN_STATES:
            raise ValueError(
                f"target_state of codebook_config must be {' or '.join(TOKEN_STATES)}, but it is {head.target_state!r}."
            )
        if self.segmentation_head == "sam" and self.mask_head_config is None:
            raise ValueError(
                "segmentation_head 'sam' is the decoder of the mask head, but mask_head_config is None. Give it a "
                "value, or choose 'codebook'."
            )
        if self.segmentation_head == "sam" and self.mask_head_config.hidden_size != head.hidden_size:
            raise ValueError(
                "with segmentation_head 'sam' the targets are prompts of the mask head's width, but hidden_size is "
                f"{self.mask_head_config.hidden_size} in mask_head_config and {head.hidden_size} in "
                "codebook_config. Set them alike."
            )

    @property
    def level_channels(self) -> list[int]:
        """Channels of the maps that the codebook head's scales are decoded on."""
        vision, head = self.vision_config, self.codebook_config
        shapes = vision.map_shapes
        return [vision.feature_channels if name == FUSED else shapes[name][0] for name in head.level_maps]

    @property
    def head_maps(self) -> list[str]:
        """All maps that the model reads of what its towers see, each once; the fused one is the first."""
        levels = [] if self.codebook_config is None else self.codebook_config.level_maps
        proposals = getattr(self.proposal_head_config, "maps", [])
        return list(dict.fromkeys([*self.prompt_maps, self.vision_config.mask_map, *levels, *proposals]))

    @property
    def prompt_maps(self) -> list[str]:
        """The maps that language is made from; the fused one is the first."""
        pooled = self.prompt_config.pooled_detections
        return [FUSED] if pooled is None else [FUSED, pooled]

    @property
    def pooled_classes(self) -> int:
        """Classes of the detections that are pooled for prompts, 0 if none are."""
        pooled = self.prompt_config.pooled_detections
        return 0 if pooled is None else self.vision_config.map_shapes[pooled][0] - 5

    @property
    def pad_token_id(self) -> int:
        """Of the language model; `Seq2SeqTrainer` pads answers with it."""
        return self.text_config.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int) -> None:
        self.text_config.pad_token_id = value

    @property
    def image_size(self) -> int:
        """Side of the square canvas in pixels."""
        return self.vision_config.image_size

    @classmethod
    def t5_xl(cls, **overrides: Any) -> "PixelLLMConfig":
        """The released recipe: EVA02-L and SAM ViT-H at 384, Flan-T5-XL (official.md).

        Its stages differ in their heads: `t5_xl(mask_head_config={})` has that of referring segmentation at its
        official size, `t5_xl(proposal_head_config={})` that of dense captioning.
        """
        return cls(**(t5_xl_sizes() | overrides))

    @classmethod
    def bert(cls, **overrides: Any) -> "PixelLLMConfig":
        """The released recipe with the GIT-style text head in the place of T5 (section 5.2). Heads as in `t5_xl`."""
        return cls(**(bert_sizes() | overrides))

    @classmethod
    def tiny(cls, **overrides: Any) -> "PixelLLMConfig":
        """The embedded model: the same parts, both heads among them, at a size that trains on two CPU cores."""
        return cls(**(tiny_sizes() | overrides))

    @classmethod
    def photo(cls, **overrides: Any) -> "PixelLLMConfig":
        """For photographs: towers with public weights, EfficientNet-Lite0 for what is there and YOLOX-Nano for where.

        `scripts/convert_towers.py` reads their weights.
        """
        return cls(**(photo_sizes() | overrides))

    @classmethod
    def for_tests(cls, **overrides: Any) -> "PixelLLMConfig":
        """A model of a few thousand weights, with every head, that runs in milliseconds; it knows nothing."""
        return cls(**(for_tests_sizes() | overrides))


def _proposal_head(given: Any) -> Any:
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
    "PixelLLMBackboneTowerConfig",
    "PixelLLMCodebookHeadConfig",
    "PixelLLMConfig",
    "PixelLLMEfficientNetLiteTowerConfig",
    "PixelLLMEva02TowerConfig",
    "PixelLLMMaskHeadConfig",
    "PixelLLMPointHeadConfig",
    "PixelLLMPrefixDecoderConfig",
    "PixelLLMPromptConfig",
    "PixelLLMProposalHeadConfig",
    "PixelLLMSamTowerConfig",
    "PixelLLMTowerProposalConfig",
    "PixelLLMVisionConfig",
    "PixelLLMYoloxTowerConfig",
]
