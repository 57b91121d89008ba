"""A data set of four small images in every official format."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SIZES_WH = [(60, 40), (40, 60), (50, 50), (64, 32)]


def narrative(image_id: int, words: list[str], box: list[float], size_wh: tuple[int, int]) -> dict:
    """A narrative whose mouse goes round `box` (xyxy pixels) once while every word takes one second."""
    width, height = size_wh
    x0, y0, x1, y1 = box
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    trace = [
        {"x": x / width, "y": y / height, "t": second + step / 4}
        for second in range(len(words))
        for step, (x, y) in enumerate(corners[:-1])
    ]
    trace.append({"x": x0 / width, "y": y0 / height, "t": float(len(words))})
    return {
        "dataset_id": "squares",
        "image_id": str(image_id),
        "annotator_id": 1,
        "caption": " ".join(words) + ".",
        "timed_caption": [
            {"utterance": word, "start_time": float(i), "end_time": float(i + 1)} for i, word in enumerate(words)
        ],
        "traces": [trace],
        "voice_recording": "none",
    }


def write_lines(path: Path, records: list) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def squares(tmp_path: Path) -> SimpleNamespace:
    """One coloured square on black per image, and everything that can be said about it."""
    images = tmp_path / "images"
    images.mkdir()
    boxes, records = [], []
    for i, ((name, colour), (width, height)) in enumerate(zip(COLOURS.items(), SIZES_WH, strict=True), 1):
        box = [4 * i, 8, 4 * i + 16, 24]
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[box[1] : box[3], box[0] : box[2]] = colour
        Image.fromarray(pixels).save(images / f"{i:012d}.png")
        boxes.append([float(side) for side in box])
        records.append(narrative(i, ["a", name, "square"], boxes[-1], (width, height)))
    image_records = [
        {"id": i, "file_name": f"{i:012d}.png", "width": w, "height": h} for i, (w, h) in enumerate(SIZES_WH, 1)
    ]
    annotations = [
        {
            "id": 10 + i,
            "image_id": i,
            "category_id": 5 + i,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": 256.0,
            "iscrowd": 0,
            "segmentation": [[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]],
        }
        for i, box in enumerate(boxes, 1)
    ]
    categories = [{"id": 5 + i, "name": name} for i, name in enumerate(COLOURS, 1)]
    captions = [{"id": i, "image_id": i, "caption": f"one {name} square"} for i, name in enumerate(COLOURS, 1)]
    refs = [
        {
            "ref_id": i,
            "ann_id": 10 + i,
            "image_id": i,
            "split": "train" if i < 4 else "val",
            "sentences": [{"sent": f"the {name} square", "raw": f"the {name} square", "sent_id": i, "tokens": []}],
        }
        for i, name in enumerate(COLOURS, 1)
    ]
    regions = [
        {
            "id": i,
            "regions": [
                {
                    "region_id": i,
                    "image_id": i,
                    "phrase": f"a {name} square",
                    "x": box[0],
                    "y": box[1],
                    "width": box[2] - box[0],
                    "height": box[3] - box[1],
                }
            ],
        }
        for i, (name, box) in enumerate(zip(COLOURS, boxes, strict=True), 1)
    ]
    image_data = [{"image_id": r["id"], "width": r["width"], "height": r["height"], "url": ""} for r in image_records]

    def dump(name: str, content: object) -> Path:
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path / name

    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return SimpleNamespace(
        folder=tmp_path,
        images=images,
        boxes=boxes,
        records=records,
        narratives=write_lines(tmp_path / "narratives.jsonl", records),
        captions=dump("captions.json", {"images": image_records, "annotations": captions}),
        instances=dump(
            "instances.json", {"images": image_records, "annotations": annotations, "categories": categories}
        ),
        refs=dump("refs.json", refs),
        pickled_refs=tmp_path / "refs(unc).p",
        regions=dump("regions.json", regions),
        image_data=dump("image_data.json", image_data),
        dump=dump,
    )


@pytest.fixture(scope="session")
def tokenizer():
    from pixelllm_hf.data.tokenizer_training import train_tokenizer

    return train_tokenizer([f"a the one square where is an object of {name}" for name in COLOURS])
