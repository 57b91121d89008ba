"""YOLOX's backbone and feature pyramid: a small convolutional tower that knows where COCO's objects are.

Source: Ge et al., "YOLOX" (arXiv 2107.08430); official code `yolox/models/{darknet,yolo_pafpn,network_blocks}.py`.
Batch norms are part of the convolutions here, as in the exported weights; modules stand in the order in which they run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_towers import PixelLLMYoloxTowerConfig
from .vision_convolutions import TowerConv2d


class YoloxConv(nn.Sequential):
    """Convolution and SiLU; with `depthwise` each channel is filtered by itself before a 1x1 convolution mixes them."""

    def __init__(self, fan_in: int, fan_out: int, kernel_size: int, *, stride: int = 1, depthwise: bool = False):
        if depthwise:
            first = TowerConv2d(fan_in, fan_in, kernel_size, stride=stride, groups=fan_in)
            super().__init__(first, nn.SiLU(), TowerConv2d(fan_in, fan_out, 1), nn.SiLU())
        else:
            super().__init__(TowerConv2d(fan_in, fan_out, kernel_size, stride=stride), nn.SiLU())


class YoloxBottleneck(nn.Module):
    """1x1 and 3x3 convolution of one width, with or without a shortcut."""

    def __init__(self, width: int, *, shortcut: bool, depthwise: bool):
        super().__init__()
        self.conv1 = YoloxConv(width, width, 1)
        self.conv2 = YoloxConv(width, width, 3, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(self.conv1(x))
        return x + branch if self.shortcut else branch


class YoloxStage(GradientCheckpointingLayer):
    """Cross-stage partial layer: one half of the channels goes through bottlenecks, the other past them."""

    def __init__(self, fan_in: int, fan_out: int, depth: int, *, shortcut: bool, depthwise: bool):
        super().__init__()
        half = fan_out // 2
        self.conv1 = YoloxConv(fan_in, half, 1)
        self.conv2 = YoloxConv(fan_in, half, 1)
        blocks = (YoloxBottleneck(half, shortcut=shortcut, depthwise=depthwise) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.conv3 = YoloxConv(2 * half, fan_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], dim=1))


class YoloxPooling(nn.Module):
    """Maxima around each cell over 5, 9 and 13 cells beside the cell itself."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = YoloxConv(width, width // 2, 1)
        self.conv2 = YoloxConv(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        around = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
        return self.conv2(torch.cat([x, *around], dim=1))


class YoloxBranch(nn.Module):
    """The detector's head on one level: for each cell a box, whether there is an object, and of which class."""

    def __init__(self, fan_in: int, width: int, num_classes: int, *, depthwise: bool):
        super().__init__()

        def convolutions() -> nn.Sequential:
            return nn.Sequential(*(YoloxConv(width, width, 3, depthwise=depthwise) for _ in range(2)))

        self.stem = YoloxConv(fan_in, width, 1)
        self.class_convs = convolutions()
        self.class_output = TowerConv2d(width, num_classes, 1)
        self.box_convs = convolutions()
        self.box_output = TowerConv2d(width, 4, 1)
        self.object_output = TowerConv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w) -> (B, 5 + classes, h, w): the box as it is regressed, then probabilities."""
        x = self.stem(x)
        classes, box = self.class_output(self.class_convs(x)), self.box_convs(x)
        return torch.cat([self.box_output(box), self.object_output(box).sigmoid(), classes.sigmoid()], dim=1)


_LEVELS = ("p3", "p4", "p5")


class YoloxTower(nn.Module):
    """CSPDarknet and PAFPN, with the detector's head if one of the maps is its answer; see the config.

    >>> tower = YoloxTower(PixelLLMYoloxTowerConfig())
    >>> {name: tuple(m.shape) for name, m in tower(torch.zeros(1, 3, 64, 64)).items()}
    {'p3': (1, 8, 8, 64), 'p4': (1, 4, 4, 128), 'p5': (1, 2, 2, 256)}
    """

    def __init__(self, config: PixelLLMYoloxTowerConfig):
        super().__init__()
        self.config = config
        width, depth, depthwise = config.base_channels, config.base_depth, config.depthwise
        self.stem = nn.Sequential(TowerConv2d(12, width, 3, input_scale=128.0), nn.SiLU())  # it reads plain 0..255
        self.dark2 = _dark(width, depth, depthwise)
        self.dark3 = _dark(2 * width, 3 * depth, depthwise)
        self.dark4 = _dark(4 * width, 3 * depth, depthwise)
        self.dark5 = _dark(8 * width, depth, depthwise, pooling=True)

        def stage(fan_in: int, fan_out: int) -> YoloxStage:
            return YoloxStage(fan_in * width, fan_out * width, depth, shortcut=False, depthwise=depthwise)

        self.lateral5 = YoloxConv(16 * width, 8 * width, 1)
        self.top_down4 = stage(16, 8)
        self.lateral4 = YoloxConv(8 * width, 4 * width, 1)
        self.top_down3 = stage(8, 4)
        self.down3 = YoloxConv(4 * width, 4 * width, 3, stride=2, depthwise=depthwise)
        self.bottom_up4 = stage(8, 8)
        self.down4 = YoloxConv(8 * width, 8 * width, 3, stride=2, depthwise=depthwise)
        self.bottom_up5 = stage(16, 16)
        self.head = None
        if config.has_head:
            branches = (YoloxBranch(n * width, 4 * width, config.num_classes, depthwise=depthwise) for n in (4, 8, 16))
            self.head = nn.ModuleList(branches)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """pixels (B, 3, H, W), normalised by the config's statistics, padding 0 -> maps, channels last."""
        seen = self._pyramid(pixels)
        if self.head is not None:
            found = [branch(seen[name]) for branch, name in zip(self.head, _LEVELS, strict=True)]
            seen["classes"] = class_map(found, (seen["p4"].shape[-2], seen["p4"].shape[-1]))
            answers = _decoded(found, pixels)
            seen["boxes"] = box_map(answers, (seen["p5"].shape[-2], seen["p5"].shape[-1])).to(seen["p5"].dtype)
            seen["detections"] = surest(answers, (seen["p4"].shape[-2], seen["p4"].shape[-1]))
        return {name: seen[name].permute(0, 2, 3, 1).contiguous() for name in self.config.output_maps}

    def detect(self, pixels: Tensor) -> Tensor:
        """pixels as in `forward` -> the answers of all cells (B, M, 5 + K), level by level: box xyxy in shares of the
        input, whether there is an object, and the probability of each class."""
        if self.head is None:
            raise ValueError("this tower has no detector's head: add `detections` to output_maps of its config.")
        seen = self._pyramid(pixels)
        return _decoded([branch(seen[name]) for branch, name in zip(self.head, _LEVELS, strict=True)], pixels)

    def _pyramid(self, pixels: Tensor) -> dict[str, Tensor]:
        """p3, p4 and p5, (B, C, h, w)."""
        mean, std = (
            pixels.new_tensor(values).view(3, 1, 1) for values in (self.config.image_mean, self.config.image_std)
        )
        # The network reads plain 0..255 and was trained with grey padding: that is what 0 is before this.
        x = (pixels * std + mean).to(next(self.stem.parameters()).dtype)
        x = quarters(x).contiguous(memory_format=torch.channels_last)
        dark3 = self.dark3(self.dark2(self.stem(x)))
        dark4 = self.dark4(dark3)
        lateral5 = self.lateral5(self.dark5(dark4))
        lateral4 = self.lateral4(self.top_down4(torch.cat([_enlarged(lateral5, dark4), dark4], dim=1)))
        p3 = self.top_down3(torch.cat([_enlarged(lateral4, dark3), dark3], dim=1))
        p4 = self.bottom_up4(torch.cat([self.down3(p3), lateral4], dim=1))
        p5 = self.bottom_up5(torch.cat([self.down4(p4), lateral5], dim=1))
        return {"p3": p3, "p4": p4, "p5": p5}


