"""`pixelllm annotate`: shards that do not depend on who writes them, and that a kill does not harm."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from pixelllm_hf.cli import main
from pixelllm_hf.cli.annotate_command import annotate
from pixelllm_hf.data.image_streams import ImageStream, ImageStreamError, StreamedImage, open_images
from pixelllm_hf.inference.annotation_shards import (
    AnnotatedImage,
    AnnotationError,
    AnnotationShards,
    read_annotations,
)
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord

SETTINGS = {"dataset": "numbers", "task": "caption"}


def jpeg(value: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (20, 10), (value, 0, 0)).save(written, "JPEG")
    return written.getvalue()


def rows(count: int) -> list[dict[str, Any]]:
    return [{"image": {"path": None, "bytes": jpeg(i)}, "image_id": f"photo-{i}"} for i in range(count)]


def stream(count: int, *, streamed: bool) -> ImageStream:
    """Images that are counted, or that come one after the other until there are no more."""
    return ImageStream(iter(rows(count)) if streamed else rows(count), "image", None if streamed else count)


def answered(images: Sequence[StreamedImage]) -> list[AnnotatedImage]:
    """A model of one word, that cannot read every seventh image."""
    made = []
    for image in images:
        word = GroundedWord(f"word{image.index}", 0, 5, (1.0, 2.0), (0.0, 1.0, 2.0, 3.0), 0.5)
        caption = GroundedCaption(word.text, (word,), (20, 10), 0.25, box=(1.0, 2.0, 3.0, 4.0))
        failed = image.index % 7 == 6
        made.append(AnnotatedImage(image.index, image.name, () if failed else (caption,), "odd" if failed else None))
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("count", [0, 8, 23])
def test_what_two_processes_write_together_is_what_one_writes(tmp_path: Path, streamed: bool, count: int):
    alone = AnnotationShards(tmp_path / "alone", SETTINGS, shard_size=4)
    annotate(stream(count, streamed=streamed), alone, answered)
    for process in (1, 0):
        shards = AnnotationShards(tmp_path / "together", SETTINGS, shard_size=4)
        annotate(stream(count, streamed=streamed), shards, answered, process=process, processes=2)
        if process and count == 23:
            assert {int(name[5:13]) % 2 for name in contents(shards.folder) if name.startswith("data")} == {1}
    assert contents(alone.folder) == contents(shards.folder)
    assert shards.missing() == []
    read = list(read_annotations(shards.folder))
    assert [image.index for image in read] == list(range(count))
    assert read == [
        AnnotatedImage(i.index, i.name, tuple(i.results), i.error)
        for i in answered([StreamedImage(n, f"photo-{n}", b"") for n in range(count)])
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_after_a_kill_nothing_is_lost_or_written_twice_whoever_goes_on(tmp_path: Path, streamed: bool):
    alone = AnnotationShards(tmp_path / "alone", SETTINGS, shard_size=4)
    annotate(stream(23, streamed=streamed), alone, answered)

    def killed(images: Sequence[StreamedImage]) -> list[AnnotatedImage]:
        if images[0].index == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return answered(images)

    if not (child := os.fork()):
        annotate(stream(23, streamed=streamed), AnnotationShards(tmp_path / "out", SETTINGS, shard_size=4), killed)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    asked: list[int] = []

    def counting(images: Sequence[StreamedImage]) -> list[AnnotatedImage]:
        asked.extend(image.index for image in images)
        return answered(images)

    for process in range(3):
        shards = AnnotationShards(tmp_path / "out", SETTINGS, shard_size=4)
        annotate(stream(23, streamed=streamed), shards, counting, process=process, processes=3)
    assert sorted(asked) == list(range(8, 23))
    assert contents(shards.folder) == contents(alone.folder)


def test_another_question_or_another_end_is_refused(tmp_path: Path):
    annotate(stream(9, streamed=False), AnnotationShards(tmp_path, SETTINGS, shard_size=4), answered)
    with pytest.raises(AnnotationError, match="task 'caption' and not 'dense'"):
        AnnotationShards(tmp_path, SETTINGS | {"task": "dense"}, shard_size=4)
    with pytest.raises(AnnotationError, match="shard_size 4 and not 8"):
        AnnotationShards(tmp_path, SETTINGS, shard_size=8)
    with pytest.raises(AnnotationError, match="after 5 images here, but after 9"):
        annotate(stream(5, streamed=False), AnnotationShards(tmp_path, SETTINGS, shard_size=4), answered)
    (tmp_path / "annotations.json").write_text("[]")
    with pytest.raises(AnnotationError, match="damaged"):
        AnnotationShards(tmp_path, SETTINGS, shard_size=4)


def test_the_command_annotates_a_folder_of_images_and_says_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.jpg", "more/b.jpg"):
        (tmp_path / "photos" / name).write_bytes(jpeg(200))
    (tmp_path / "photos" / "c.jpg").write_bytes(b"no image")
    words = ["annotate", "--dataset", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main([*words, "--shard-size", "2", "--max-new-tokens", "4"]) == 1  # one image failed
    read = {image.name: image for image in read_annotations(tmp_path / "out")}
    assert list(read) == ["a.jpg", "c.jpg", "more/b.jpg"]
    assert read["c.jpg"].error and not read["a.jpg"].error
    assert read["a.jpg"].results[0].words[0].point is not None
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "out/*.parquet"), cache_dir=str(tmp_path))
    assert loaded["train"][0]["captions"][0]["words"][0]["point"] is not None
    assert "3 images annotated, 1 of them failed" in capsys.readouterr().err
    # done is done: the model is not even loaded again
    assert main([*words, "--shard-size", "2", "--max-new-tokens", "4", "--device", "cpu"]) == 0
    assert "0 images annotated" in capsys.readouterr().err


def test_rows_of_data_sets_are_read_without_decoding(tmp_path: Path):
    data = datasets.Dataset.from_list(rows(5)).cast_column("image", datasets.Image())
    data.save_to_disk(tmp_path / "disk")
    (tmp_path / "parquet").mkdir()
    data.to_parquet(str(tmp_path / "parquet" / "train-0.parquet"))
    for name in ("disk", "parquet"):
        images = open_images(str(tmp_path / name), limit=3)
        (_, first), (_, second) = images.groups(2, lambda number: True)
        assert first is not None and second is not None
        assert [image.name for image in first] == ["photo-0", "photo-1"] and len(second) == 1
        assert first[1].source == jpeg(1)
    with pytest.raises(ImageStreamError, match="nowhere"):
        open_images(str(tmp_path / "nowhere"))
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(ImageStreamError, match="no column of images"):
        open_images(str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "refer"], "needs --expression"),
        (["--expression", "the duck"], "takes no --expression"),
        (["--min-score", "0.5"], "finds no objects"),
        (["--model", "nowhere/at/all"], "no such folder"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_loaded(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["annotate", "--dataset", str(tmp_path), "--out", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_settings_are_those_that_were_asked(tmp_path: Path):
    annotate(stream(1, streamed=False), AnnotationShards(tmp_path, SETTINGS, shard_size=4), answered)
    assert json.loads((tmp_path / "annotations.json").read_text()) == SETTINGS | {"shard_size": 4}
    assert json.loads((tmp_path / "end.json").read_text()) == {"images": 1}


@pytest.mark.parametrize(
    ("rank", "size", "told"), [("5", "2", "the last is 1"), ("a", "2", "RANK='a'"), ("0", "0", "WORLD_SIZE")]
)
def test_a_process_to_which_nothing_can_fall_is_told_so(tmp_path, monkeypatch, capsys, rank, size, told):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert main(["annotate", "--dataset", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(100))
    return folder


def test_a_folder_to_which_images_were_added_is_not_gone_on_with_as_if_it_were_the_same(tmp_path: Path):
    folder = photos(tmp_path / "photos", "a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    out = AnnotationShards(tmp_path / "out", SETTINGS, shard_size=2)
    annotate(open_images(str(folder)), out, answered)
    (out.folder / "end.json").unlink()
    photos(folder, "g.jpg")  # behind all others: the last shard grows
    annotate(open_images(str(folder)), out, answered)
    assert [image.name for image in read_annotations(out.folder)] == [f"{name}.jpg" for name in "acdefg"]
    photos(folder, "b.jpg")  # among them: every image after it would be one further on
    with pytest.raises(AnnotationError, match=r"end\.json"):
        annotate(open_images(str(folder)), out, answered)
    (out.folder / "end.json").unlink()
    with pytest.raises(AnnotationError, match=r"about c\.jpg, where the data set has b\.jpg now"):
        annotate(open_images(str(folder)), out, answered)
    for name in ("b", "d", "e", "f", "g"):
        (folder / f"{name}.jpg").unlink()
    with pytest.raises(AnnotationError, match=r"end\.json|about"):
        annotate(open_images(str(folder)), out, answered)


def test_a_stream_that_has_grown_is_refused_where_an_image_would_be_lost(tmp_path: Path):
    out = AnnotationShards(tmp_path, SETTINGS, shard_size=4)
    annotate(stream(6, streamed=True), out, answered)
    (tmp_path / "end.json").unlink()
    with pytest.raises(AnnotationError, match=r"data-00000001\.parquet.*fewer images than the 4"):
        annotate(stream(9, streamed=True), out, answered)


def test_answers_that_lie_among_the_images_are_none_of_them(tmp_path: Path):
    folder = photos(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")
    for limit in (2, 3):
        out = AnnotationShards(folder / "answers", SETTINGS, shard_size=2)
        images = open_images(str(folder), limit=limit, apart_from=out.folder)
        (out.folder / "end.json").unlink(missing_ok=True)
        annotate(images, out, answered)
        photos(folder, "answers/drawn.jpg")
    assert [image.name for image in read_annotations(folder / "answers")] == ["a.jpg", "b.jpg", "c.jpg"]


def test_an_image_that_fails_does_not_end_the_other_processes(tmp_path: Path):
    for process in (0, 1):
        shards = AnnotationShards(tmp_path / "out", SETTINGS, shard_size=4)
        assert annotate(stream(23, streamed=False), shards, answered, process=process, processes=2) == 0
    assert annotate(stream(23, streamed=False), AnnotationShards(tmp_path / "one", SETTINGS, shard_size=4), answered)


def test_progress_is_told_before_a_shard_is_whole(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("pixelllm_hf.cli.annotate_command._TOLD_EVERY", -1.0)
    sizes: list[int] = []

    def counting(images: Sequence[StreamedImage]) -> list[AnnotatedImage]:
        sizes.append(len(images))
        return answered(images)

    annotate(stream(23, streamed=False), AnnotationShards(tmp_path, SETTINGS, shard_size=20), counting, batch_size=8)
    assert sizes == [8, 8, 4, 3]
    assert "8 of 23 images" in (told := capsys.readouterr().err) and "to go" in told


def test_what_a_killed_process_left_goes_away_at_the_end(tmp_path: Path):
    out = AnnotationShards(tmp_path, SETTINGS, shard_size=4)
    (tmp_path / ".data-00000001.77-abcd.tmp.parquet").write_bytes(b"half")
    annotate(stream(5, streamed=False), out, answered)
    assert sorted(contents(tmp_path)) == [
        "annotations.json",
        "data-00000000.parquet",
        "data-00000001.parquet",
        "end.json",
    ]


def test_a_damaged_shard_and_a_file_in_the_place_of_a_folder_are_named(tmp_path: Path):
    out = AnnotationShards(tmp_path / "out", SETTINGS, shard_size=4)
    annotate(stream(5, streamed=False), out, answered)
    out.path(0).write_bytes(b"")
    with pytest.raises(AnnotationError, match=r"data-00000000\.parquet' is damaged.*Remove it"):
        annotate(stream(5, streamed=False), out, answered)
    with pytest.raises(AnnotationError, match="is a file"):
        AnnotationShards(out.path(1), SETTINGS, shard_size=4)
    with pytest.raises(ImageStreamError, match="is a file. Name the folder"):
        open_images(str(out.path(1)))


def test_a_full_disk_is_named_with_the_shard_and_leaves_the_others(tmp_path: Path, monkeypatch):
    out = AnnotationShards(tmp_path, SETTINGS, shard_size=4)
    annotate(stream(4, streamed=False), out, answered)
    (tmp_path / "end.json").unlink()

    def full(table: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(OSError, match=r"data-00000001\.parquet' cannot be written .*No space left.*same command"):
        annotate(stream(9, streamed=False), out, answered)
    assert sorted(contents(tmp_path)) == ["annotations.json", "data-00000000.parquet"]
