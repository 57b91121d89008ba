"""Sizes and choices of a PixelLM (arXiv 2312.02228): CLIP tower, language model, segmentation codebook."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .checked_loading import CheckedConfig

# Pixel statistics on the 0..255 scale. The released model reads a CLIP tower through SAM's, not through CLIP's.
PIXELLM_MEAN = [123.675, 116.28, 103.53]
PIXELLM_STD = [58.395, 57.12, 57.375]


@strict
class PixelLMCodebookConfig(PreTrainedConfig):
    """The segmentation codebook, and the decoder that makes masks of what its tokens say. The defaults are released.

    Args:
        num_scales: levels of the decoder; each reads a map of its own, the deepest first.
        tokens_per_scale: tokens of the codebook for each scale; a target is written as all of them.
        hidden_size: width of the decoder, a multiple of 8.
        num_hidden_layers, num_attention_heads, intermediate_size, attention_downsample_rate: of the two-way
            transformer of each scale.
        trainable_scales: whether the weights of a group's tokens and of the levels are learnt, as in the paper. In the
            released code they are constants, since they are kept out of the module.
        refinement_alpha: weight of pixels that several targets of an answer claim; 1 for none, as the last released
            revision trains.
        cross_entropy_weight, dice_weight: of the parts of the mask loss.
        layer_norm_eps: of the upscaling; transformer_layer_norm_eps: of the two-way transformers.
    """

    model_type = "pixellm_codebook"
    base_config_key = "codebook_config"

    num_scales: int = 2
    tokens_per_scale: int = 3
    hidden_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    attention_downsample_rate: int = 2
    trainable_scales: bool = True
    refinement_alpha: float = 2.0
    cross_entropy_weight: float = 2.0
    dice_weight: float = 0.5
    layer_norm_eps: float = 1e-6
    transformer_layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        at_least_one(self, "num_scales", "tokens_per_scale", "attention_downsample_rate")
        if self.hidden_size % 8:
            raise ValueError(
                f"hidden_size must be a multiple of 8, an eighth of it makes the masks, but it is {self.hidden_size}."
            )
        if self.refinement_alpha < 0:
            raise ValueError(
                f"refinement_alpha must be 0 or more, a weight beside others of 1, but it is {self.refinement_alpha}."
            )

    @property
    def group_size(self) -> int:
        """Tokens that one target is written with."""
        return self.num_scales * self.tokens_per_scale


@strict
class PixelLMConfig(CheckedConfig, PreTrainedConfig):
    """Sizes and choices of a PixelLM. The defaults are the released 7B model's.

    Args:
        vision_config: transformers' CLIP vision model; its image_size is the side of the canvas in pixels.
        text_config: any causal language model of transformers, LLaMA by default.
        codebook_config: the segmentation codebook and its decoder.
        feature_layers: hidden states of the CLIP tower that are read, counted as transformers counts them (0 are the
            embeddings, -1 is the last block): the first for the language model, and all as the decoder's levels.
        image_token_grid: side of the grid that the tower's map is resized to for the language model; its square is
            the number of tokens of an image.
        projector_factor: width of the projectors' hidden layer in widths of the language model.
        image_token_id: placeholder of each image token in the text.
        codebook_token_ids: the tokens of a target, those of the deepest scale first.
        text_loss_weight, mask_loss_weight: of the parts in the total; the mask loss has weights of its own inside.
        image_mean, image_std: pixel statistics, 0..255 scale, RGB.
    """

    model_type = "pixellm"
    # Of an output, Trainer gathers the rest as predictions: logits (R,T,V). There is no mask for each row.
    keys_to_ignore_at_inference = ["loss_parts", "states", "mask_logits", "row_of_target", "cache"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=CLIPVisionConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
        "codebook_config": SubConfigSpec(config_class=PixelLMCodebookConfig),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    codebook_config: dict | PreTrainedConfig | None = None
    feature_layers: list[int] | tuple[int, ...] = (-2, -11)
    image_token_grid: int = 16
    projector_factor: int = 2
    image_token_id: int = 32008
    codebook_token_ids: list[int] | tuple[int, ...] = (32000, 32001, 32002, 32003, 32004, 32005)
    text_loss_weight: float = 1.0
    mask_loss_weight: float = 1.0
    image_mean: list[float] | tuple[float, ...] = tuple(PIXELLM_MEAN)
    image_std: list[float] | tuple[float, ...] = tuple(PIXELLM_STD)
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.check_part_types("text_config")
        if self.vision_config is None:
            self.vision_config = vit_large_sizes()
        if self.text_config is None:  # Llama's vocabulary, and behind it as many tokens as the release adds
            self.text_config = {"model_type": "llama", "vocab_size": 32009}
        super().__post_init__(**kwargs)
        if self.text_config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise ValueError(
                f"text_config must be a decoder-only language model of transformers, as llama, but its model_type is "
                f"{self.text_config.model_type!r}."
            )
        codebook, layers = self.codebook_config, self.vision_config.num_hidden_layers
        if len(self.feature_layers) != codebook.num_scales:
            raise ValueError(
                f"feature_layers must name a hidden state for each of the codebook's {codebook.num_scales} scales, "
                f"but they are {list(self.feature_layers)}. Change either."
            )
        if not all(-layers - 1 <= layer <= layers for layer in self.feature_layers):
            raise ValueError(
                f"feature_layers must be hidden states of a tower of {layers} blocks, {-layers - 1} to {layers}, but "
                f"they are {list(self.feature_layers)}."
            )
        ids = list(self.codebook_token_ids)
        if len(ids) != codebook.group_size or len(set(ids)) != len(ids):
            raise ValueError(
                f"codebook_token_ids must be {codebook.group_size} different ids (scales times tokens per scale), but "
                f"they are {ids}."
            )
        if min(self.image_token_id, *ids) < 0 or self.image_token_id in ids:
            raise ValueError(
                "image_token_id and codebook_token_ids must be different ids of 0 or more, but they are "
                f"{self.image_token_id} and {ids}. Take those of the tokenizer's tokens."
            )
        at_least_one(self, "image_token_grid", "projector_factor")

    @property
    def image_size(self) -> int:
        """Side of the square canvas in pixels."""
        return self.vision_config.image_size

    @property
    def grid_size(self) -> int:
        """Side of the tower's map in cells."""
        return self.image_size // self.vision_config.patch_size

    @property
    def target_token_ids(self) -> list[int]:
        """The tokens that a target is written with."""
        return list(self.codebook_token_ids)

    @property
    def num_image_tokens(self) -> int:
        """Tokens of an image in the language model's input."""
        return self.image_token_grid**2

    @classmethod
    def for_tests(cls, **overrides: Any) -> "PixelLMConfig":
        """A model of a few thousand weights that runs in milliseconds; it knows nothing."""
        return cls(**(for_tests_sizes() | overrides))


def at_least_one(config: Any, *names: str) -> None:
    """Raise a ValueError that names the first of these numbers that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, but it is {getattr(config, name)}.")


def vit_large_sizes() -> dict[str, Any]:
    """CLIP ViT-L/14 at 448 pixels."""
    return dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        image_size=448,
        projection_dim=768,
    )


def for_tests_sizes() -> dict[str, Any]:
    return dict(
        vision_config=dict(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            patch_size=8,
            image_size=64,
            projection_dim=16,
        ),
        text_config=dict(
            model_type="llama",
            vocab_size=48,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        codebook_config=dict(
            tokens_per_scale=2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
        ),
        feature_layers=(-2, -3),
        image_token_grid=4,
        image_token_id=47,
        codebook_token_ids=(40, 41, 42, 43),
    )


__all__ = ["PixelLMCodebookConfig", "PixelLMConfig"]
