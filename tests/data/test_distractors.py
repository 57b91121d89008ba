"""References for which a name is not enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelllm_hf.data.distractors import main
from pixelllm_hf.data.referring_expressions import load_refs


def write(folder: Path, kinds: list[tuple[int, int]], asked: list[int]) -> list[str]:
    """Instances with one object per (image, category), and a ref to each of those asked about; the command's words."""
    things = [{"id": i, "image_id": image, "category_id": kind} for i, (image, kind) in enumerate(kinds)]
    refs = [{"ref_id": i, "ann_id": i, **{k: things[i][k] for k in ("image_id", "category_id")}} for i in asked]
    (folder / "refs.json").write_text(json.dumps(refs))
    images = [{"id": image} for image in sorted({image for image, _ in kinds})]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": things}))
    return [f"--{name}={folder / f'{name}.json'}" for name in ("refs", "instances", "out")]


def test_only_references_to_one_of_several_of_a_category_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(write(tmp_path, [(1, 5), (1, 5), (1, 6), (2, 5), (2, 6)], asked=[3, 2, 1, 4]))
    assert [ref["ref_id"] for ref in load_refs(tmp_path / "out.json")] == [1], "its like need not be referred to itself"
    assert capsys.readouterr().out == "1 of 4 references, in 1 images\n"


def test_a_record_without_its_category_is_named(tmp_path: Path) -> None:
    words = write(tmp_path, [(1, 5)], asked=[0])
    (tmp_path / "refs.json").write_text('[{"ref_id": 3, "image_id": 1}]')
    with pytest.raises(SystemExit, match="ref 0.*category_id"):
        main(words)
