"""Sizes and choices of a PixelLLM: vision towers, prompt, language model, heads."""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .checked_loading import CheckedConfig
from .configuration_heads import (
    PixelLLMCodebookHeadConfig,
    PixelLLMMaskHeadConfig,
    PixelLLMPointHeadConfig,
    PixelLLMProposalHeadConfig,
    PixelLLMTowerProposalConfig,
    proposal_head_config,
)
from .configuration_language import (
    PREFIX_DECODER,
    T5_FAMILY,
    PixelLLMPrefixDecoderConfig,
    check_language_type,
    language_config,
)
from .configuration_presets import bert_sizes, for_tests_sizes, photo_sizes, t5_xl_sizes, tiny_sizes
from .configuration_towers import FUSED
from .configuration_vision import PixelLLMVisionConfig


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


SEGMENTATION_HEADS = ("codebook", "sam")
TOKEN_STATES = ("consumed", "predicting")  # of which what is known of a token may be read


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
        self.check_part_types("text_config", "proposal_head_config")
        check_language_type(self.text_config)
        if isinstance(self.text_config, dict) and self.text_config.get("model_type") == PREFIX_DECODER:
            # Remote code registers nothing: transformers' own look-up by model_type would not find it there.
            self.text_config = PixelLLMPrefixDecoderConfig(**self.text_config)
        self.proposal_head_config = proposal_head_config(self.proposal_head_config)
        if self._auto_class is None:
            # A class of the package, not of code beside weights: it neither needs such code nor saves it.
            kwargs = {name: value for name, value in kwargs.items() if name not in ("auto_map", "custom_pipelines")}
        if self.segmentation_head is not None and self.codebook_config is None:
            self.codebook_config = {}
        super().__post_init__(**kwargs)
        self.vision_config.check_grids()
        self.text_config = language_config(self.text_config)
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
            # A cache of answers forgets nothing: what a window hides is masked. Some configs would not take None.
            text = copy.deepcopy(text)
            vars(text).update(sliding_window=None, layer_types=["full_attention"] * text.num_hidden_layers)
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
        ends = {text.pad_token_id, text.eos_token_id, text.decoder_start_token_id}
        if taken := sorted(ends & set(head.token_ids)):
            raise ValueError(
                f"token_ids of codebook_config hold {taken}, with which the language model begins, ends or pads. "
                "Choose ids that the tokenizer leaves free."
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
        """The released recipe with the GIT-style text head instead of T5 (paper, section 5.2). Heads as in `t5_xl`."""
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


__all__ = ["PixelLLMConfig", "PixelLLMPromptConfig"]
