"""PixelLM: a question about an image is answered with text and a mask for each of many targets (arXiv 2312.02228)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, initialization as init
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from .checked_loading import CheckedModel
from .codebook_decoder import CodebookDecoderOutput, CodebookPixelDecoder
from .codebook_targets import TargetProjection, find_token_groups
from .configuration_pixellm import PixelLMConfig
from .feature_pyramid import map_neck
from .initialized_layers import InitializesItself
from .language_causal import projection_pattern
from .linear import Linear, with_linear
from .losses import IGNORE_INDEX, LABELS_TAKEN
from .pretrained_pixelllm import ShownToTrainer, blocks_of
from .prompt_rows import check_rows, check_text_mask
from .reasoning_generation import ReasoningGenerationMixin
from .target_masks import target_mask_loss
from .vision_clip import ClipVisionTower, patch_mask
from .vision_towers import check_canvas, normalize_pixels, valid_size_hw


@dataclass
class PixelLMFeatures(ModelOutput):
    """What is seen of B images, once for all their questions.

    image_tokens (B,P,H) for the language model, token_mask (B,P) those of the image and not of its padding,
    level_maps: a map (B,g,g,D) for each level of the decoder, deepest first.
    """

    image_tokens: Tensor | None = None
    token_mask: Tensor | None = None
    level_maps: tuple[Tensor, ...] | None = None


@dataclass
class PixelLMOutput(ModelOutput):
    """A teacher-forced pass over R questions.

    loss, loss_parts ("text", "mask"), logits (R,T,V), states (R,T,H) after the last norm: the state at t predicts
    token t+1. mask_logits (K,h,w) of the K complete targets, row_of_target (K,), where pixels were given.
    """

    loss: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    states: Tensor | None = None
    mask_logits: Tensor | None = None
    row_of_target: Tensor | None = None
    cache: Cache | None = None


class PixelLMPreTrainedModel(CheckedModel, PreTrainedModel):
    """How weights start, and what transformers needs to know."""

    config_class = PixelLMConfig
    config: PixelLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    row_columns: tuple[str, ...] = ()  # of a data set, what its collator reads; see `ShownToTrainer`
    accepts_loss_kwargs = False  # every loss is a mean over its batch, so Trainer divides it by accumulated batches
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, InitializesItself):
            module.init_weights()
        elif isinstance(module, nn.ConvTranspose2d):
            init.normal_(module.weight, std=module.in_channels**-0.5)


class PixelLMForReasoningSegmentation(PixelLMPreTrainedModel, ReasoningGenerationMixin):
    """Answers that point: each group of codebook tokens in the text is a target with a mask.

    Data flows one way: CLIP tower -> projected maps (once per image) -> language model over text with image tokens in
    it -> states of codebook tokens -> light pixel decoder. R questions belong to B images, image-major.
    """

    def __init__(self, config: PixelLMConfig):
        super().__init__(config)
        self.vision_tower = ClipVisionTower(config.vision_config, config.feature_layers)
        # A published config names the dtype of its weights; here it is that of the whole model.
        language = AutoModelForCausalLM.from_config(config.text_config, dtype=torch.get_default_dtype())
        self.language_model = with_linear(language)
        seen, width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.mm_projector = projector(seen, width, config.projector_factor)
        self.out_mm_projector = projector(seen, width, config.projector_factor)
        self.image_feature_neck = map_neck(width, config.codebook_config.hidden_size)
        self.target_projection = TargetProjection(config.codebook_config, width)
        self.mask_decoder = CodebookPixelDecoder(config.codebook_config)
        highest = max(config.image_token_id, *config.codebook_token_ids)
        if highest >= config.text_config.vocab_size:
            raise ValueError(
                f"the language model must have a row for every token of the codebook and for the image token, up to "
                f"id {highest}, but its vocab_size is {config.text_config.vocab_size}. Enlarge it in text_config "
                "(resize_token_embeddings for a model that is loaded)."
            )
        self.post_init()
        self._no_split_modules = blocks_of(self)
        if self.generation_config is not None:
            self.generation_config._from_model_config = False  # else options of our own would get lost when saved

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def lora_pattern(self, targets: Sequence[str]) -> str:
        """The regular expression of the names of the language model's projections that are to be adapted."""
        return rf"language_model\.{projection_pattern(targets)}"

    @classmethod
    def default_lora_pattern(cls) -> str:
        """What peft adapts where nobody says it: queries and values of the language model."""
        return rf"language_model\.{projection_pattern(('q', 'v'))}"

    def get_image_features(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> PixelLMFeatures:
        """pixel_values (B,3,S,S) 0..255, pixel_mask (B,S,S) -> what language model and decoder see of each image."""
        config = self.config
        side = config.image_size
        check_canvas(pixel_values, side)
        pixels = normalize_pixels(pixel_values, pixel_mask, mean=config.image_mean, std=config.image_std)
        maps = self.vision_tower(pixels.to(next(self.mm_projector.parameters()).dtype), pixel_mask)
        levels = self.project_levels(maps)
        if pixel_mask is None:
            token_mask = torch.ones(len(pixels), config.num_image_tokens, dtype=torch.bool, device=pixels.device)
        else:
            # twice nearest, as released: of the pixels to the tower's grid, of that to the tokens'
            patches = patch_mask(pixel_mask, config.grid_size)
            token_mask = patch_mask(patches, config.image_token_grid).flatten(1)
        return PixelLMFeatures(self.project_image_tokens(maps[0]), token_mask, levels)

    def project_image_tokens(self, image_map: Tensor) -> Tensor:
        """The tower's map (B,g,g,C), resized and then projected: (B,P,H)."""
        side = self.config.image_token_grid
        planes = image_map.permute(0, 3, 1, 2).float()
        planes = F.interpolate(planes, (side, side), mode="bilinear", align_corners=False)
        return self.mm_projector(planes.flatten(2).transpose(1, 2).to(image_map.dtype))

    def project_levels(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B,g,g,C) of the tower -> the decoder's levels (B,g,g,D); one projector and one neck serve all."""
        return tuple(
            self.image_feature_neck(self.out_mm_projector(image_map).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            for image_map in maps
        )

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor | None, features: PixelLMFeatures, image_of_row: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Text with the image's tokens in their placeholders: embeddings (R,T,H), mask (R,T) bool, positions (R,T).

        Padding of the image is no token to attend to, but takes a position; padding of the text takes none.
        """
        check_rows(len(input_ids), len(image_of_row))
        check_text_mask(input_ids, attention_mask)
        if not len(input_ids):
            raise ValueError("every batch of images needs at least one question, but there are no input_ids.")
        placeholders = input_ids == self.config.image_token_id
        expected = self.config.num_image_tokens
        if not (placeholders.sum(1) == expected).all():
            raise ValueError(
                f"each question must have the image token (id {self.config.image_token_id}) {expected} times, but the "
                f"questions have it {placeholders.sum(1).tolist()} times. The processor puts them in; leave "
                "truncation to it."
            )
        assert features.image_tokens is not None
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(placeholders, 0))
        tokens = features.image_tokens[image_of_row].to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(placeholders[..., None], tokens)
        return embeddings, *self.attended(input_ids, attention_mask, features, image_of_row)

    def attended(
        self, input_ids: Tensor, attention_mask: Tensor | None, features: PixelLMFeatures, image_of_row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What may be attended to in each row, (R,T) bool, and the tokens' positions (R,T), as in `embed`."""
        assert features.token_mask is not None
        placeholders = input_ids == self.config.image_token_id
        text_mask = torch.ones_like(placeholders) if attention_mask is None else attention_mask.bool()
        positions = (text_mask.cumsum(1) - 1).clamp(min=0)
        return text_mask.masked_scatter(placeholders, features.token_mask[image_of_row]), positions

    def image_of_row(self, prompt_mask: Tensor | None, images: int, rows: int) -> Tensor:
        """(R,) the image of each row; without prompt_mask all images have as many."""
        if prompt_mask is not None:
            if len(prompt_mask) != images:
                raise ValueError(
                    f"prompt_mask must have a row for each image, but there are {images} images and "
                    f"{len(prompt_mask)} rows. Pass the mask that the processor made of these images."
                )
            return prompt_mask.bool().nonzero()[:, 0]
        if not images or rows % images:
            raise ValueError(
                f"{rows} questions cannot be shared evenly among {images} images. Say with prompt_mask (images, "
                "questions) which image has which."
            )
        return torch.arange(rows, device=self.device) // (rows // images)

    def predict_masks(
        self, features: PixelLMFeatures, group_states: Tensor, image_of_target: Tensor
    ) -> CodebookDecoderOutput:
        """group_states (K,G,H) that predict the tokens of K targets, image_of_target (K,) -> logits over the canvas."""
        return self.mask_decoder(features.level_maps, self.target_projection(group_states), image_of_target)

    @ShownToTrainer
    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        image_features: PixelLMFeatures | None = None,
        image_of_row: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mask_labels: Tensor | None = None,
        original_sizes: Tensor | None = None,
        prompt_characters: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> PixelLMOutput:
        """A teacher-forced pass over questions with their answers, or a step of decoding (inputs_embeds or a cache).

        Args:
            pixel_values: (B,3,S,S) RGB, 0..255, on the canvas; pixel_mask (B,S,S) True on real pixels.
            input_ids: (R,T) questions and answers, image placeholders in them; attention_mask (R,T).
            prompt_mask: (B,N) which questions exist; R rows are the valid ones, image-major. One an image by default.
            image_features: of `get_image_features`, to use again; image_of_row (R,) says in the place of prompt_mask
                which image each row is about.
            labels: (R,T) input_ids where they are to be learnt, -100 elsewhere; shifted here.
            mask_labels: (K,S,S) masks on the canvas, > 0 inside, of all targets in the order they are written.
            original_sizes, prompt_characters: travel with the inputs for post-processing; not used here.
        """
        if mask_labels is not None and labels is None:
            raise ValueError(
                f"mask_labels are of targets in labels, but there are no labels. {LABELS_TAKEN}: a PixelLM's text loss "
                "is not smoothed."
            )
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values, pixel_mask)
        asks = image_features is not None and input_ids is not None and inputs_embeds is None
        if asks:
            if image_of_row is None:
                image_of_row = self.image_of_row(prompt_mask, len(image_features.image_tokens), len(input_ids))
            inputs_embeds, attention_mask, position_ids = self.embed(
                input_ids, attention_mask, image_features, image_of_row
            )
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        body = self.language_model.base_model(
            inputs_embeds=inputs_embeds,
            attention_mask=None if attention_mask is None else attention_mask.long(),
            position_ids=position_ids,
            cache=cache,
            use_cache=bool(use_cache) and labels is None,
        )
        states = body.last_hidden_state
        logits = self.get_output_embeddings()(states)
        output = PixelLMOutput(logits=logits, states=states, cache=body.cache)
        if asks:
            assert image_of_row is not None
            groups = find_token_groups(input_ids, self.config.codebook_token_ids)
            found = self.predict_masks(
                image_features, states[groups.row[:, None], groups.positions - 1], image_of_row[groups.row]
            )
            output.mask_logits, output.row_of_target = found.logits, groups.row
        if labels is not None:
            parts = {"text": causal_loss(logits, labels)}
            if mask_labels is not None:
                parts["mask"] = self._mask_loss(output, mask_labels, image_of_row, pixel_mask)
            output.loss_parts = parts
            output.loss = torch.stack(
                [getattr(self.config, f"{name}_loss_weight") * parts[name] for name in parts]
            ).sum()
        return output

    def _mask_loss(
        self, output: PixelLMOutput, mask_labels: Tensor, image_of_row: Tensor | None, pixel_mask: Tensor | None
    ) -> Tensor:
        """The masks of a batch at the size of the canvas, its padding cut off."""
        side = self.config.image_size
        if image_of_row is None or output.mask_logits is None:
            raise ValueError("mask_labels need input_ids with pixel_values or image_features, but these are missing.")
        if tuple(mask_labels.shape[1:]) != (side, side):
            raise ValueError(
                f"mask_labels must be masks on the canvas, (targets, {side}, {side}), but the shape is "
                f"{tuple(mask_labels.shape)}."
            )
        images = int(image_of_row.max()) + 1 if len(image_of_row) else 0
        sizes = torch.full((images, 2), side) if pixel_mask is None else valid_size_hw(pixel_mask)
        return target_mask_loss(
            output.mask_logits, mask_labels, output.row_of_target, image_of_row, sizes, self.config.codebook_config
        )


def projector(fan_in: int, width: int, factor: int) -> nn.Sequential:
    """LLaVA's MLP from the tower's width to the language model's."""
    return nn.Sequential(Linear(fan_in, factor * width), nn.GELU(), Linear(factor * width, width))


def causal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of labels (R,T), each predicted by the logits (R,T,V) one before it; 0 where none counts."""
    targets = labels[:, 1:].flatten()
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORE_INDEX, reduction="sum")
    return losses / (targets != IGNORE_INDEX).sum().clamp(min=1)


__all__ = ["PixelLMFeatures", "PixelLMForReasoningSegmentation", "PixelLMOutput", "PixelLMPreTrainedModel"]
