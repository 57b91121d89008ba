"""PicoDet as its authors export it, run by onnxruntime: a detector of COCO's 80 categories that labels images.

Source: PaddleDetection, configs/picodet (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CANVAS = 416  # pixels a side, as it was exported for
_STRIDES = (8, 16, 32, 64)


def picodet(path: str | Path, *, mean: float = 114.0) -> Callable[[Tensor], Tensor]:
    """path: picodet_s_416_coco.onnx -> what `ObjectDetector` asks: pixels (1,3,416,416) less mean -> (1,M,5 + 80)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # the file lists its weights as inputs too, and each would be warned of
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = [each.name for each in session.get_inputs() if each.shape == [1, 3, CANVAS, CANVAS]]

    def answer(pixels: Tensor) -> Tensor:
        values = (pixels + mean - pixels.new_tensor(MEAN).view(3, 1, 1)) / pixels.new_tensor(STD).view(3, 1, 1)
        found = session.run(None, {given: values.numpy()})
        return torch.cat([decoded(*level) for level in zip(_STRIDES, found[:4], found[4:], strict=True)], dim=1)

    return answer


def decoded(stride: int, classes: np.ndarray, sides: np.ndarray) -> Tensor:
    """Probabilities (1,M,80) and distributions (1,M,4 x 8) of the four distances in strides of a level -> (1,M,85)."""
    cells = -(-CANVAS // stride)
    steps = (torch.arange(cells) + 0.5) * stride
    centres = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)
    bins = torch.from_numpy(sides).unflatten(-1, (4, -1)).softmax(-1)
    distances = (bins * torch.arange(bins.shape[-1])).sum(-1) * stride
    boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1) / CANVAS
    return torch.cat([boxes, torch.ones_like(boxes[..., :1]), torch.from_numpy(classes)], dim=-1)
