"""Annotation files with damaged values and bytes: rows that hold, or an error that names the file, in every format."""

from __future__ import annotations

import gzip
import json
import logging
import math
import pickle
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pixelllm_hf.data import AnnotationFileError, BadRecordError, read_coco_instances, read_format
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.processing.mask_codec import decode_rle, encode_rle

WIDTH, HEIGHT = 40, 30
TYPED = [AnnotationFileError, BadRecordError, pickle.UnpicklingError]


def _files(folder: Path) -> dict[str, tuple[str, Any, Any]]:
    """Format -> task, annotations and companion of two small images."""
    import numpy as np

    (folder / "images").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 2:20] = True
    images, refs, regions, narratives, chats, muse = [], [], [], [], [], []
    objects: list[dict[str, Any]] = []
    for n in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (90 * n, 60, 30)).save(folder / "images" / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT})
        polygons = [[1.0, 2.0, 20.0, 2.0, 20.0, 9.5], [5, 5, 9, 5, 9, 9, 5, 9]]
        thing = {"image_id": n, "bbox": [1, 2, 20.5, 9], "caption": "a red car", "area": 171.5, "iscrowd": 0}
        kinds = {"id": 10 * n, "category_id": 3, "segmentation": polygons}, {"id": 10 * n + 1, "category_id": 4}
        objects += [{**thing, **kinds[0]}, {**thing, **kinds[1], "segmentation": encode_rle(mask)}]
        sentences = [{"sent": "the red car", "raw": "The red car", "sent_id": n}]
        refs.append({"ref_id": n, "ann_id": 10 * n, "image_id": n, "split": "train", "sentences": sentences})
        region = {"region_id": n, "image_id": n, "phrase": "a car", "x": 1, "y": 2, "width": 9, "height": 8}
        regions.append({"id": n, "regions": [region]})
        words = [{"utterance": word, "start_time": k, "end_time": k + 1} for k, word in enumerate(["a", "car"])]
        trace = [{"t": 0.5 * k, "x": 0.1 * k, "y": 0.2} for k in range(5)]
        story = {"dataset_id": "d", "image_id": str(n), "annotator_id": 1, "caption": "A car.", "traces": [trace]}
        narratives.append({**story, "timed_caption": words, "voice_recording": ""})
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A car."}]
        chats.append({"id": str(n), "image": f"{n}.png", "conversations": turns})
        named = ({"category_name": name, "rephrased_name": f"a {name}"} for name in ("car", "dog"))
        car, dog = ({**thing, **names} for thing, names in zip(objects[-2:], named, strict=True))
        asked = {"questions": ["what drives?", "what barks?", "what is here?"], "answers": [[car], [], [dog, car]]}
        said = {"text_answers": ["a car {seg}.", "nothing.", None], "ann_list": [car, dog]}
        muse.append({"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT, **asked, **said})
    categories = [{"id": 3, "name": "car"}, {"id": 4, "name": "dog-other"}]
    coco = {"images": images, "annotations": objects, "categories": categories}
    size: dict[str, Any] = {"width": WIDTH, "height": HEIGHT}
    about = [{"image_id": n, "url": f"https://example.org/VG_100K/{n}.png", **size} for n in (1, 2)]
    mdetr = {
        "images": [{**image, "caption": "a car and a dog", "original_id": image["id"]} for image in images],
        "annotations": [{**thing, "tokens_positive": [[0, 5]]} for thing in objects],
    }
    return {
        "coco_captions": ("caption", coco, coco),
        "coco_instances": ("segment", coco, None),
        "conversations": ("caption", chats, None),
        "grit": ("dense", coco, None),
        "localized_narratives": ("trace", narratives, None),
        "mdetr": ("segment", mdetr, None),
        "muse": ("reason", muse, None),
        "referring_expressions": ("segment", refs, coco),
        "visual_genome": ("region", regions, about),
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> SimpleNamespace:
    logging.getLogger("pixelllm_hf").setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp("sources")
    return SimpleNamespace(folder=folder, images=folder / "images", files=_files(folder))


def check_rows(fuzz: Any, rows: Any, task: str) -> int:
    """What holds for every row that a reader gives; how many there are."""
    number = 0
    for row in undecoded(rows):
        number += 1
        width, height = row["width"], row["height"]
        fuzz.must(row["task"] == task and width > 0 and height > 0, f"{row['task']} {width} {height}")
        fuzz.must(Path(row["image"]["path"]).is_file(), "no image")
        fuzz.must(row["image_id"] not in ("", "None", "nan", "True"), f"image id {row['image_id']}")
        fuzz.must(row["prompts"], "no prompts")
        for prompt in row["prompts"]:
            texts = [prompt["target"], *(said["text"] for said in prompt["utterances"])]
            fuzz.must(prompt["target"].strip() and "\ud800" not in "".join(texts), f"text {prompt['target']!r}")
            for box in (prompt["box"], prompt["object_box"]):
                inside = box is None or (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height)
                fuzz.must(inside, f"box {box} in {width}x{height}")
            for said in prompt["utterances"]:
                fuzz.must(all(map(math.isfinite, [*said["box"], *said["center"]])), f"utterance {said}")
            for target in prompt["targets"]:
                fuzz.must(target["mask"] and (target["name"] or "x").strip() not in ("", "None"), f"target {target}")
            fuzz.must(prompt["target"].count("{seg}") == len(prompt["targets"]), "placeholders and targets differ")
            for mask in [
                prompt["mask"],
                *(target[name] for target in prompt["targets"] for name in ("mask", "ignored")),
            ]:
                if mask:
                    fuzz.must(decode_rle(mask).shape == (height, width), "a mask of another size")
    return number


def written(fuzz: Any, content: Any, damaged: bool, chance: random.Random) -> bytes:
    """As JSON, JSONL or gzipped, with damage in a value or in the bytes, or with none."""
    if not damaged:
        return json.dumps(content).encode()
    if chance.random() < 0.7:
        content = fuzz.damaged(content, chance)
    raw = fuzz.as_json(content)
    if isinstance(content, list) and content and chance.random() < 0.3:
        raw = b"\n".join(map(fuzz.as_json, content))
    if chance.random() < 0.3:
        raw = fuzz.damaged_bytes(raw, chance)
    if chance.random() < 0.15:
        raw = gzip.compress(raw, mtime=0)
        raw = fuzz.damaged_bytes(raw, chance) if chance.random() < 0.5 else raw
    return raw


def test_damaged_annotations_give_rows_that_hold_or_are_refused(fuzz, fuzz_inputs, sources):
    def make(chance: random.Random) -> Any:
        name = chance.choice(list(sources.files))
        task, annotations, companion = sources.files[name]
        if name in ("coco_instances", "referring_expressions") and chance.random() < 0.3:
            task = "reason"
        second = companion is not None and chance.random() < 0.5
        files = written(fuzz, annotations, not second, chance), companion and written(fuzz, companion, second, chance)
        return name, task, files, chance.choice(("skip", "skip", "raise"))

    def attempt(value: Any) -> None:
        name, task, (annotations, companion), on_error = value
        paths = sources.folder / "annotations.json", sources.folder / "companion.json"
        paths[0].write_bytes(annotations)
        paths[1].write_bytes(companion or b"")
        options = {"task": task, "companion": paths[1] if companion else None, "on_error": on_error}
        check_rows(fuzz, read_format(name, paths[0], sources.images, **options), task)

    fuzz.run(attempt, make, fuzz_inputs, typed=TYPED, megabytes=512).check()


def test_a_damaged_line_costs_itself_alone(fuzz, fuzz_inputs, sources):
    good = {name: [fuzz.as_json(entry) for entry in sources.files[name][1]] for name in _LINES}

    def make(chance: random.Random) -> Any:
        name = chance.choice(list(_LINES))
        line = fuzz.as_json(fuzz.damaged(sources.files[name][1][0], chance))
        line = fuzz.damaged_bytes(line, chance) if chance.random() < 0.4 else line
        return name, b"\n".join([good[name][0], line, good[name][1]])

    def attempt(value: Any) -> None:
        name, content = value
        path = sources.folder / "lines.jsonl"
        path.write_bytes(content)
        number = check_rows(fuzz, read_format(name, path, sources.images, on_error="skip"), _LINES[name])
        fuzz.must(number >= 2, f"{number} of 2 good rows are left")
        read_format(name, path, sources.images)  # raises for what is damaged

    fuzz.run(attempt, make, fuzz_inputs, typed=TYPED, megabytes=512).check()


def test_damaged_instances_give_objects_that_hold_or_are_refused(fuzz, fuzz_inputs, sources):
    def make(chance: random.Random) -> Any:
        return written(fuzz, sources.files["coco_instances"][1], True, chance), chance.choice(("skip", "raise"))

    def attempt(value: Any) -> None:
        content, on_error = value
        path = sources.folder / "instances.json"
        path.write_bytes(content)
        rows = read_coco_instances(path, sources.images, on_error=on_error)
        for row in undecoded(rows):
            for thing in row["objects"]:
                fuzz.must(all(map(math.isfinite, [*thing["box"], thing["area"]])), f"{thing}")
                fuzz.must(all(len(ring) >= 6 for ring in thing["polygons"]), f"{thing['polygons']}")

    fuzz.run(attempt, make, fuzz_inputs, typed=TYPED, megabytes=512).check()


def test_a_damaged_file_of_a_folder_costs_its_image_alone(fuzz, fuzz_inputs, tmp_path):
    """XML, marked captions and lists of ids: data sets with a file an image."""
    logging.getLogger("pixelllm_hf").setLevel(logging.ERROR)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    sides = "<xmin>2</xmin><ymin>3.5</ymin><xmax>20</xmax><ymax>9</ymax>"
    thing = f"<object><name>1</name><bndbox>{sides}</bndbox><difficult>0</difficult></object>"
    flags = "<object><name>2</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    content = f'<?xml version="1.0"?><annotation><filename>1.png</filename>{size}{thing}{flags}</annotation>'
    first: dict[str, bytes] = {
        "Annotations/1.xml": content.replace(flags, thing.replace("<name>1", "<name>2")).encode(),
        "Sentences/1.txt": b"[/EN#1/people A man] , [/EN#2/other a caf\xc3\xa9] .\n[/EN#1/people He] 's here .\n",
        "train.txt": b"1\n2\n",
        "ImageSets/Main/train.txt": b"1\n2\n",
    }
    second = {name.replace("1.", "2."): value.replace(b"1.png", b"2.png") for name, value in list(first.items())[:2]}
    (tmp_path / "images").mkdir()
    for n in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / f"{n}.png")
    for name, value in second.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(value)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    uses = {"flickr30k_entities": ("caption", "refer", "region"), "pascal_voc": ("dense", "refer")}

    def make(chance: random.Random) -> Any:
        name = chance.choice(list(uses))
        files = [f for f in first if not f.startswith(("ImageSets",) if name != "pascal_voc" else ("Sent", "train"))]
        file = chance.choice(files)
        value = first[file]
        if chance.random() < 0.6:  # something put in place of a word, a number or a tag
            pieces = re.split(rb"(?<=[>/# \n])|(?=[<\] \n])", value)
            hostile = str(chance.choice(fuzz.HOSTILE)).encode("utf-8", "surrogatepass")
            pieces[chance.randrange(len(pieces))] = chance.choice((hostile, hostile, *_MARKS))
            value = b"".join(pieces)
        else:
            value = fuzz.damaged_bytes(value, chance)
        split = chance.choice((None, "train"))
        return name, chance.choice(uses[name]), file, value, split, chance.choice(("skip", "skip", "raise"))

    def attempt(value: Any) -> None:
        name, task, file, damaged, split, on_error = value
        for whole, good in first.items():
            (tmp_path / whole).write_bytes(damaged if whole == file else good)
        rows = read_format(name, tmp_path, tmp_path / "images", task=task, split=split, on_error=on_error)
        number = check_rows(fuzz, rows, task)
        fuzz.must(number >= file.endswith(("1.xml", "1.txt")), "the good image is lost")

    fuzz.run(attempt, make, fuzz_inputs, typed=TYPED, megabytes=512).check()


def test_a_damaged_map_or_record_of_polygons_costs_its_image_alone(fuzz, fuzz_inputs, tmp_path):
    """ReasonSeg's JSON beside every image, and PNGs of class numbers with the list of their names."""
    import numpy as np

    logging.getLogger("pixelllm_hf").setLevel(logging.ERROR)
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[3:9, 2:20], values[10:20, 5:9] = 1, 2
    polygon = [[2, 3], [20, 3.5], [20, 9], [2, 9]]
    shapes = [{"label": "target", "points": polygon}, {"label": "ignore", "points": polygon[:3]}]
    record = {"text": ["What drives?", "a car"], "is_sentence": True, "shapes": shapes}
    for n in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{n}.jpg")
        Image.fromarray(values).save(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.json").write_text(json.dumps(record))
    names, image = b"1: car\n2: dog\n", (tmp_path / "1.png").read_bytes()

    def make(chance: random.Random) -> Any:
        file = chance.choice(("1.json", "1.json", "1.png", "names.txt"))
        if file == "1.json":
            damaged = fuzz.as_json(fuzz.damaged(record, chance))
            damaged = fuzz.damaged_bytes(damaged, chance) if chance.random() < 0.3 else damaged
        else:
            damaged = fuzz.damaged_bytes(image if file == "1.png" else names, chance)
        return file, damaged, chance.choice(("skip", "skip", "raise"))

    def attempt(value: Any) -> None:
        file, damaged, on_error = value
        good = {"1.json": json.dumps(record).encode(), "1.png": image, "names.txt": names}
        for name, content in {**good, file: damaged}.items():
            (tmp_path / name).write_bytes(content)
        name = "reason_seg" if file == "1.json" else "ade20k"
        companion = None if name == "reason_seg" else tmp_path / "names.txt"
        rows = read_format(name, tmp_path, tmp_path, companion=companion, on_error=on_error)
        number = check_rows(fuzz, rows, "reason")
        fuzz.must(number >= (file != "names.txt"), "the good image is lost")

    fuzz.run(attempt, make, fuzz_inputs, typed=TYPED, megabytes=512).check()


_MARKS = (
    *(b"<", b"<a>", b"</object>", b"<!DOCTYPE a>", b'<!ENTITY a "b">', b"&a;", b"&#0;", b"&#xd800;", b"<![CDATA["),
    *(b"[", b"]", b"[/EN#", b"[/EN#1/", b"[/EN#1/x ]", b"1e400", b"-1", b"\xff", b"<bndbox/>", b"<name/>"),
)
_LINES = {"localized_narratives": "trace", "conversations": "caption"}
