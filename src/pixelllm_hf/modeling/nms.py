"""Greedy non-maximum suppression of boxes that come best first."""

from __future__ import annotations

import torch
from torch import Tensor

from .box_coding import pairwise_iou
from .torchvision_ops import torchvision_ops


def greedy_nms(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes survive: boxes (B,N,4) xyxy, best first -> (B,N) bool.

    A box goes if it overlaps a better survivor by iou_threshold or more. Without an area nothing overlaps.

    >>> greedy_nms(torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 2]]]), 0.6).tolist()
    [[True, False, True]]
    """
    boxes = boxes.detach().float()
    ops = torchvision_ops()
    if ops is not None:
        return torch.stack([_with_torchvision(ops, of_image, iou_threshold) for of_image in boxes])
    return torch.stack([_survivors(of_image, iou_threshold) for of_image in boxes])


def _survivors(boxes: Tensor, iou_threshold: float) -> Tensor:
    """boxes (N,4) -> (N,) bool.

    Whether a box survives depends on better boxes only. So repeating "suppressed by a survivor", all boxes at once,
    settles at least one more box from the top each time, and what no longer changes is the greedy result. It takes as
    many rounds as the longest chain of boxes that suppress one another, usually a handful.
    """
    suppresses = (pairwise_iou(boxes, boxes) >= iou_threshold).triu(1).to(boxes.dtype)
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while True:
        survivors = keep.to(boxes.dtype) @ suppresses == 0
        if torch.equal(survivors, keep):
            return keep
        keep = survivors


def _with_torchvision(ops: object, boxes: Tensor, iou_threshold: float) -> Tensor:
    """The same by torchvision, which suppresses *above* a threshold: hence the next smaller one."""
    below = torch.nextafter(torch.tensor(iou_threshold), torch.tensor(-1.0)).item()
    best_first = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    kept = ops.nms(boxes, best_first, below)  # type: ignore[attr-defined]
    return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device).index_fill_(0, kept, True)


def first_survivors(keep: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the first `count` survivors: keep (B,N) -> index (B,count), filled (B,count) bool.

    Slots that nothing is left for hold the last place, N - 1, and are not filled.
    """
    number = keep.shape[1]
    index = (~keep).to(torch.uint8).sort(dim=1, stable=True).indices[:, :count]
    index = torch.nn.functional.pad(index, (0, count - index.shape[1]), value=number - 1)
    filled = torch.arange(count, device=keep.device) < keep.sum(dim=1, keepdim=True)
    return index.masked_fill(~filled, number - 1), filled


__all__ = ["first_survivors", "greedy_nms"]
