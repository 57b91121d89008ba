"""PixelLM's vision tower: transformers' CLIP, read at several depths, with padding that no patch attends to.

Source: arXiv 2312.02228, section 3.1; the released `CLIPVisionTower` with its resized positions and padding mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from .linear import with_linear


class ClipVisionTower(nn.Module):
    """CLIP up to the deepest hidden state that is asked for; later blocks are kept, for their weights, and not run."""

    def __init__(self, config: CLIPVisionConfig, feature_layers: Sequence[int]):
        super().__init__()
        self.vision_model = with_linear(CLIPVisionModel(config))
        depth = config.num_hidden_layers + 1
        self.feature_layers = [layer % depth for layer in feature_layers]

    def forward(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> list[Tensor]:
        """pixels (B,3,S,S) normalised, pixel_mask (B,S,S) -> a map (B,g,g,C) of each feature layer."""
        clip = self.vision_model
        hidden = clip.pre_layrnorm(clip.embeddings(pixels))
        side = pixels.shape[-1] // clip.embeddings.patch_size
        mask = None if pixel_mask is None else _key_mask(patch_mask(pixel_mask, side), hidden)
        states = [hidden]
        for block in clip.encoder.layers[: max(self.feature_layers)]:
            states.append(block(states[-1], mask))
        return [states[layer][:, 1:].unflatten(1, (side, side)) for layer in self.feature_layers]


def patch_mask(pixel_mask: Tensor, side: int) -> Tensor:
    """pixel_mask (B,S,S) -> (B,side,side) bool: a patch counts where its top-left pixel is of the image."""
    return F.interpolate(pixel_mask[:, None].float(), (side, side), mode="nearest")[:, 0] > 0


def resize_positions(table: Tensor, side: int, *, class_row: str) -> Tensor:
    """CLIP's learnt positions (1+n*n,C) for another grid: (1+side*side,C), bilinear.

    class_row: "first" is right for CLIP, whose class token comes first. "last" is what the released PixelLM does: it
    takes the last row for the class's, so that the grid is shifted by one, and puts the class's behind the grid. Its
    weights were trained so; a conversion of them needs it.
    """
    if class_row not in ("first", "last"):
        raise ValueError(f"class_row must be 'first' or 'last' (as released), but it is {class_row!r}.")
    old = round((len(table) - 1) ** 0.5)
    if old * old + 1 != len(table):
        raise ValueError(
            f"a table of positions has a row for each cell of a square grid and one for the class, but it has "
            f"{len(table)} rows. Is it that of a CLIP tower?"
        )
    grid, of_class = (table[1:], table[:1]) if class_row == "first" else (table[:-1], table[-1:])
    planes = grid.float().T.reshape(1, -1, old, old)
    grid = F.interpolate(planes, (side, side), mode="bilinear", align_corners=False)[0].flatten(1).T.to(table.dtype)
    return torch.cat([of_class, grid] if class_row == "first" else [grid, of_class])


def _key_mask(patches: Tensor, hidden: Tensor) -> Tensor:
    """patches (B,g,g) -> scores (B,1,1+g*g,1+g*g) added to attention; the class always counts."""
    keep = F.pad(patches.flatten(1), (1, 0), value=True)
    scores = torch.zeros(keep.shape, dtype=hidden.dtype, device=hidden.device)
    scores = scores.masked_fill(~keep, torch.finfo(hidden.dtype).min)
    return scores[:, None, None, :].expand(-1, 1, keep.shape[1], -1)


__all__ = ["ClipVisionTower", "patch_mask", "resize_positions"]
