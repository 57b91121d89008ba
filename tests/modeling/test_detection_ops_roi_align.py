from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelllm_hf.modeling import detection_ops
from pixelllm_hf.modeling.detection_ops import box_levels, roi_align, torchvision_ops

STRIDES = (8, 16, 32, 64, 128)


class TorchvisionAsDocumented:
    """`torchvision.ops.roi_align` in loops: beyond one cell outside a map is 0, up to there the edge repeats."""

    @staticmethod
    def roi_align(
        input: Tensor, boxes: Tensor, output_size: int, spatial_scale: float, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        pooled = []
        for image, *corners in boxes:
            x1, y1, x2, y2 = (float(corner) * spatial_scale - 0.5 * aligned for corner in corners)
            points = output_size * sampling_ratio
            rows = [y1 + (y2 - y1) * (k + 0.5) / points for k in range(points)]
            columns = [x1 + (x2 - x1) * (k + 0.5) / points for k in range(points)]
            plane = input[int(image)]
            samples = torch.stack([torch.stack([_sample(plane, y, x) for x in columns]) for y in rows])
            samples = samples.unflatten(0, (output_size, -1)).unflatten(2, (output_size, -1)).mean((1, 3))
            pooled.append(samples.permute(2, 0, 1))
        return torch.stack(pooled)


def _sample(plane: Tensor, y: float, x: float) -> Tensor:
    height, width = plane.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return plane.new_zeros(len(plane))
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = plane[:, top, left] * (1 - dx) + plane[:, top, right] * dx
    lower = plane[:, bottom, left] * (1 - dx) + plane[:, bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def pyramid(images: int = 2, side: int = 32, channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, side >> k, (side >> k) + 1, channels, generator=generator) for k in range(5)]


def boxes_of_all_sizes() -> Tensor:
    """Inside, at the border, beyond it, without an area, and of sizes that read different levels."""
    first = [[10.0, 12, 90, 60], [0, 0, 256, 256], [-40, -30, 20, 15], [200, 220, 300, 290], [33, 33, 33, 33]]
    second = [[3.0, 5, 12, 9], [0, 0, 600, 700], [0, 0, 1200, 900], [50, 0, 50, 80], [400, 400, 500, 500]]
    return torch.tensor([first, second])


def use(monkeypatch, ops) -> None:
    monkeypatch.setattr(detection_ops, "torchvision_ops", lambda: ops)


@pytest.mark.parametrize("ops", [TorchvisionAsDocumented, torchvision_ops()], ids=["as documented", "installed"])
def test_torchvision_gives_the_same_features(monkeypatch, ops):
    if ops is None:
        pytest.skip("torchvision is not installed")
    maps, boxes = pyramid(), boxes_of_all_sizes()
    use(monkeypatch, None)
    plain = roi_align(maps, boxes, STRIDES, 7)
    use(monkeypatch, ops)
    torch.testing.assert_close(roi_align(maps, boxes, STRIDES, 7), plain, rtol=1e-4, atol=1e-5)


def test_both_paths_give_the_same_gradient(monkeypatch):
    boxes, gradients = boxes_of_all_sizes(), []
    for ops in (None, TorchvisionAsDocumented):
        use(monkeypatch, ops)
        maps = [image_map.requires_grad_() for image_map in pyramid()]
        roi_align(maps, boxes, STRIDES, 3).square().sum().backward()
        gradients.append(maps[0].grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_a_box_around_one_cell_of_a_flat_map_reads_its_value(monkeypatch):
    use(monkeypatch, None)
    maps = [torch.full((1, 8, 8, 1), 5.0 + k) for k in range(5)]
    features = roi_align(maps, torch.tensor([[[16.0, 16, 40, 32]]]), STRIDES, 7)
    torch.testing.assert_close(features, torch.full((1, 1, 7, 7, 1), 5.0))


def test_beyond_the_border_everything_is_zero(monkeypatch):
    use(monkeypatch, None)
    maps = [torch.ones(1, 4, 4, 1) for _ in STRIDES]
    outside, corner = roi_align(maps, torch.tensor([[[80.0, 80, 120, 120], [16, 16, 48, 48]]]), STRIDES, 2)[0]
    assert not outside.any()
    assert corner[0, 0, 0] == 1 and corner[1, 1, 0] == 0 and corner[0, 1, 0] < 1


def test_a_box_of_224_pixels_reads_the_level_of_stride_16():
    sides = torch.tensor([4.0, 223, 225, 447, 449, 900, 5000])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=-1)
    assert box_levels(boxes, STRIDES).tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_images_do_not_see_each_other(monkeypatch):
    use(monkeypatch, None)
    maps, boxes = pyramid(), boxes_of_all_sizes()
    alone = [roi_align([m[i : i + 1] for m in maps], boxes[i : i + 1], STRIDES, 7) for i in range(2)]
    torch.testing.assert_close(roi_align(maps, boxes, STRIDES, 7), torch.cat(alone))


def test_half_precision_maps_are_sampled_at_the_same_places(monkeypatch):
    use(monkeypatch, None)
    maps, boxes = [image_map.bfloat16() for image_map in pyramid()], boxes_of_all_sizes()
    features = roi_align(maps, boxes, STRIDES, 7)
    assert features.dtype == torch.bfloat16
    assert torch.equal(features, roi_align([m.float() for m in maps], boxes, STRIDES, 7).bfloat16())
