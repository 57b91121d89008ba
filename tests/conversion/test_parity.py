"""Every part agrees with the official implementation on the committed golden files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelllm_hf.conversion.parity.golden import Computed, Golden, compare
from pixelllm_hf.conversion.parity.report import check_directory, check_file, compare_file, passed, table

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted([*GOLDEN.glob("pixelllm/*.safetensors"), *GOLDEN.glob("pixellm/*.safetensors")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_part_agrees_with_its_golden_file(path):
    report = check_file(path)
    assert report.ok, table([report])
    assert report.agreements


def test_one_wrong_value_fails_the_file():
    golden = Golden("toy", {}, {"outputs/y": torch.tensor([0.0, 1.0]), "outputs/ids": torch.tensor([3, 4])})
    right = compare_file(golden, Computed({"y": [0.0, 1.0], "ids": [3, 4]}))
    off = compare_file(golden, Computed({"y": [0.0, 1.001], "ids": [3, 4]}))
    other_ids = compare_file(golden, Computed({"y": [0.0, 1.0], "ids": [3, 5]}))
    assert right.ok and not off.ok and not other_ids.ok
    assert "y max rel 1.00e-03 > 1e-04" in table([off])


def test_a_forgotten_output_fails_the_file():
    golden = Golden("toy", {}, {"outputs/y": torch.zeros(1), "outputs/z": torch.zeros(1)})
    report = compare_file(golden, Computed({"y": 0.0}))
    assert not report.ok
    assert "z" in report.problem


def test_later_work_passes_unless_strict():
    golden = Golden("toy", {}, {"outputs/y": torch.zeros(1), "outputs/mask/z": torch.zeros(1)})
    report = compare_file(golden, Computed({"y": 0.0}, later={"mask/": "masks"}))
    assert passed([report])
    assert not passed([report], strict=True)
    assert "toy: mask/* (1) wait for masks" in table([report])


@pytest.mark.parametrize("computed", [torch.zeros(2, 2), torch.tensor([float("nan"), 0.0])])
def test_another_shape_or_a_nan_never_agrees(computed):
    assert not compare("y", torch.zeros(2), computed).ok


def test_a_golden_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "sam_vit.safetensors").write_bytes(b"not a tensor file")
    (report,) = check_directory(tmp_path)
    assert not report.ok
    assert "sam_vit.safetensors" in table([report])


def test_a_directory_without_golden_files_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has none"):
        check_directory(tmp_path)
