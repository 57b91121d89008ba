"""Prepared folders: parquet shards that are resumed, streamed and read back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from pixelllm_hf.data import parquet_shards
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError
from pixelllm_hf.data.formats import FORMATS, read_format
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.data.prepared_folder import PreparedFolder, PreparedFolderError, read_prepared
from pixelllm_hf.folders import FolderInUseError, folder_lock


def prepare(squares, out: Path, **options) -> PreparedFolder:
    """The squares' references with masks, one row a shard."""
    options = {"task": "segment", "companion": squares.instances, "rows_per_shard": 1, **options}
    refs = options.pop("refs", squares.refs)
    return prepare_format("referring_expressions", refs, squares.images, out, **options)


def content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_rows_come_back_as_the_reader_gave_them(squares, tmp_path, cache):
    prepare(squares, tmp_path / "out", rows_per_shard=3)
    expected = read_format(
        "referring_expressions", squares.refs, squares.images, task="segment", companion=squares.instances
    )
    rows = read_prepared(tmp_path / "out", cache_dir=cache)
    assert rows.features == GROUNDED_FEATURES
    for row, other in zip(undecoded(rows), undecoded(expected), strict=True):
        image, file = row.pop("image"), other.pop("image")["path"]
        assert image["bytes"] == Path(file).read_bytes()
        assert row == other


def test_load_dataset_streams_the_folder(squares, tmp_path, cache):
    prepare(squares, tmp_path / "out")
    stream = load_dataset(str(tmp_path / "out"), streaming=True, split="train")
    assert stream.features == GROUNDED_FEATURES
    assert [row["image_id"] for row in stream] == ["1", "2", "3", "4"]
    assert stream.num_shards == 4
    assert next(iter(stream))["image"].size == (60, 40)


def test_a_folder_serves_the_tasks_that_its_rows_hold_enough_for(squares, tmp_path, cache):
    prepare(squares, tmp_path / "masks")
    for streaming in (False, True):
        rows = read_prepared(tmp_path / "masks", task="refer", streaming=streaming, cache_dir=cache)
        assert {row["task"] for row in rows} == {"refer"}
        assert rows.features == GROUNDED_FEATURES
    with pytest.raises(PreparedFolderError, match="rows of task 'segment', which do not serve 'dense'"):
        read_prepared(tmp_path / "masks", task="dense")
    prepare_format("visual_genome", squares.regions, squares.images, tmp_path / "regions", companion=squares.image_data)
    assert read_prepared(tmp_path / "regions", task="dense", cache_dir=cache)[0]["task"] == "dense"


