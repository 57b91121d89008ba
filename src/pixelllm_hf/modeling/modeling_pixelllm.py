"""PixelLLM: an image, a place and a text prompt in; a caption with a place for every word out (arXiv 2312.09237)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .configuration_pixelllm import PREFIX_DECODER
from .configuration_pixelllm import PixelLLMConfig
from .distinct_prompts import distinct_prompts
from .generation import GroundedBeamGenerateOutput
from .generation import GroundedGenerateOutput
from .generation import HeldEndStreamer
from .generation import NoImmediateRepetition
from .generation import StateRecorder
from .generation import current_recorder
from .generation import recording
from .language_prefix_decoder import PrefixDecoderLanguageModel
from .language_t5 import T5PrefixLanguageModel
from .losses import point_loss
from .losses import text_loss
from .point_head import PointHead
from .prompt_encoder import FourierPositions
from .prompt_encoder import PromptEncoder
from .prompt_encoder import UnitEmbedding
from .prompt_feature_extractor import PromptFeatureExtractor
from .reference_beam_search import reference_beam_search
from .vision_eva02 import Eva02Attention
from .vision_eva02 import Eva02VisionTower
from .vision_sam import SamAttention
from .vision_sam import SamVisionTower
from .vision_towers import VisionFeatures
from .vision_towers import VisionTowers
from .vision_towers import valid_size_hw

IGNORED_LABEL = -100


@dataclass
class PixelLLMOutput(ModelOutput):
    """What one forward pass gives.

    loss: weighted total, if labels were given; loss_parts: its unweighted parts by name.
    logits (R,T,V); decoder_states (R,T,C): state t has consumed decoder token t; coordinates (R,T,P,2) float32, xy,
    0..1 of the unpadded image, entry t belongs to decoder token t (entry 0, of BOS, means nothing).
    With labels T is one more than the labels': decoder tokens are BOS and the labels.
    """

    loss: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    coordinates: Tensor | None = None
    decoder_states: Tensor | None = None
    past_key_values: Cache | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_attention_mask: Tensor | None = None


class PixelLLMPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what transformers needs to know about every PixelLLM."""

    config_class = PixelLLMConfig
    config: PixelLLMConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_cache_class = True
    _no_split_modules = ["SamBlock", "Eva02Block", "T5Block", "PrefixDecoderLayer"]
    # Half precision costs several pixels, so places are computed in float32 whatever the rest runs in.
    _keep_in_fp32_modules_strict = ["point_head", "prompt_encoder"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers asks only about modules that own parameters, never about their containers.
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            # Flax's default, as in the reference. A fixed 0.02 fades what narrow layers pass on of the image.
            init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, SamVisionTower):
            init.normal_(module.pos_embed, std=std)
        elif isinstance(module, Eva02VisionTower):
            init.normal_(module.pos_embed, std=std)
            init.normal_(module.cls_token, std=std)
        elif isinstance(module, SamAttention):
            init.zeros_(module.rel_pos_h)
            init.zeros_(module.rel_pos_w)
        elif isinstance(module, Eva02Attention):
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)
        elif isinstance(module, UnitEmbedding):
            init.normal_(module.weight)
        elif isinstance(module, FourierPositions):
            init.normal_(module.positional_encoding_gaussian_matrix, std=module.scale)


