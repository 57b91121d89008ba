"""Sizes and choices of a PixelLM: the segmentation codebook and its light pixel decoder (arXiv 2312.02228)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


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

    @property
    def group_size(self) -> int:
        """Tokens that one target is written with."""
        return self.num_scales * self.tokens_per_scale


__all__ = ["PixelLMCodebookConfig"]
