"""Detections as the prompts of `generate()`, and their scores once captions are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .box_coding import pairwise_iou
from .configuration_heads import PixelLLMTowerProposalConfig
from .configuration_pixelllm import PixelLLMConfig
from .proposal_head import ProposalHead
from .target_masks import joined_targets
from .tower_proposals import TowerProposalHead
from .vision_towers import VisionFeatures

AnyProposalHead = ProposalHead | TowerProposalHead


@dataclass
class Detections:
    """boxes (B,N,4) xyxy canvas pixels, mask (B,N) which of them exist, scores (B,N), best first, 0 where none is."""

    boxes: Tensor
    mask: Tensor
    scores: Tensor

    def of_each_prompt(self, of_image: Tensor, name: str) -> Tensor:
        """What is given once per image, (B,…), for every detection: (R,…)."""
        if len(of_image) != len(self.mask):
            raise ValueError(
                f"with detect_objects {name} must have one row per image, but there are {len(self.mask)} images and "
                f"{len(of_image)} rows. The model repeats the row for every object that it finds."
            )
        return of_image[self.mask.nonzero()[:, 0]]


def make_proposal_head(config: PixelLLMConfig) -> AnyProposalHead:
    """The proposal head of a config that has one."""
    head = config.proposal_head_config
    # by its name: code that comes with a checkpoint is loaded more than once, and each time makes classes of its own
    if head.model_type == PixelLLMTowerProposalConfig.model_type:
        return TowerProposalHead(head, config.image_size)
    return ProposalHead(head, config.vision_config.feature_channels)


def detect_objects(head: AnyProposalHead, features: VisionFeatures, image_size: int) -> Detections:
    """The objects of every image, best first. Slots of the reference that hold none are left out.

    Boxes are clipped to the whole canvas of side `image_size`: as in the reference they may reach into the padding.
    """
    found = head(head.reads(features), (image_size, image_size))
    number = int(found.num_detections.max())
    boxes, scores = found.boxes[:, :number], found.scores[:, :number]
    exists = scores > 0
    return Detections(boxes.masked_fill(~exists[..., None], 0.0), exists, scores.clamp(min=0))


def rescore_with_captions(scores: Tensor, caption_log_probs: Tensor) -> Tensor:
    """The geometric mean of detection score and caption probability, both (…); padding and rejected boxes give 0.

    >>> rescore_with_captions(torch.tensor([0.81, -1.0]), torch.zeros(2)).tolist()
    [0.8999999761581421, 0.0]
    """
    return (scores.clamp(min=0) * caption_log_probs.float().exp()).sqrt()


def rescore_with_beams(scores: Tensor, beam_log_probs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a detection and one of its beams: scores (B,N), beam_log_probs (B,N,K) -> (B,count) each.

    Gives the new scores, best first, the detection of every pair and its beam. Of equal scores the first pair wins; a
    detection may come up more than once, with different captions.
    """
    pairs = rescore_with_captions(scores[..., None], beam_log_probs).flatten(1)
    best, order = pairs.sort(dim=1, descending=True, stable=True)
    best, order = best[:, :count], order[:, :count]
    beams = beam_log_probs.shape[-1]
    return best, torch.div(order, beams, rounding_mode="floor"), order % beams


def rescored(output: Any, detections: Detections, count: int) -> tuple[Any, Detections]:
    """The best pairs of a detection and one of its captions, at most `count` an image (official.md#rescoring).

    output has one or more rows per detection and `sequences_scores` (R*k,), the log-probabilities of their captions.
    Its rows are put into the order of the new scores; a detection comes up again with each caption that is kept.
    """
    mask, log_probs = detections.mask, output.sequences_scores
    copies = len(log_probs) // max(int(mask.sum()), 1)
    of_pairs = log_probs.new_zeros(*mask.shape, copies)
    of_pairs[mask] = log_probs.unflatten(0, (-1, copies))
    scores, prompt, beam = rescore_with_beams(detections.scores, of_pairs, min(count, mask.shape[1] * copies))
    exists = mask.gather(1, prompt)
    kept = int(exists.sum(1).max())  # pairs of nothing have the score 0 and come last
    scores, prompt, beam, exists = (values[:, :kept] for values in (scores, prompt, beam, exists))

    first_row = (mask.flatten().cumsum(0) - 1).view_as(mask) * copies
    rows = (first_row.gather(1, prompt) + beam)[exists]
    boxes = detections.boxes.gather(1, prompt[..., None].expand(-1, -1, 4))
    number = len(log_probs)
    kind = type(output)
    output = kind(**{name: value[rows] for name, value in output.items() if _is_answer(name, value, number)})
    return output, Detections(boxes, exists, scores)


def agreement(boxes: Tensor, images: Tensor, detections: Detections) -> Tensor:
    """How well boxes (R,4), canvas pixels, coincide with what was detected in their images (R,): (R,) 0..1.

    The largest IoU with a detection of the image; NaN for a box that is not finite. A referred box that lies between
    objects, or takes two for one, agrees with none; one on the wrong object is not noticed.
    """
    known = boxes.isfinite().all(-1)
    if not detections.mask.shape[1]:
        return boxes.new_zeros(len(boxes)).masked_fill(~known, torch.nan)
    overlaps = pairwise_iou(boxes.nan_to_num(0.0)[:, None], detections.boxes[images].float())[:, 0]  # R,N
    best = overlaps.masked_fill(~detections.mask[images], 0.0).amax(-1)
    return best.masked_fill(~known, torch.nan)


def joined(outputs: list[Any], pad_token_id: int) -> Any:
    """Answers of chunks as one: what has a row per answer, padded to the longest; the rest belongs to its chunk."""
    parts: dict[str, Tensor] = {}
    for name, first in outputs[0].items():
        if not _is_answer(name, first, len(outputs[0].sequences)):
            continue
        values = [output[name] for output in outputs]
        if name in ("sequences", "coordinates", "coordinate_scales", "visual_probs", "token_log_probs"):
            longest = max(value.shape[1] for value in values)
            filler = pad_token_id if name == "sequences" else torch.nan
            values = [_longer(value, longest, filler) for value in values]
        parts[name] = torch.cat(values)
    if outputs[0].targets is not None:
        parts["targets"] = joined_targets([output.targets for output in outputs])
    return type(outputs[0])(**parts)


def _is_answer(name: str, value: Any, number: int) -> bool:
    """Whether an entry of the output has a row per answer that means something without the search it came from."""
    return name != "beam_indices" and isinstance(value, Tensor) and value.ndim > 0 and len(value) == number


def _longer(values: Tensor, length: int, filler: float) -> Tensor:
    """values (R,T,…) -> (R,length,…)."""
    after = (0, 0) * (values.ndim - 2)
    return F.pad(values, (*after, 0, length - values.shape[1]), value=filler)


__all__ = [
    "AnyProposalHead",
    "Detections",
    "agreement",
    "detect_objects",
    "joined",
    "make_proposal_head",
    "rescore_with_beams",
    "rescore_with_captions",
    "rescored",
]