def test_a_second_run_writes_nothing(squares, tmp_path, monkeypatch):
    prepare(squares, tmp_path / "out")
    before = content(tmp_path / "out")
    monkeypatch.setattr(parquet_shards, "_write_shard", None)
    prepare(squares, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_a_second_preparation_of_the_same_folder_is_refused_while_the_first_runs(squares, tmp_path):
    with (
        folder_lock(tmp_path / "out", "a preparation"),
        pytest.raises(FolderInUseError, match="a preparation, pro"),
    ):
        prepare(squares, tmp_path / "out")
    prepare(squares, tmp_path / "out")


@pytest.mark.parametrize("place", ["a row", "a finished file", "a finished shard"])
def test_a_killed_run_goes_on_to_the_same_bytes(squares, tmp_path, place):
    patch = {
        "a row": "p._image_bytes = dying(p._image_bytes, 3)",
        "a finished file": "p.os.fsync = dying(p.os.fsync, 9)",  # of the record and of the shard, in turn
        "a finished shard": "p._write_shard = dying(p._write_shard, 3)",
    }[place]
    program = f"""
import os, signal, sys
import pixelllm_hf.data.parquet_shards as p

def dying(function, call):
    calls = []
    def wrapped(*arguments):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return wrapped

{patch}
refs, images, out, instances = sys.argv[1:]
p.prepare_format("referring_expressions", refs, images, out, task="segment", companion=instances, rows_per_shard=1)
"""
    arguments = [str(a) for a in (squares.refs, squares.images, tmp_path / "out", squares.instances)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert PreparedFolder.load(tmp_path / "out").counts is None
    with pytest.raises(PreparedFolderError, match="was interrupted"):
        read_prepared(tmp_path / "out")
    prepare(squares, tmp_path / "out")
    prepare(squares, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_every_dropped_record_is_counted_once_under_its_reason(squares, tmp_path):
    refs = json.loads(squares.refs.read_text())
    refs[0]["sentences"] += [{"sent": " "}, {"sent": ""}]
    refs[1]["image_id"] = 77
    (squares.images / "000000000003.png").write_bytes(b"no image")
    Image.new("RGB", (20, 90)).save(squares.images / "000000000004.png")
    options = {"companion": squares.instances, "rows_per_shard": 2}
    state = prepare_format(
        "referring_expressions", squares.dump("r.json", refs), squares.images, tmp_path / "o", **options
    )
    expected = {"empty text": 2, "missing image": 1, "unreadable image": 1, "image of another shape": 1}
    assert state.counts is not None
    assert state.counts["dropped"] == expected
    assert state.counts["rows"] == state.counts["prompts"] == 1
    assert state.counts["read"] == {"references": 4, "expressions": 5}
    assert PreparedFolder.load(tmp_path / "o").counts == state.counts
    assert "2 dropped: empty text (first: r.json, ref 0: " in state.table()
    assert str(squares.folder) not in "".join(c.decode(errors="ignore") for c in content(tmp_path / "o").values())
    with pytest.raises(BadRecordError, match="empty"):
        prepare_format(
            "referring_expressions",
            squares.dump("r.json", refs),
            squares.images,
            tmp_path / "p",
            on_error="raise",
            **options,
        )


def test_images_that_arrive_later_are_taken_in_by_the_next_run(squares, tmp_path):
    image = squares.images / "000000000002.png"
    kept = image.read_bytes()
    image.unlink()
    assert prepare(squares, tmp_path / "out").counts["dropped"] == {"missing image": 1}
    image.write_bytes(kept)
    assert prepare(squares, tmp_path / "out").counts["dropped"] == {}
    prepare(squares, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    image.unlink()
    prepare(squares, tmp_path / "out")
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3


def test_another_preparation_does_not_go_into_the_same_folder(squares, tmp_path):
    prepare(squares, tmp_path / "out")
    with pytest.raises(PreparedFolderError, match=r"'rows_per_shard': 1.*'rows_per_shard': 2"):
        prepare(squares, tmp_path / "out", rows_per_shard=2)
    with pytest.raises(PreparedFolderError, match="not empty and holds no earlier preparation"):
        prepare(squares, squares.images)
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        read_prepared(squares.images)
    with pytest.raises(PreparedFolderError, match="no usable row was found"):
        prepare(squares, tmp_path / "none", refs=squares.dump("none.json", []))
    with pytest.raises(AnnotationFileError, match=r"no split 'nowhere'; it has train, val"):
        prepare(squares, tmp_path / "other", split="nowhere")
    (tmp_path / "out" / "preparation.json").write_text("{}")
    with pytest.raises(PreparedFolderError, match="cannot be used"):
        read_prepared(tmp_path / "out")


def test_a_folder_that_lost_a_shard_says_so_and_is_mended_by_the_next_run(squares, tmp_path, cache):
    prepare(squares, tmp_path / "out")
    (tmp_path / "out" / "data" / "train-00001.parquet").unlink()
    with pytest.raises(PreparedFolderError, match=r"lost 'train-00001\.parquet'"):
        read_prepared(tmp_path / "out")
    prepare(squares, tmp_path / "out")
    assert len(read_prepared(tmp_path / "out", cache_dir=cache)) == 4


def test_a_split_names_the_shards(squares, tmp_path, cache):
    prepare(squares, tmp_path / "out", split="val")
    assert [row["image_id"] for row in load_dataset(str(tmp_path / "out"), streaming=True, split="val")] == ["4"]
    with pytest.raises(PreparedFolderError, match="holds the split 'val', not 'train'"):
        read_prepared(tmp_path / "out", split="train")


def test_the_script_prepares_and_says_what_it_dropped(squares, tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
    text = json.loads(squares.captions.read_text())
    text["annotations"][0]["caption"] = " "
    arguments = ["--format", "coco_captions", "--annotations", str(squares.dump("c.json", text))]
    arguments += ["--images", str(squares.images), "--out", str(tmp_path / "out"), "--rows_per_shard", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "data/train-00001.parquet: 1 rows" in done.stdout
    assert "3 rows out with 3 prompts, 2 shard(s)" in done.stdout
    assert "1 dropped: empty text (first: c.json, annotation 0: " in done.stdout
    failed = subprocess.run([*command, "--split", "val"], env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.strip() == "error: format 'coco_captions' has no splits, but split is 'val'. Leave it out."


def test_every_format_names_a_reader_that_exists():
    from importlib import import_module

    for layout in FORMATS.values():
        assert callable(getattr(import_module(f"pixelllm_hf.data.{layout.module}"), layout.reader))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("coco", {}, "format must be one of"),
        ("grit", {"task": "refer"}, "can be read as task dense or region, but not as 'refer'"),
        ("visual_genome", {}, "needs 'image_data'"),
        ("grit", {"companion": "x.json"}, "has no second file"),
        ("grit", {"split": "val"}, "has no splits"),
        ("grit", {"images": None}, "needs the folder of its images"),
        ("grit", {"annotations": ["a", "b"]}, "takes one annotation file"),
    ],
)
def test_what_a_format_cannot_do_is_refused_before_reading(name, options, message):
    with pytest.raises(ValueError, match=message):
        read_format(name, **{"annotations": "a.json", "images": "images", **options})


def test_the_objects_of_the_images_are_kept_under_the_names_of_the_rows(squares, tmp_path):
    """The narratives call their images 1, 2, ...; this instances file calls them 000000000001 and lists one less."""
    coco = json.loads(squares.instances.read_text())
    coco["images"] = [{**image, "id": f"{image['id']:012d}"} for image in coco["images"][:3]]
    coco["annotations"] = [{**a, "image_id": f"{a['image_id']:012d}"} for a in coco["annotations"]]
    known = squares.dump("padded.json", coco)
    prepare_format("localized_narratives", squares.narratives, squares.images, tmp_path / "out", instances=known)
    kept = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [image["id"] for image in kept["images"]] == ["1", "2", "3"]
    assert [(a["image_id"], a["category_id"]) for a in kept["annotations"]] == [("1", 6), ("2", 7), ("3", 8)]
    assert [category["name"] for category in kept["categories"]] == ["red", "green", "blue", "yellow"]
    assert "segmentation" not in kept["annotations"][0]
    with pytest.raises(PreparedFolderError, match="begun with other settings"):
        prepare_format("localized_narratives", squares.narratives, squares.images, tmp_path / "out")


def test_instances_of_other_images_are_refused(squares, tmp_path):
    coco = json.loads(squares.instances.read_text())
    others = [{**image, "id": image["id"] + 70} for image in coco["images"]]
    known = squares.dump("others.json", {**coco, "images": others, "annotations": []})
    with pytest.raises(PreparedFolderError, match=r"others\.json' lists none of the images"):
        prepare_format("coco_captions", squares.captions, squares.images, tmp_path / "out", instances=known)
    assert PreparedFolder.load(tmp_path / "out").counts is None


@pytest.mark.parametrize("name", ["referring_expressions", "coco_instances"])
def test_formats_that_come_with_instances_need_not_be_told(squares, tmp_path, name):
    annotations, companion = {
        "referring_expressions": (squares.refs, squares.instances),
        "coco_instances": (squares.instances, None),
    }[name]
    prepare_format(name, annotations, squares.images, tmp_path / "out", companion=companion)
    assert len(json.loads((tmp_path / "out" / "instances.json").read_text())["annotations"]) == 4
