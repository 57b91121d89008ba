from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.parity.masks import mask_losses
from pixelllm_hf.modeling.mask_losses import dice_loss, focal_loss, mask_iou, mask_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "losses.safetensors"


def some_rows(count: int = 3, proposals: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "logits": torch.randn(count, proposals, 6, 6, generator=generator),
        "iou_predictions": torch.rand(count, proposals, generator=generator),
        "masks": (torch.rand(count, 12, 12, generator=generator) > 0.6).float(),
    }


def total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def test_every_part_equals_the_reference():
    golden = Golden.read(GOLDEN)
    ours = mask_losses(golden)
    theirs = {name: value[0] for name, value in golden.outputs.items() if name.startswith("mask/")}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


def test_rows_that_do_not_count_change_nothing_whatever_they_hold():
    rows = some_rows()
    counted = mask_loss(**{name: value[:2] for name, value in rows.items()})
    rows["logits"][2] = torch.nan
    masked = mask_loss(**rows, row_mask=torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(masked, counted)


def test_no_row_that_counts_means_no_loss_and_no_gradient():
    rows = some_rows()
    rows["logits"].requires_grad_()
    parts = mask_loss(**rows, row_mask=torch.zeros(3))
    assert all(loss == 0 for loss in parts.values())
    total(parts).backward()
    assert not rows["logits"].grad.any()


def test_padding_weighs_nothing_in_the_focal_loss_alone():
    rows = some_rows(proposals=1)
    pixels = torch.ones(3, 12, 12)
    pixels[:, :, 7:] = 0
    with_padding, without = mask_loss(**rows, pixel_mask=pixels), mask_loss(**rows)
    up = torch.nn.functional.interpolate(rows["logits"], size=(12, 12), mode="bilinear")
    focal = focal_loss(up[:, 0, :, :7], rows["masks"][:, :, :7], torch.ones(3, 12, 7)).mean()
    torch.testing.assert_close(with_padding["focal"], 20 * focal)
    assert with_padding["focal"] != without["focal"]
    assert with_padding["dice"] == without["dice"] and with_padding["iou"] == without["iou"]


def test_the_best_proposal_alone_is_taught_the_mask_and_every_one_its_overlap():
    rows = some_rows(count=1, proposals=3)
    rows["masks"][:] = 0
    rows["masks"][:, 2:8, 4:10] = 1
    rows["logits"][:, 1] = rows["masks"][:, ::2, ::2] * 6 - 3  # by far the best
    rows["logits"].requires_grad_()
    rows["iou_predictions"].requires_grad_()
    parts = mask_loss(**rows)
    (parts["focal"] + parts["dice"]).backward(retain_graph=True)
    assert [bool(g.any()) for g in rows["logits"].grad[0]] == [False, True, False]
    parts["iou"].backward()
    assert rows["iou_predictions"].grad.all()


def test_the_parts_of_one_pixel_by_hand():
    logits, truth = torch.zeros(1, 1), torch.ones(1, 1)
    # p = 1/2: alpha * -log(p) * (1 - p)^2, and 1 - (2p + 1) / (p + 1 + 1)
    assert focal_loss(logits, truth, truth).item() == pytest.approx(0.5 * 0.693147 * 0.25, rel=1e-5)
    assert dice_loss(logits, truth).item() == pytest.approx(1 - 2 / 2.5)


def test_a_perfect_confident_mask_costs_almost_nothing():
    masks = torch.zeros(1, 12, 12)
    masks[:, 3:9, 2:8] = 1
    logits = (masks * 2 - 1)[:, None] * 30
    assert total(mask_loss(logits, torch.ones(1, 1), masks)) < 1e-4


def test_two_empty_masks_have_no_overlap():
    assert mask_iou(torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_very_sure_wrong_logits_give_finite_gradients():
    rows = some_rows()
    rows["logits"] = (rows["logits"] * 1e4).requires_grad_()
    total(mask_loss(**rows)).backward()
    assert rows["logits"].grad.isfinite().all()


def test_half_precision_logits_are_judged_in_float32():
    rows = some_rows()
    rows["logits"] = rows["logits"].bfloat16()
    parts = mask_loss(**rows)
    assert {loss.dtype for loss in parts.values()} == {torch.float32}


def test_masks_with_a_channel_axis_are_refused():
    rows = some_rows()
    with pytest.raises(ValueError, match=r"\(3, 12, 12, 1\)"):
        mask_loss(rows["logits"], rows["iou_predictions"], rows["masks"][..., None])