class PixelLLMForGroundedGeneration(PixelLLMPreTrainedModel, GenerationMixin):
    """Captions, answers and expressions with a pixel location for every token.

    Data flows one way: vision towers -> fused map (once per image) -> prompt tokens -> prompt feature extractor ->
    language model -> point head. R rows are the valid prompts of all images, image-major.
    """

    # transformers collects these from children that are pretrained models themselves; T5 sits one level deeper.
    _tied_weights_keys = {
        "language_model.body.encoder.embed_tokens.weight": "language_model.body.shared.weight",
        "language_model.body.decoder.embed_tokens.weight": "language_model.body.shared.weight",
    }

    def __init__(self, config: PixelLLMConfig):
        super().__init__(config)
        self.vision_towers = VisionTowers(config.vision_config)
        self.prompt_encoder = PromptEncoder(config.prompt_config)
        self.prompt_feature_extractor = PromptFeatureExtractor(
            config.prompt_config, config.vision_config.feature_channels
        )
        visual_width = config.prompt_config.output_dim
        if config.text_config.model_type == PREFIX_DECODER:
            self.language_model = PrefixDecoderLanguageModel(config.text_config, visual_width)
            self.visual_projection = nn.Identity()  # this family projects visual tokens itself
            self._tied_weights_keys = {}
        else:
            self.language_model = T5PrefixLanguageModel(config.text_config)
            self.visual_projection = nn.Sequential(
                nn.Linear(visual_width, self.language_model.width), nn.LayerNorm(self.language_model.width, eps=1e-5)
            )
        width = self.language_model.width
        self.point_head = PointHead(config.point_head_config, width)
        self.post_init()
        if self.generation_config is not None:
            self.generation_config.return_dict_in_generate = True

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.lm_head = new_embeddings

    def get_image_features(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> VisionFeatures:
        """pixel_values (B,3,S,S) 0..255, pixel_mask (B,S,S) -> the maps of the towers and their fusion.

        May be passed back as `image_features=` any number of times instead of the pixels.
        """
        return self.vision_towers(pixel_values, pixel_mask)

    def get_visual_tokens(
        self,
        image_features: VisionFeatures,
        pixel_mask: Tensor | None = None,
        prompt_boxes: Tensor | None = None,
        prompt_points: Tensor | None = None,
        prompt_point_labels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> Tensor:
        """What the language model sees of each prompt: (R,V,C), R valid prompts, image-major.

        prompt_boxes (B,N,4) xyxy canvas pixels, a zero row where points speak; None = the whole image.
        prompt_points (B,N,K,2) xy canvas pixels with labels (B,N,K): 1 inside, 0 outside, -1 none.
        prompt_mask (B,N): which prompts exist.
        """
        fused = image_features.fused
        side = self.config.image_size
        if prompt_boxes is None and prompt_points is None:
            prompt_boxes = _whole_image_boxes(pixel_mask, fused, side)
        elif prompt_boxes is None:
            prompt_boxes = prompt_points.new_zeros(*prompt_points.shape[:2], 4)
        if prompt_mask is None:
            prompt_mask = torch.ones(prompt_boxes.shape[:2], dtype=torch.bool, device=fused.device)
        if prompt_boxes.shape[0] != fused.shape[0]:
            raise ValueError(
                f"prompts must be given per image, but there are {fused.shape[0]} images and prompts for "
                f"{prompt_boxes.shape[0]}. Pass boxes of shape (images, prompts, 4)."
            )
        if not prompt_mask.any():
            raise ValueError("every image batch needs at least one valid prompt, but prompt_mask is all False.")
        prompt_mask, again = prompt_mask.bool(), None
        if prompt_points is None and prompt_mask.shape[1] > 1:
            prompt_mask, again = distinct_prompts(prompt_boxes, prompt_mask)
        sparse = self.prompt_encoder(prompt_boxes, prompt_points, prompt_point_labels, image_size_hw=(side, side))
        positions = self.prompt_encoder.dense_positions(*fused.shape[1:3])
        tokens = self.prompt_feature_extractor(fused, positions, sparse, self.prompt_encoder.no_mask, prompt_mask)
        tokens = self.visual_projection(tokens)
        return tokens if again is None else tokens[again]

    def encode(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        prompt_boxes: Tensor | None = None,
        prompt_points: Tensor | None = None,
        prompt_point_labels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_features: VisionFeatures | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image, places and text -> encoder states (R,S,C) and their mask (R,S)."""
        if image_features is None:
            if pixel_values is None:
                raise ValueError("expected pixel_values, image_features or encoder_outputs, but got none of them.")
            image_features = self.get_image_features(pixel_values, pixel_mask)
        visual = self.get_visual_tokens(
            image_features, pixel_mask, prompt_boxes, prompt_points, prompt_point_labels, prompt_mask
        )
        if input_ids is not None and input_ids.shape[0] != visual.shape[0]:
            raise ValueError(
                f"input_ids must have one row per valid prompt, image after image, but there are {visual.shape[0]} "
                f"prompts and {input_ids.shape[0]} rows."
            )
        embeddings, mask = self.language_model.embed_prompt(visual, input_ids, attention_mask)
        return self.language_model.encode(embeddings, mask), mask

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        prompt_boxes: Tensor | None = None,
        prompt_points: Tensor | None = None,
        prompt_point_labels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        original_sizes: Tensor | None = None,
        image_features: VisionFeatures | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        point_labels: Tensor | None = None,
        text_loss_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_coordinates: bool = True,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> PixelLLMOutput | tuple:
        """One teacher-forced or one cached pass.

        Args:
            pixel_values: (B,3,S,S) RGB, 0..255, on the canvas; pixel_mask (B,S,S) True on real pixels.
            prompt_boxes, prompt_points, prompt_point_labels, prompt_mask: see `get_visual_tokens`.
            input_ids: (R,L) text prompt, attention_mask (R,L). With encoder_outputs the mask is the encoder's, (R,S).
            original_sizes: travels with the inputs for post-processing; not used here.
            image_features, encoder_outputs: results of `get_image_features` / `encode` to use again.
            decoder_input_ids: (R,T) tokens to consume, the first one BOS; decoder_attention_mask (R,T) marks those
                that take part (see `T5PrefixLanguageModel.decode`).
            labels: (R,T) tokens to predict, -100 ignored; the decoder then consumes BOS and the labels.
            point_labels: (R,T,P,2) places of the labels' tokens, xy, 0..1 of the unpadded image; NaN or all zero:
                no place. text_loss_mask (R,): rows whose text counts (all by default).
            output_coordinates: False leaves the point head out.
        """
        if encoder_outputs is None:
            states, mask = self.encode(
                pixel_values,
                pixel_mask,
                prompt_boxes,
                prompt_points,
                prompt_point_labels,
                prompt_mask,
                input_ids,
                attention_mask,
                image_features,
            )
        else:
            states = encoder_outputs[0]
            mask = _full_encoder_mask(attention_mask, states)

        if labels is not None and decoder_input_ids is None:
            decoder_input_ids, decoder_attention_mask = self._decoder_inputs(labels)
        if decoder_input_ids is None:
            raise ValueError("expected labels or decoder_input_ids to decode, but got neither.")
        decoder_states, cache = self.language_model.decode(
            decoder_input_ids,
            states,
            mask,
            decoder_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=bool(use_cache) and labels is None,
        )
        logits = self.language_model.logits(decoder_states)
        coordinates = self.point_head(decoder_states).coordinates if output_coordinates else None

        loss, parts = None, None
        if labels is not None:
            parts = self._loss_parts(
                decoder_input_ids, logits, coordinates, labels, point_labels, text_loss_mask, pixel_mask, prompt_mask
            )
            weights = {"text": self.config.text_loss_weight, "point": self.config.point_loss_weight}
            loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        output = PixelLLMOutput(
            loss=loss,
            loss_parts=parts,
            logits=logits,
            coordinates=coordinates,
            decoder_states=decoder_states,
            past_key_values=cache,
            encoder_last_hidden_state=states,
            encoder_attention_mask=mask,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _decoder_inputs(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """labels (R,T) -> decoder tokens (R,T+1): BOS and the labels; mask of the positions before EOS."""
        text = self.config.text_config
        start = labels.new_full((labels.shape[0], 1), text.decoder_start_token_id)
        tokens = torch.cat([start, labels.masked_fill(labels == IGNORED_LABEL, text.pad_token_id)], dim=1)
        takes_part = (labels != IGNORED_LABEL) & (labels != text.eos_token_id)
        return tokens, torch.cat([torch.ones_like(start, dtype=torch.bool), takes_part], dim=1)

    def _loss_parts(
        self,
        tokens: Tensor,
        logits: Tensor,
        coordinates: Tensor | None,
        labels: Tensor,
        point_labels: Tensor | None,
        text_loss_mask: Tensor | None,
        pixel_mask: Tensor | None,
        prompt_mask: Tensor | None,
    ) -> dict[str, Tensor]:
        parts = {
            "text": text_loss(
                logits,
                tokens,
                text_loss_mask,
                label_smoothing=self.config.label_smoothing,
                eos_token_id=self.config.text_config.eos_token_id,
            )
        }
        if point_labels is not None:
            if coordinates is None:
                raise ValueError("point_labels need output_coordinates=True, but it is False.")
            scale = self._row_sizes_wh(pixel_mask, prompt_mask, labels)[:, None, None, :]  # R,1,1,2 canvas pixels
            target = point_labels.nan_to_num(0.0).float()
            valid = torch.isfinite(point_labels).flatten(2).all(-1) & (labels != IGNORED_LABEL)
            parts["point"] = point_loss(coordinates[:, 1:] * scale, target * scale, valid)
        return parts

    def _row_sizes_wh(self, pixel_mask: Tensor | None, prompt_mask: Tensor | None, labels: Tensor) -> Tensor:
        """(R,2) width and height in canvas pixels of the unpadded image that each row belongs to."""
        side = self.config.image_size
        if pixel_mask is None:
            return torch.full((labels.shape[0], 2), float(side), device=labels.device)
        sizes = valid_size_hw(pixel_mask).flip(-1).float()
        if prompt_mask is None:
            return sizes.repeat_interleave(labels.shape[0] // sizes.shape[0], dim=0)
        return sizes.repeat_interleave(prompt_mask.bool().sum(1), dim=0)

    # --- generation -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> GroundedGenerateOutput | GroundedBeamGenerateOutput | Tensor:
        """transformers' `generate` with a place for every token, in the same pass.

        Takes what the processor returns and every option of `GenerationConfig`; greedy, sampling and beam search.
        Options of our own, as keywords or entries of the generation config:
            no_immediate_repetition: the reference's greedy rule.
            reference_beam_search: the reference's beam search instead of transformers' (see its module), with
                reference_beam_alpha (0.6) and reference_per_node_beam (candidates a beam: 2, or 1 when referring).
        A streamer that has `put_location(points (rows,P,2))` is told each token's place as soon as it is known.

        Returns `GroundedGenerateOutput` / `GroundedBeamGenerateOutput`, or with return_dict_in_generate=False the
        sequences alone. Rows: R prompts times num_return_sequences.
        """
        if inputs is not None:
            kwargs["pixel_values"] = inputs
        if kwargs.get("assistant_model") is not None:
            raise ValueError("assisted generation keeps no state per token; leave assistant_model out.")
        resolved, _ = self._prepare_generation_config(generation_config, **kwargs)
        if generation_config is None:
            kwargs["return_dict_in_generate"] = True
        else:
            generation_config = copy.deepcopy(generation_config)
            generation_config.return_dict_in_generate = True
        own = {name: kwargs.pop(name, getattr(resolved, name, default)) for name, default in _OWN_OPTIONS.items()}
        prompt = {name: kwargs.pop(name, None) for name in _PROMPT_NAMES}
        kwargs.pop("original_sizes", None)
        encoder_outputs = kwargs.pop("encoder_outputs", None)
        if encoder_outputs is None:
            states, mask = self.encode(**prompt)
        else:
            states = encoder_outputs[0]
            mask = _full_encoder_mask(prompt["attention_mask"], states)

        processors = LogitsProcessorList(logits_processor or [])
        if own["no_immediate_repetition"]:
            processors.append(NoImmediateRepetition())
        if own["reference_beam_search"]:
            kwargs["custom_generate"] = partial(
                reference_beam_search,
                alpha=own["reference_beam_alpha"],
                per_node_beam=own["reference_per_node_beam"],
            )

        places_stream = hasattr(streamer, "put_location")
        recorder = StateRecorder((lambda s: streamer.put_location(self._places(s))) if places_stream else None)
        held = HeldEndStreamer(streamer) if streamer is not None else None
        with recording(recorder):
            output = super().generate(
                generation_config=generation_config,
                logits_processor=processors,
                streamer=held,
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask,  # bool: every step would turn numbers into it again
                output_coordinates=False,
                **kwargs,
            )
        output = self._with_places(output, recorder, states, mask, resolved.eos_token_id)
        if held is not None:
            held.release()
        return output if resolved.return_dict_in_generate else output.sequences

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        recorder = current_recorder()
        if recorder is not None:
            recorder.before_step(input_ids[:, -1])
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        recorder = current_recorder()
        if recorder is not None:
            recorder.after_step(outputs.decoder_states, outputs.logits)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)

    def _reorder_cache(self, past_key_values: Cache, beam_idx: Tensor) -> Cache:
        recorder = current_recorder()
        if recorder is not None:
            recorder.reorder(beam_idx)
        past_key_values.reorder_cache(beam_idx)
        return past_key_values

    def _places(self, states: Tensor) -> Tensor:
        """states (rows,C) -> (rows,P,2), 0..1 of the unpadded image."""
        return self.point_head(states[:, None]).coordinates[:, 0]

    def _with_places(
        self,
        output: ModelOutput,
        recorder: StateRecorder,
        encoder_states: Tensor,
        encoder_mask: Tensor,
        eos_token_id: int | list[int] | None,
    ) -> GroundedGenerateOutput | GroundedBeamGenerateOutput:
        """Sort the recorded states along the final sequences and read the places from them."""
        sequences = output.sequences
        ends = [] if eos_token_id is None else eos_token_id
        eos = torch.tensor(ends, dtype=torch.long, device=sequences.device).flatten()
        beams = isinstance(output, GenerateBeamEncoderDecoderOutput)
        is_eos = torch.isin(sequences, eos)
        ended = is_eos.cumsum(1) > 0
        has_place = ~ended
        has_place[:, 0] = False  # BOS
        states, log_probs = recorder.gather(sequences, getattr(output, "beam_indices", None))
        cut = has_place[:, -1] & states[:, -1].isnan().any(-1)  # stopped by the length limit
        if cut.any():
            cache = None if beams else getattr(output, "past_key_values", None)
            if cache is not None and cache.is_compileable:  # a static cache has no room for one token more
                cache = None
            states[cut, -1] = self._states_after_last_token(sequences, cut, encoder_states, encoder_mask, cache).float()
            if recorder.on_states is not None:
                recorder.on_states(states[:, -1])
        coordinates = self.point_head(states).coordinates.masked_fill(~has_place[:, :, None, None], torch.nan)
        log_probs = log_probs.masked_fill(~has_place, torch.nan)
        kind = GroundedBeamGenerateOutput if beams else GroundedGenerateOutput
        return kind(**output, coordinates=coordinates, token_log_probs=log_probs)

    def _states_after_last_token(
        self, sequences: Tensor, rows: Tensor, encoder_states: Tensor, encoder_mask: Tensor, cache: Cache | None
    ) -> Tensor:
        """The states no decoding loop computes: of tokens that the length limit left unconsumed. (rows.sum(), C)

        One more step where the cache still belongs to these sequences; beams have moved on, they are read again.
        """
        copies = len(sequences) // len(encoder_states)
        encoder_states = encoder_states.repeat_interleave(copies, dim=0)
        encoder_mask = encoder_mask.repeat_interleave(copies, dim=0)
        if cache is not None:
            step = self.language_model.decode(
                sequences[:, -1:], encoder_states, encoder_mask, past_key_values=cache, use_cache=True
            )
            return step[0][rows, -1]
        return self.language_model.decode(sequences[rows], encoder_states[rows], encoder_mask[rows])[0][:, -1]


_OWN_OPTIONS = {
    "no_immediate_repetition": False,
    "reference_beam_search": False,
    "reference_beam_alpha": 0.6,
    "reference_per_node_beam": 2,
}
_PROMPT_NAMES = (
    "pixel_values",
    "pixel_mask",
    "prompt_boxes",
    "prompt_points",
    "prompt_point_labels",
    "prompt_mask",
    "input_ids",
    "attention_mask",
    "image_features",
)


def _whole_image_boxes(pixel_mask: Tensor | None, fused: Tensor, side: int) -> Tensor:
    """The prompt of a whole image: its unpadded extent on the canvas, (B,1,4)."""
    boxes = torch.zeros(fused.shape[0], 1, 4, device=fused.device)
    boxes[:, 0, 2:] = float(side) if pixel_mask is None else valid_size_hw(pixel_mask).flip(-1).float()
    return boxes


def _all_valid(states: Tensor) -> Tensor:
    return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)


def _full_encoder_mask(mask: Tensor | None, states: Tensor) -> Tensor:
    """A mask of the text alone is extended by the visual tokens before it, which are always valid. (R,S)"""
    if mask is None:
        return _all_valid(states)
    missing = states.shape[1] - mask.shape[1]
    if missing == 0:
        return mask.bool()
    if missing < 0:
        raise ValueError(
            f"attention_mask covers {mask.shape[1]} positions but encoder_outputs has only {states.shape[1]}."
        )
    return torch.cat([mask.new_ones(mask.shape[0], missing), mask], dim=1).bool()


__all__ = ["PixelLLMForGroundedGeneration", "PixelLLMOutput", "PixelLLMPreTrainedModel"]
