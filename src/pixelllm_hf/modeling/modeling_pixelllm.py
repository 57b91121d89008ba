"""PixelLLM: image, location and text prompt in; a caption with a location for every word out (arXiv 2312.09237)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutput

from .box_ops import after_end, is_one_of
from .codebook_head import CodebookHead
from .configuration_language import PREFIX_DECODER, T5_FAMILY
from .configuration_pixelllm import PixelLLMConfig
from .detections import make_proposal_head
from .grounded_generation import GroundedGenerationMixin, GroundedOutput
from .language_causal import CausalLanguageModel
from .language_model import GroundedLanguageModel, full_encoder_mask
from .language_prefix_decoder import PrefixDecoderLanguageModel
from .language_t5 import T5PrefixLanguageModel
from .mask_head import MaskHead, MaskHeadOutput, check_one_width
from .model_output import LayerOutputs, PixelLLMOutput
from .point_head import PointHead, PointHeadOutput
from .pretrained_pixelllm import PixelLLMPreTrainedModel, ShownToTrainer, blocks_of
from .prompt_encoder import PromptEncoder
from .prompt_feature_extractor import ChannelDropout, PromptFeatureExtractor, PromptFeatures
from .prompt_pooling import PromptPooling
from .prompt_rows import check_prompts, check_rows, check_text_mask, distinct_prompts, whole_image_boxes
from .proposed_prompts import ProposedPrompts, propose_prompts
from .supervision import Supervision, TaughtPass
from .task_generation import TaskGeneration, lacks_head
from .vision_towers import VisionFeatures, VisionTowers, check_canvas, valid_size_hw

LANGUAGE_FAMILIES: dict[str, type[GroundedLanguageModel]] = {
    **dict.fromkeys(T5_FAMILY, T5PrefixLanguageModel),
    PREFIX_DECODER: PrefixDecoderLanguageModel,
}  # and of every other text_config, which has been checked, the decoder-only one is made


class PixelLLMForGroundedGeneration(PixelLLMPreTrainedModel, GroundedGenerationMixin):
    """Captions, answers and expressions with a pixel location for every token.

    Data flows one way: vision towers -> fused map (once per image) -> prompt tokens -> prompt feature extractor ->
    language model -> point head -> mask head. Where no location is asked about, the proposal head finds boxes. R rows
    are the valid prompts of all images, image-major. The mask, proposal and codebook heads are None in models that lack
    them.
    """

    def __init__(self, config: PixelLLMConfig):
        super().__init__(config)
        self.vision_towers = VisionTowers(config.vision_config)
        self.prompt_encoder = PromptEncoder(config.prompt_config)
        family = LANGUAGE_FAMILIES.get(config.text_config.model_type, CausalLanguageModel)
        seen_width = family.seen_width(config)
        channels = config.vision_config.feature_channels
        features = config.vision_config.standardised_channels
        self.channel_dropout = ChannelDropout(config.vision_config.channel_dropout, features)
        self.prompt_feature_extractor = PromptFeatureExtractor(config.prompt_config, channels, seen_width, features)
        self.prompt_pooling = None
        if config.prompt_config.pools_prompt:
            self.prompt_pooling = PromptPooling(channels, seen_width, config.pooled_classes)
        self.language_model = family.of(config)
        width = self.language_model.width
        self.point_head = PointHead(config.point_head_config, width)
        self.mask_head, self.proposal_head, self.codebook_head = None, None, None
        if config.mask_head_config is not None:
            check_one_width(config)
            map_channels = config.vision_config.mask_map_channels
            self.mask_head = MaskHead(config.mask_head_config, seen_width, width, map_channels)
        if config.proposal_head_config is not None:
            self.proposal_head = make_proposal_head(config)
        if config.codebook_config is not None:
            self.codebook_head = CodebookHead(config, width)
        # a detector's boxes are off by a twentieth of the image where its tower computes in bfloat16
        exact = config.vision_config.exact_towers
        self._keep_in_fp32_modules_strict = [*(self._keep_in_fp32_modules_strict or ()), *exact]
        towers = map(self.vision_towers.get_submodule, exact)
        for part in (self.point_head, self.prompt_encoder, self.proposal_head, *towers):
            if part is not None:
                part.float()  # also where a model is made in half precision and not loaded
        self.post_init()
        self._no_split_modules = blocks_of(self)
        if self.generation_config is not None:
            self.generation_config.return_dict_in_generate = True
            self.generation_config._from_model_config = False  # else options of our own would get lost when saved

    @property
    def dtype(self) -> torch.dtype:
        """Of all that does not stay in float32."""
        return self.prompt_feature_extractor.output_tokens.weight.dtype

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        # transformers collects these from children that are pretrained models themselves; language models sit one level
        # deeper. Without these keys what is tied would be drawn anew on loading.
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        tied = self.language_model.tied_weights
        return {f"language_model.{name}": f"language_model.{other}" for name, other in tied.items()}

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
        return rf"language_model\.{self.language_model.lora_pattern(targets)}"

    @classmethod
    def default_lora_pattern(cls) -> str:
        """What peft adapts where nobody says it: queries and values of the language model, of whatever family."""
        families = (T5PrefixLanguageModel, PrefixDecoderLanguageModel, CausalLanguageModel)
        return rf"language_model\.({'|'.join(family.lora_pattern(('q', 'v')) for family in families)})"

    def get_image_features(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> VisionFeatures:
        """pixel_values (B,3,S,S) 0..255, pixel_mask (B,S,S) -> the maps of the towers and their fusion.

        May be passed back as `image_features=` any number of times instead of the pixels.
        """
        check_canvas(pixel_values, self.config.image_size)
        features = self.vision_towers(pixel_values, pixel_mask)
        return features.narrowed(self.dtype, self.config.vision_config.exact_maps)

    def encode_image(
        self, image_features: VisionFeatures | None, pixel_values: Tensor | None, pixel_mask: Tensor | None
    ) -> VisionFeatures:
        """The given image_features, or else those of the pixels."""
        if image_features is not None:
            return image_features
        if pixel_values is None:
            raise ValueError(
                "expected pixel_values, image_features or encoder_outputs, but got none of them: there is no image. "
                "Pass one with the text, as in processor(images=image, text='A photo of ') or, to a pipeline, "
                "pipe(image, text='A photo of ')."
            )
        return self.get_image_features(pixel_values, pixel_mask)

    def get_visual_tokens(self, image_features: VisionFeatures, *args: Any, **kwargs: Any) -> Tensor:
        """The visual tokens of each prompt, (R,V,C): `get_prompt_features` without the cells of the map."""
        return self.get_prompt_features(image_features, *args, **kwargs).tokens

    def get_prompt_features(
        self,
        image_features: VisionFeatures,
        pixel_mask: Tensor | None = None,
        prompt_boxes: Tensor | None = None,
        prompt_points: Tensor | None = None,
        prompt_point_labels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> PromptFeatures:
        """What the language model sees of each prompt: tokens (R,V,C) and, with `reads_map`, cells (R,h*w,C), of the R
        valid prompts, image-major.

        prompt_boxes (B,N,4) xyxy canvas pixels, a zero row where points speak; None = the whole image.
        prompt_points (B,N,K,2) xy canvas pixels with labels (B,N,K): 1 inside, 0 outside, -1 none.
        prompt_mask (B,N): which prompts exist.
        """
        fused = self.channel_dropout(image_features.fused)
        side = self.config.image_size
        if prompt_boxes is None and prompt_points is None:
            prompt_boxes = whole_image_boxes(pixel_mask, fused, side)
        elif prompt_boxes is None:
            prompt_boxes = prompt_points.new_zeros(*prompt_points.shape[:2], 4)
        if prompt_mask is None:
            prompt_mask = torch.ones(prompt_boxes.shape[:2], dtype=torch.bool, device=fused.device)
        check_prompts(len(fused), prompt_boxes, prompt_points, prompt_point_labels, prompt_mask)
        if not prompt_mask.any():
            raise ValueError("every image batch needs at least one valid prompt, but prompt_mask is all False.")
        prompt_mask, again = prompt_mask.bool(), None
        if prompt_points is None and prompt_mask.shape[1] > 1:
            prompt_mask, again = distinct_prompts(prompt_boxes, prompt_mask)
        sparse = self.prompt_encoder(prompt_boxes, prompt_points, prompt_point_labels, image_size_hw=(side, side))
        positions = self.prompt_encoder.dense_positions(*fused.shape[1:3])
        tokens, cells = self.prompt_feature_extractor(
            fused, positions, sparse, self.prompt_encoder.no_mask, prompt_mask
        )
        tokens = self.language_model.project_visual(tokens)
        if self.prompt_pooling is not None:
            detections = self.config.prompt_config.pooled_detections
            tokens = tokens + self.prompt_pooling(
                fused,
                prompt_boxes,
                prompt_points,
                prompt_point_labels,
                prompt_mask,
                image_size=side,
                detections=None if detections is None else image_features[detections],
            )
        seen = PromptFeatures(tokens, cells)
        return seen if again is None else seen[again]

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
        """Image, locations and text -> encoder states (R,S,C) and their mask (R,S)."""
        image_features = self.encode_image(image_features, pixel_values, pixel_mask)
        seen = self.get_prompt_features(
            image_features, pixel_mask, prompt_boxes, prompt_points, prompt_point_labels, prompt_mask
        )
        return self.encode_prompts(seen, input_ids, attention_mask)

    def encode_prompts(
        self,
        seen: PromptFeatures,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        length: int = 0,
        layers: LayerOutputs | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What is seen of R prompts and text (R,L) -> encoder states (R,S,C) and their mask (R,S).

        Text is padded to `length` tokens where it is shorter. layers: takes what the encoder's layers leave.
        """
        if input_ids is not None:
            check_rows(len(input_ids), len(seen.tokens))
            check_text_mask(input_ids, attention_mask)
        if input_ids is not None and (missing := length - input_ids.shape[1]) > 0:
            pad = self.config.text_config.pad_token_id
            if attention_mask is None:
                attention_mask = input_ids != pad
            input_ids, attention_mask = F.pad(input_ids, (0, missing), value=pad), F.pad(attention_mask, (0, missing))
        return self.language_model.prefill(seen.tokens, input_ids, attention_mask, cells=seen.cells, layers=layers)

    def predict_masks(
        self,
        image_features: VisionFeatures,
        visual_tokens: Tensor,
        text_states: Tensor,
        boxes: Tensor,
        image_of_row: Tensor,
    ) -> MaskHeadOutput:
        """A mask for every row: visual_tokens (R,V,C), text_states (R,T,C) of all tokens and padding, boxes (R,4) xyxy
        canvas pixels, image_of_row (R,) -> logits (R,1,4h,4w) over the map (B,h,w,C) that `mask_map` of the vision
        config names, and the predicted IoU (R,1).

        The states must come from a pass whose decoder_attention_mask leaves EOS and padding out (official.md#t5).
        """
        if self.mask_head is None:
            raise ValueError(lacks_head("mask", "makes no masks"))
        image_map, side = image_features[self.config.vision_config.mask_map], self.config.image_size
        return self.mask_head(
            image_map,
            self.prompt_encoder.dense_positions(image_map.shape[1], image_map.shape[2]),
            self.prompt_encoder.no_mask,
            self.prompt_encoder.embed_boxes(boxes, image_size_hw=(side, side)),
            visual_tokens,
            text_states,
            image_of_row,
        )

    def predict_target_masks(
        self, image_features: VisionFeatures, group_states: Tensor, image_of_target: Tensor
    ) -> Tensor:
        """The masks of K targets: the states (K,G,C) of their tokens, as the codebook head's `find` gives them, and
        image_of_target (K,) -> logits (K,h,w) over the canvas, > 0 inside."""
        if self.codebook_head is None:
            raise ValueError(lacks_head("codebook", "points at no targets", "codebook_config"))
        if self.mask_head is None or self.config.segmentation_head != "sam":
            return self.codebook_head(image_features, group_states, image_of_target)
        image_map = image_features[self.config.vision_config.mask_map]
        return self.mask_head.decoder(
            self.mask_head.project_map(image_map),
            self.prompt_encoder.dense_positions(image_map.shape[1], image_map.shape[2]),
            self.prompt_encoder.no_mask,
            self.codebook_head.target_projection(group_states),
            image_of_target,
        ).logits[:, 0]

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> GroundedOutput | Tensor:
        """transformers' `generate` with a location for every token, in the same pass.

        Takes what the processor returns and every option of `GenerationConfig`; greedy, sampling and beam search.
        Options of our own, as keywords or entries of the generation config; flags may be tensors:
            decoder_input_ids: (R,T) what each answer begins with, with or without BOS, and cache: what has consumed
                all but the last of these tokens, from the output of an earlier call. They are words of the answer like
                those that follow, with locations of their own.
            query_ids: (R,T) the answer itself, an expression and EOS, right-padded: nothing is searched, the places of
                the given words are read (the official rule of referring). Options of decoding and of what to return
                per step mean nothing then.
            output_boxes: the box of what each answer is about, from the points of its last word; by default where
                query_ids or output_masks are given.
            output_masks: its mask, too.
            detect_objects: no prompt is given; the model finds the objects and captions each. input_ids (B,L).
            prompt_chunk_size: more prompts are encoded and decoded in chunks of this many (64), for bounded memory.
            no_immediate_repetition: the reference's greedy rule.
            complete_groups: let a target that is begun be written whole, whatever the model would write (True).
            max_repeated_tokens: an answer ends once so many tokens in a row repeat those directly before them; 0 is
                never. Words that point are left to
            max_repeated_targets: an answer ends once it has pointed with the same words so many times again, directly
                one after the other (or with several in turn); 0 is never.
            reference_beam_search: the reference's beam search instead of transformers' (see its module), with
                reference_beam_alpha (0.6) and reference_per_node_beam (candidates a beam: 2, or 1 when referring).
        With a streamer an answer is greedy where no beams are asked for, whatever the checkpoint does by default.
        A streamer that has `put_location(points (rows,P,2))` is told each token's location as soon as it is known, and
        one that has `put_certainty` before it coordinate_scales (rows,P,2) and visual_probs (rows,), where known.

        Returns `GroundedGenerateOutput` / `GroundedBeamGenerateOutput`, or with return_dict_in_generate=False the
        sequences alone; that is the default where synced_gpus is given, as `Seq2SeqTrainer` does. Rows: R prompts
        times num_return_sequences.
        """
        given = kwargs if inputs is None else {**kwargs, "pixel_values": inputs}
        return TaskGeneration.of_call(self, generation_config, logits_processor, streamer, given).output()

    @ShownToTrainer
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
        label_segments: Tensor | None = None,
        point_labels: Tensor | None = None,
        visual_labels: Tensor | None = None,
        text_loss_mask: Tensor | None = None,
        mask_labels: Tensor | None = None,
        mask_loss_mask: Tensor | None = None,
        target_mask_labels: Tensor | None = None,
        object_boxes: Tensor | None = None,
        object_labels: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_coordinates: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> PixelLLMOutput | tuple:
        """One teacher-forced or one cached pass.

        Args:
            pixel_values: (B,3,S,S) RGB, 0..255, on the canvas; pixel_mask (B,S,S) True on real pixels.
            prompt_boxes, prompt_points, prompt_point_labels, prompt_mask: see `get_visual_tokens`.
            input_ids: (R,L) text prompt, attention_mask (R,L). With encoder_outputs the mask is the encoder's, (R,S);
                without one they are all valid.
            original_sizes: travels with the inputs for post-processing; not used here.
            image_features, encoder_outputs: results of `get_image_features` / `encode` to use again.
            decoder_input_ids: (R,T) tokens to consume, the first one BOS; decoder_attention_mask (R,T) marks those
                that take part (see `GroundedLanguageModel.decode`).
            labels: (R,T) tokens to predict, -100 ignored. The decoder then consumes BOS and the labels, or the
                decoder_input_ids (R,T) that come too: BOS and all labels but the last, whose place is then not learnt.
            label_segments: (R,T) where a row's labels are several texts, one behind the other, each with its EOS: the
                number of the text that each label belongs to, -1 in the padding. Each is written as if it were alone.
            point_labels: (R,T,P,2) locations of the labels' tokens, xy, 0..1 of the unpadded image; NaN or all zero:
                no location. text_loss_mask (R,): rows whose text counts (all by default).
            visual_labels: (R,T) 1 where a label's token has a location, 0 where it has none, -100 where nobody knows;
                a point head that does not predict it leaves them alone.
            mask_labels: (R,S,S) what the labels refer to, > 0 inside, on the canvas; mask_loss_mask (R,): rows that
                have a mask (all by default).
            target_mask_labels: (K,S,S) masks on the canvas, > 0 inside, of all targets that are written whole in the
                labels, row after row in the order they are written.
            object_boxes: (B,M,4) xyxy canvas pixels of all objects, zero rows for padding; object_labels (B,M,T) their
                captions as labels. The proposal head finds them and its proposals become the prompts: no prompt and no
                labels are given beside them, input_ids (B,L) has one row per image, point_labels are (B,M,T,P,2).
            cache: what the decoder has consumed before.
            output_coordinates: False leaves the point head out.
            output_attentions, output_hidden_states: of the language model's layers, see `LayerOutputs`.
        """
        layers = LayerOutputs.asked(self.config, output_attentions, output_hidden_states)
        taught = Supervision(
            *(labels, label_segments, text_loss_mask, point_labels, visual_labels),
            *(mask_labels, mask_loss_mask, target_mask_labels),
        )
        seen, detection_loss = None, None
        if encoder_outputs is None:
            image_features = self.encode_image(image_features, pixel_values, pixel_mask)
            if object_boxes is not None:
                found = self._proposed(image_features, object_boxes, object_labels, point_labels)
                detection_loss, prompt_boxes, prompt_mask = found.loss, found.boxes, found.prompt_mask
                taught = taught.of_proposals(found)
                input_ids, attention_mask = (found.of_each_prompt(text) for text in (input_ids, attention_mask))
            seen = self.get_prompt_features(
                image_features, pixel_mask, prompt_boxes, prompt_points, prompt_point_labels, prompt_mask
            )
            length = 0 if mask_labels is None else self._mask_config().prompt_length
            states, mask = self.encode_prompts(seen, input_ids, attention_mask, length=length, layers=layers)
        else:
            states = encoder_outputs[0]
            mask = None if attention_mask is None else full_encoder_mask(attention_mask, states)
            if layers is not None:
                layers.keep("encoder", encoder_outputs)

        tokens, takes_part = taught.tokens(self.language_model, decoder_input_ids, decoder_attention_mask)
        consumed = tokens
        if mask_labels is not None:
            taught.check_masks(self.config.image_size, has_image=seen is not None, has_coordinates=output_coordinates)
            consumed, takes_part = self.padded_for_masks(tokens, takes_part)
        text_states, cache = self.language_model.decode(
            *(consumed, states, mask),
            decoder_mask=takes_part,
            cache=cache,
            use_cache=bool(use_cache) and taught.labels is None,
            layers=layers,
        )
        decoder_states = text_states[:, : tokens.shape[1]]
        logits = self.language_model.logits(decoder_states)
        located = self.point_head(self.location_states(decoder_states)) if output_coordinates else PointHeadOutput()

        loss, parts = None, None
        if taught.labels is not None:
            visual_tokens = None if seen is None else seen.tokens
            of_pass = TaughtPass(tokens, text_states, logits, located, image_features, visual_tokens, detection_loss)
            loss, parts = taught.losses(self, of_pass, pixel_mask, prompt_mask)
        output = PixelLLMOutput(
            loss=loss,
            loss_parts=parts,
            logits=logits,
            coordinates=located.coordinates,
            coordinate_scales=located.coordinate_scales,
            visual_logits=located.visual_logits,
            decoder_states=decoder_states,
            encoder_last_hidden_state=states,
            encoder_attention_mask=mask.long() if encoder_outputs is None else None,
            visual_tokens=None if seen is None else seen.tokens,
            cache=cache,
            **({} if layers is None else layers.kept),
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _proposed(
        self, image_features: VisionFeatures, object_boxes: Tensor, object_labels: Tensor | None, points: Tensor | None
    ) -> ProposedPrompts:
        """The detector's proposals as prompts, each with the caption of its object."""
        if self.proposal_head is None:
            raise ValueError(lacks_head("proposal", "detects no objects"))
        side = self.config.image_size
        return propose_prompts(self.proposal_head, image_features, object_boxes, object_labels, points, image_size=side)

    def padded_for_masks(self, tokens: Tensor, takes_part: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens (R,T), the first BOS -> (R,T') as long as the mask head reads, and which of them take part (R,T').

        EOS and padding take no part: they see everything alike, as in the reference.
        """
        text, missing = self.config.text_config, self._mask_config().text_length - tokens.shape[1]
        if takes_part is None:
            takes_part = ~is_one_of(tokens, self.language_model.padding_id) & ~after_end(tokens, text.eos_token_id)
            takes_part[:, 0] = True  # BOS may have the id of padding
        missing = max(missing, 0)
        return F.pad(tokens, (0, missing), value=text.pad_token_id), F.pad(takes_part, (0, missing))

    def row_sizes_wh(self, pixel_mask: Tensor | None, prompt_mask: Tensor | None, rows: int) -> Tensor:
        """(R,2) width and height in canvas pixels of the unpadded image that each row belongs to."""
        if pixel_mask is None:
            return torch.full((rows, 2), float(self.config.image_size), device=self.device)
        sizes = valid_size_hw(pixel_mask).flip(-1).float()
        return sizes[self.image_of_row(prompt_mask, len(sizes), rows)]

    def image_of_row(self, prompt_mask: Tensor | None, images: int, rows: int) -> Tensor:
        """(R,) the image that each row belongs to; without prompt_mask all images have as many prompts."""
        if prompt_mask is not None:
            return prompt_mask.nonzero()[:, 0]
        return torch.arange(images, device=self.device).repeat_interleave(rows // images)

    def _mask_config(self) -> Any:
        if self.config.mask_head_config is None:
            raise ValueError(lacks_head("mask", "makes no masks"))
        return self.config.mask_head_config


__all__ = ["PixelLLMForGroundedGeneration", "PixelLLMOutput", "PixelLLMPreTrainedModel"]