def quarters(pixels: Tensor) -> Tensor:
    """Every 2x2 pixels as one with four times the channels: (B, C, H, W) -> (B, 4C, ceil(H / 2), ceil(W / 2)).

    The pixel at the top left, below it, right of it, and across.
    """
    pixels = F.pad(pixels, (0, pixels.shape[-1] % 2, 0, pixels.shape[-2] % 2))
    return torch.cat([pixels[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)


def decode_boxes(answers: Tensor, stride: int, size_hw: tuple[int, int]) -> Tensor:
    """Answers of a branch (B, 5 + K, h, w) -> the same with boxes xyxy in shares of an input of `size_hw` pixels."""
    height, width = answers.shape[-2:]
    steps = [torch.arange(size, device=answers.device, dtype=torch.float32) for size in (width, height)]
    cells = torch.stack(torch.meshgrid(*steps, indexing="xy"))
    box = answers[:, :4].float()
    centre, half = (box[:, :2] + cells) * stride, box[:, 2:].exp() * stride / 2
    scale = box.new_tensor([size_hw[1], size_hw[0]] * 2).view(4, 1, 1)
    return torch.cat([torch.cat([centre - half, centre + half], dim=1) / scale, answers[:, 4:].float()], dim=1)


def class_map(answers: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
    """Answers of the three branches (B, 5 + K, h, w) -> (B, K, h, w) on one grid: root of the surest level's score."""
    fine, *others = (answer[:, 4:5] * answer[:, 5:] for answer in answers)
    scores = F.adaptive_max_pool2d(fine, size_hw)
    for other in others:
        scores = torch.maximum(scores, F.interpolate(other, size=size_hw, mode="nearest"))
    return scores.clamp(min=1e-12).sqrt()


def surest(answers: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """All cells' answers (B, M, 5 + K) -> (B, 5 + K, h, w): as many of the surest as the grid has cells.

    Best first, row by row: where they stand in the grid says nothing. Beyond the last one there are zeros.
    """
    height, width = size_hw
    scores = answers[..., 4] * answers[..., 5:].amax(-1)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, : height * width]
    chosen = answers.gather(1, best[..., None].expand(-1, -1, answers.shape[-1])).transpose(1, 2)
    return F.pad(chosen, (0, height * width - chosen.shape[-1])).unflatten(2, size_hw)


def box_map(found: Tensor, size_hw: tuple[int, int], *, most: int = 100, least: float = 0.03) -> Tensor:
    """All cells' answers (B, M, 5 + K), boxes in shares of the canvas -> (B, 6, h, w) on one grid.

    A cell tells of the surest box whose centre lies in it, among the `most` surest of the image whose score is above
    `least`: 4 * (xyxy - 0.5), cut to the canvas, twice the root of the score, and 1. A cell without one has zeros.
    """
    height, width = size_hw
    scores = found[..., 4] * found[..., 5:].amax(-1)
    scores, surest = scores.topk(min(most, scores.shape[1]), dim=1)
    boxes = found[..., :4].gather(1, surest[..., None].expand(-1, -1, 4))
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    columns = (centres[..., 0] * width).long().clamp(0, width - 1)
    cells = (centres[..., 1] * height).long().clamp(0, height - 1) * width + columns
    # They come best first: the first of a cell is its surest.
    earlier = torch.ones(cells.shape[1], cells.shape[1], dtype=torch.bool, device=cells.device).tril(-1)
    first = ~((cells[:, :, None] == cells[:, None, :]) & earlier).any(-1)
    told = torch.cat(
        [4 * (boxes.clamp(0, 1) - 0.5), 2 * scores.sqrt()[..., None], torch.ones_like(scores)[..., None]], -1
    )
    told = torch.where((first & (scores > least))[..., None], told, 0.0)
    told = told.new_zeros(told.shape[0], height * width, 6).scatter_add(1, cells[..., None].expand(-1, -1, 6), told)
    return told.transpose(1, 2).unflatten(2, size_hw)


def _decoded(found: Sequence[Tensor], pixels: Tensor) -> Tensor:
    """Answers of the branches (B, 5 + K, h, w) for these pixels -> of all cells (B, M, 5 + K), level by level."""
    size_hw = pixels.shape[-2], pixels.shape[-1]
    levels = [decode_boxes(answers, 2**number, size_hw) for number, answers in enumerate(found, 3)]
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


def _dark(width: int, depth: int, depthwise: bool, *, pooling: bool = False) -> nn.Sequential:
    parts: list[nn.Module] = [YoloxConv(width, 2 * width, 3, stride=2, depthwise=depthwise)]
    if pooling:
        parts.append(YoloxPooling(2 * width))
    parts.append(YoloxStage(2 * width, 2 * width, depth, shortcut=not pooling, depthwise=depthwise))
    return nn.Sequential(*parts)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


__all__ = ["YoloxBranch", "YoloxConv", "YoloxTower", "box_map", "class_map", "decode_boxes", "quarters", "surest"]
