"""A small world of coloured squares in the official formats, so that training tests need no other files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "yellow": (230, 220, 50)}


def write_squares(
    folder: Path, *, count: int = 12, seed: int = 0, size_wh: tuple[int, int] = (80, 64)
) -> SimpleNamespace:
    """`count` images with two coloured squares each: images/, instances.json, narratives.jsonl, refs.json,
    region_descriptions.json, image_data.json."""
    generator = np.random.default_rng(seed)
    width, height = size_wh
    images, narratives, refs, regions, image_data = [], [], [], [], []
    annotations: list[dict] = []
    (folder / "images").mkdir(parents=True)
    names = list(COLOURS)
    for image_id in range(1, count + 1):
        image = np.full((height, width, 3), 128, np.uint8)
        image += generator.integers(0, 20, image.shape, dtype=np.uint8)
        chosen = generator.choice(len(names), 2, replace=False)
        boxes = []
        for half, colour in enumerate(chosen):
            x = int(generator.integers(half * width // 2, half * width // 2 + 12))
            y, side = int(generator.integers(4, 24)), int(generator.integers(16, 26))
            image[y : y + side, x : x + side] = COLOURS[names[colour]]
            boxes.append((x, y, side, side))
            annotation_id = len(annotations) + 1
            polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": int(colour) + 1,
                    "bbox": list(boxes[-1]),
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
            refs.append(
                {
                    "ref_id": annotation_id,
                    "ann_id": annotation_id,
                    "image_id": image_id,
                    "split": "train",
                    "category_id": int(colour) + 1,
                    "sentences": [{"sent": f"the {names[colour]} square", "sent_id": annotation_id}],
                }
            )
        file_name = f"{image_id:012d}.png"
        Image.fromarray(image).save(folder / "images" / file_name)
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        image_data.append({"image_id": image_id, "width": width, "height": height, "url": f"images/{file_name}"})
        words: list[str] = []
        trace, timed = [], []
        for (x, y, side, _), colour in zip(boxes, chosen, strict=True):
            for word in ("a", names[colour], "square"):
                start = float(len(words))
                timed.append({"utterance": word, "start_time": start, "end_time": start + 0.9})
                corners = ((x, y), (x + side, y + side))
                trace += [
                    {"x": cx / width, "y": cy / height, "t": start + 0.9 * i} for i, (cx, cy) in enumerate(corners)
                ]
                words.append(word)
        narratives.append(
            {
                "dataset_id": "squares",
                "image_id": str(image_id),
                "annotator_id": 0,
                "caption": " ".join(words),
                "timed_caption": timed,
                "traces": [trace],
                "voice_recording": "",
            }
        )
        regions.append(
            {
                "id": image_id,
                "regions": [
                    {
                        "region_id": 10 * image_id + i,
                        "image_id": image_id,
                        "phrase": f"{names[colour]} square",
                        "x": x,
                        "y": y,
                        "width": side,
                        "height": side,
                    }
                    for i, ((x, y, side, _), colour) in enumerate(zip(boxes, chosen, strict=True))
                ],
            }
        )
    categories = [{"id": i + 1, "name": name, "supercategory": "square"} for i, name in enumerate(names)]
    files = {
        "instances.json": {"images": images, "annotations": annotations, "categories": categories},
        "refs.json": refs,
        "region_descriptions.json": regions,
        "image_data.json": image_data,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    lines = "".join(json.dumps(narrative) + "\n" for narrative in narratives)
    (folder / "narratives.jsonl").write_text(lines, encoding="utf-8")
    return SimpleNamespace(
        folder=folder,
        images=folder / "images",
        instances=folder / "instances.json",
        narratives=folder / "narratives.jsonl",
        refs=folder / "refs.json",
        regions=folder / "region_descriptions.json",
        image_data=folder / "image_data.json",
        names=names,
    )


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return write_squares(tmp_path_factory.mktemp("squares") / "data")


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pixelllm_hf.data.tokenizer_training import train_tokenizer

    texts = [f"a {name} square the where is" for name in COLOURS]
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts, max_pieces=99).save_pretrained(folder)
    return folder


@pytest.fixture
def squares_recipe(squares: SimpleNamespace, tmp_path: Path) -> dict[str, Any]:
    """`data`, `auxiliary` and `run` of a recipe that learns labels of the squares for three steps."""
    data = {"batch_size": 4, "cache_dir": str(tmp_path / "cache")}
    auxiliary = {"instances": str(squares.instances), "images": str(squares.images), "eval_fraction": 0.2}
    run = {"output_dir": str(tmp_path / "run"), "total_steps": 3, "cpu": True, "eval_every": 3, "progress": False}
    return {"data": data, "auxiliary": auxiliary, "run": run}


@pytest.fixture
def train_a_part(
    squares_recipe: dict[str, Any], tokenizer_folder: Path, tmp_path: Path, launch: Callable[..., Launched]
) -> Callable[..., tuple[str, set[str]]]:
    """train_a_part(objective, **auxiliary) -> what was printed, and the parts of a whole model that changed."""

    def train(objective: str, **auxiliary: Any) -> tuple[str, set[str]]:
        from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
        from pixelllm_hf.training.build_model import build_model, load_processor
        from pixelllm_hf.training.export import save_folder

        begin = build_model("for_tests")
        save_folder(begin, tmp_path / "begin", processor=load_processor(str(tokenizer_folder), image_size=64))
        whole = {"objective": objective, "model": {"init": str(tmp_path / "begin")}, **squares_recipe}
        whole |= {"optimizer": {"learning_rate": 1e-2}, "auxiliary": squares_recipe["auxiliary"] | auxiliary}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(whole))
        printed = launch("train.py", tmp_path / "recipe.yaml").finish()
        result = PixelLLMForGroundedGeneration.from_pretrained(tmp_path / "run" / "model").state_dict()
        tensors = begin.state_dict().items()
        return printed, {name.split(".")[0] for name, tensor in tensors if not tensor.equal(result[name])}

    return train


class Launched:
    """A script of ours in a process of its own."""

    def __init__(self, script: str, config: Path, prefix: tuple[str, ...], variables: dict[str, str]):
        root = Path(__file__).parents[2]
        command = [sys.executable, *prefix, str(root / "scripts" / script), "--config", str(config)]
        environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1", **variables}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self) -> str:
        """Its output, once it ended well."""
        output, _ = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, output
        return output


@pytest.fixture
def launch() -> Iterator[Callable[..., Launched]]:
    """launch(script, config, prefix=("-m", ...), VARIABLE=value) -> Launched; nothing outlives the test."""
    started: list[Launched] = []

    def start(script: str, config: Path, *, prefix: tuple[str, ...] = (), **variables: str) -> Launched:
        started.append(Launched(script, config, prefix, variables))
        return started[-1]

    yield start
    for launched in started:
        if launched.process.poll() is None:
            launched.process.kill()
            launched.process.communicate()
