"""What a forward pass and `generate()` give, and what the language model's layers leave behind if somebody asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput, GenerateEncoderDecoderOutput
from transformers.modeling_outputs import Seq2SeqLMOutput

from .target_masks import AnswerTargets


@dataclass
class PixelLLMOutput(Seq2SeqLMOutput):
    """What one forward pass gives.

    loss: weighted total, if labels were given; loss_parts: its unweighted parts by name ("text", "point", "giou",
    "visual", "mask", "target", "detection").
    logits (R,T,V); decoder_states (R,T,C): state t has consumed decoder token t; coordinates (R,T,P,2) float32, xy,
    0..1 of the unpadded image, entry t belongs to decoder token t (entry 0, of BOS, means nothing).
    coordinate_scales (R,T,P,2) float32, the expected error of each coordinate, and visual_logits (R,T) float32, that
    the token has a location at all: as predicted, not calibrated; None in models that do not predict them.
    With labels and no decoder_input_ids T is one more than the labels': decoder tokens are BOS and the labels.
    encoder_last_hidden_state (R,S,C) and its encoder_attention_mask (R,S) int64, the mask unless encoder_outputs came.
    visual_tokens (R,V,C) of `get_visual_tokens`, likewise.
    The rest as `LayerOutputs` keeps it, if it was asked for.
    """

    loss_parts: dict[str, Tensor] | None = None
    coordinates: Tensor | None = None
    coordinate_scales: Tensor | None = None
    visual_logits: Tensor | None = None
    decoder_states: Tensor | None = None
    encoder_attention_mask: Tensor | None = None
    visual_tokens: Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # transformers lists all fields anew for each that is set; None, which most are in a cached decoding step, goes
        # no further than the attribute.
        if value is None and name in self.__dataclass_fields__:
            object.__setattr__(self, name, None)
        else:
            super().__setattr__(name, value)


@dataclass
class GroundedGenerateOutput(GenerateEncoderDecoderOutput):
    """Greedy and sampled captions with a location for every token.

    sequences (R,T) int64; coordinates (R,T,P,2) float32 xy, 0..1 of the unpadded image, entry t belongs to
    sequences[:, t], NaN for BOS, EOS and padding; where the point head predicts them coordinate_scales (R,T,P,2)
    float32, the calibrated expected error of each coordinate in its frame, and visual_probs (R,T) float32, how likely
    the token has a location at all, NaN likewise; token_log_probs (R,T) float32, the model's own log-probability of
    sequences[:, t] before any warping, NaN where there is no location.
    Where asked for: boxes (R,4) float32 xyxy, 0..1 of the unpadded image, of what the answer is about, NaN if it has no
    word or no end; box_scores (R,) 0..1, if the model has a detector: how well they agree with what that finds;
    masks (R,4h,4w) float32 logits over the whole canvas, > 0 inside, and mask_scores (R,), the overlap
    that the model promises; both NaN without a box.
    Of detections: prompt_boxes (B,N,4) canvas pixels, prompt_mask (B,N) which of them exist (the R rows, image-major)
    and detection_scores (B,N), best first. sequences_scores (R,), log-probabilities of the captions, if scores count
    them (`multiply_caption_score`).
    targets: what the answers point at with the codebook's tokens, of a model that has a codebook head, where the image
    was given and prompts too.
    """

    coordinates: Tensor | None = None
    coordinate_scales: Tensor | None = None
    visual_probs: Tensor | None = None
    token_log_probs: Tensor | None = None
    boxes: Tensor | None = None
    box_scores: Tensor | None = None
    masks: Tensor | None = None
    mask_scores: Tensor | None = None
    prompt_boxes: Tensor | None = None
    prompt_mask: Tensor | None = None
    detection_scores: Tensor | None = None
    sequences_scores: Tensor | None = None
    targets: AnswerTargets | None = None


@dataclass
class GroundedBeamGenerateOutput(GenerateBeamEncoderDecoderOutput):
    """Captions of a beam search with a location for every token; fields as in `GroundedGenerateOutput`."""

    coordinates: Tensor | None = None
    coordinate_scales: Tensor | None = None
    visual_probs: Tensor | None = None
    token_log_probs: Tensor | None = None
    boxes: Tensor | None = None
    box_scores: Tensor | None = None
    masks: Tensor | None = None
    mask_scores: Tensor | None = None
    prompt_boxes: Tensor | None = None
    prompt_mask: Tensor | None = None
    detection_scores: Tensor | None = None
    targets: AnswerTargets | None = None


@dataclass
class LayerOutputs:
    """What the language model's layers are asked to leave behind, and what they left.

    kept, by the names of `PixelLLMOutput`: hidden states per layer (R,S,C) of the encoder and (R,T,C) of the decoder,
    the first ones what went into layer 0; attention weights per layer (R,heads,S,S), (R,heads,T,T) and, of decoder
    tokens over the encoder's, (R,heads,T,S). Fused attention kernels have no weights to leave: T5 gives them with
    `attn_implementation="eager"` alone. The vision towers' attention is not kept.
    In the prefix decoder memory stands for the encoder, text sees both at once (a row's cross and decoder attention
    add up to 1), and what memory would become in the last layer is not computed.
    """

    attentions: Any = False
    hidden_states: Any = False
    kept: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    @classmethod
    def asked(cls, settings: Any, attentions: Any = None, hidden_states: Any = None) -> LayerOutputs | None:
        """The arguments output_attentions and output_hidden_states, where None a config's; None if nothing is asked.

        hidden_states may be layer numbers, which T5 understands.
        """
        attentions = settings.output_attentions if attentions is None else attentions
        hidden_states = settings.output_hidden_states if hidden_states is None else hidden_states
        if not attentions and (hidden_states is None or hidden_states is False):
            return None
        return cls(bool(attentions), False if hidden_states is None else hidden_states)

    def keep(self, part: str, output: Any) -> None:
        """What a stack of transformers' returned; part: "encoder" or "decoder"."""
        for name in ("hidden_states", "attentions", "cross_attentions"):
            values = getattr(output, name, None)
            if values:  # a fused kernel leaves an empty tuple
                self.kept[name if name.startswith("cross") else f"{part}_{name}"] = tuple(values)

    def add(self, **values: Tensor) -> None:
        """One layer's, by the names of `kept`."""
        for name, value in values.items():
            self.kept[name] = (*self.kept.get(name, ()), value)


__all__ = ["GroundedBeamGenerateOutput", "GroundedGenerateOutput", "LayerOutputs", "PixelLLMOutput"]
