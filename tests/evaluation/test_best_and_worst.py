"""What a page of results shows is chosen by a rule, drawn from data on this machine, and said to be absent without."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.evaluation.best_and_worst import ScoredImage, best_and_worst

REPOSITORY = Path(__file__).parents[2]
SIDE = 48


def scored(scores: list[float]) -> list[ScoredImage]:
    return [ScoredImage(index, (), "", score) for index, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "count", "best", "worst"),
    [
        ([0.2, 0.9, 0.5, 0.1, 0.7], 2, [1, 4], [3, 0]),
        ([0.5, 0.5, 0.5, 0.5], 2, [0, 1], [2, 3]),
        ([0.3, 0.1, 0.2], 2, [0], [1]),
        ([0.3], 2, [], []),
    ],
    ids=["by their scores", "ties by their order", "none is in both", "one is neither"],
)
def test_the_best_and_the_worst_come_first(scores, count, best, worst):
    chosen = best_and_worst(scored(scores), count)
    assert [[one.image for one in part] for part in chosen] == [best, worst]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three images with captions, phrases, objects and masks, in the layouts of Flickr30k Entities and COCO."""
    folder = tmp_path / "photographs"
    for name in ("flickr/Sentences", "flickr/Annotations", "flickr/images", "coco/images"):
        (folder / name).mkdir(parents=True)
    random, names = np.random.default_rng(0), ["1", "2", "3"]
    for name in names:
        image = Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
        for part in ("flickr", "coco"):
            image.save(folder / part / "images" / f"{name}.png")
        (folder / f"flickr/Sentences/{name}.txt").write_text(f"[/EN#{name}/animals A dog] sits .\nA dog outside .")
        (folder / f"flickr/Annotations/{name}.xml").write_text(
            f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size><object><name>{name}"
            "</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>44</ymax></bndbox></object></annotation>"
        )
    (folder / "flickr/val.txt").write_text("\n".join(names))
    outline = [[4, 4, 44, 4, 44, 40, 4, 40]]
    of_object = {"category_id": 1, "bbox": [4, 4, 40, 36], "area": 1440, "iscrowd": 0, "segmentation": outline}
    instances = {
        "images": [{"id": int(n), "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in names],
        "annotations": [{"id": int(n), "image_id": int(n), **of_object} for n in names],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "coco/instances_val.json").write_text(json.dumps(instances))
    return folder


def test_the_script_draws_the_best_and_the_worst_of_every_task(
    photographs: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    words = ["draw_results.py", "--data", photographs, "--out", out, "--model", small_checkpoint, "--shown", 2]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--device", "cpu"])
    runpy.run_path(str(REPOSITORY / "scripts" / "draw_results.py"), run_name="__main__")
    drawn = json.loads((out / "results.json").read_text())
    assert [(one["task"], one["kind"], one["of"]) for one in drawn] == [
        (task, kind, 3) for task in ("caption", "segment", "dense") for kind in ("best", "worst")
    ], "of three images one is best and one is worst"
    for one in drawn:
        with Image.open(out / one["file"]) as image:
            assert image.format == "WEBP"
    assert {one["truth"] for one in drawn if one["task"] == "dense"} == {"dog"}
    assert all(one["said"] for one in drawn if one["task"] != "dense")
    for task in ("caption", "segment", "dense"):
        best, worst = (one["score"] for one in drawn if one["task"] == task)
        assert best >= worst


def hook() -> dict[str, Any]:
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install pixelllm-hf[dev]")
    return runpy.run_path(str(REPOSITORY / "docs" / "hooks" / "photographs.py"))


def test_pages_built_without_photographs_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PHOTOGRAPHS", str(tmp_path / "nowhere"))
    functions = hook()
    assert functions["on_files"]([], None) == []
    page = functions["on_page_markdown"]("before <!-- photographs-drawn --> after")
    assert "without the photographs" in page and "<img" not in page and page.endswith("after")


def test_what_was_drawn_stands_under_its_task_with_its_score_and_the_truth():
    one = {"task": "dense", "metric": "AP50", "score": 0.25, "file": "dense_worst_1.webp", "truth": "dog", "of": 90}
    page = hook()["drawings"]([one | {"kind": "worst", "said": ["a <cat>"]}])
    assert "Worst of 90, by AP50:" in page and "Best" not in page
    assert 'src="photographs/dense_worst_1.webp"' in page and "a &lt;cat&gt;" in page and "AP50 0.25" in page


def test_the_table_has_the_embedded_model_beside_every_baseline():
    head, _, *rows = hook()["table"]().splitlines()
    assert head.split(" | ")[1:] == ["this model", "95 % interval", "chance", "one answer for all", "detector alone |"]
    of_captions = next(row for row in rows if "`CIDEr`" in row).split(" | ")
    assert all(float(number) < float(of_captions[1]) for number in of_captions[3:5])
    assert sum("`R@1`" in row and "" not in row.split(" | ") for row in rows) >= 1, "no cell of phrases is empty"


def test_the_table_of_scenes_has_both_models_and_their_commands():
    head, _, *rows = hook()["scenes_table"]().splitlines()
    assert head == "| task | figure | photo | tiny |"
    named = next(row.strip("| ").split(" | ") for row in rows if row.startswith("| region"))
    assert float(named[2]) < float(named[3])
    assert sum("--model photo" in row for row in rows) == sum("--model tiny" in row for row in rows) >= 5
