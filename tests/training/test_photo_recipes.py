"""The stages of configs/photo from a folder of photographs to a model, at a size that takes seconds."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import GenerationConfig

from pixelllm_hf import embedded_checkpoint
from pixelllm_hf.data.tokenizer_training import prompt_texts, train_tokenizer
from pixelllm_hf.evaluation.labelling import image_files, labelled
from pixelllm_hf.evaluation.object_detector import Detection
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.processing.tasks import TASK_SPECS
from pixelllm_hf.training.config import load_config
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.sources import read_source

REPOSITORY = Path(__file__).parents[2]
WIDTH, HEIGHT = 60, 48
BOXES = {"1": (4, 4, 30, 40), "2": (32, 10, 58, 44)}
CAPTIONS = ["[/EN#1/animals A dog] beside [/EN#2/people a man] .", "[/EN#2/people A man] is on the left ."]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images as Flickr30k Entities, COCO and VOC have them."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("flickr/Sentences", "flickr/Annotations", "flickr/images", "coco/images", "voc/images"):
        (folder / name).mkdir(parents=True)
    names = [str(100 + number) for number in range(4)]
    random = np.random.default_rng(0)
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for name, (x0, y0, x1, y1) in BOXES.items()
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    for name in names:
        pixels = Image.fromarray(random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
        for file in (f"flickr/images/{name}.png", f"coco/images/{name}.png", f"voc/images/{name}.png"):
            pixels.save(folder / file)
        (folder / f"flickr/Sentences/{name}.txt").write_text("\n".join(CAPTIONS))
        (folder / f"flickr/Annotations/{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (folder / "flickr/train.txt").write_text("\n".join(names[:3]))
    (folder / "flickr/val.txt").write_text(names[3])
    (folder / "flickr/captions_without_images.txt").write_text("A cat sleeps .\nTwo men walk .\n" * 40)
    images = [{"id": int(n), "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in names]
    annotations = [
        {
            "id": 10 * image["id"] + number,
            "image_id": image["id"],
            "category_id": number,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
            "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        }
        for image in images
        for number, (x0, y0, x1, y1) in enumerate(BOXES.values(), 1)
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}]
    instances = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    captions = [{"id": image["id"], "image_id": image["id"], "caption": "A dog and a man."} for image in images]
    for file in ("coco/instances_train.json", "coco/instances_val.json", "voc/instances_train.json"):
        (folder / file).write_text(instances)
    (folder / "coco/captions_train.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return folder


def label_objects(photographs: Path, runs: Path) -> None:
    """What scripts/label_objects.py leaves, of a detector that finds one dog in every image."""
    runs.mkdir(exist_ok=True)
    dog = [Detection("dog", 0.9, (0.1, 0.1, 0.5, 0.5))]
    for name in ("flickr", "voc"):
        content = labelled(image_files(photographs / name / "images", None), lambda image: dog)
        (runs / f"{name}_objects.json").write_text(json.dumps(content))


def run(stage: str, photographs: Path, runs: Path, **settings: Any) -> Path:
    """A step or two of a stage with a model of a few thousand weights, from that of another stage or from nothing."""
    overrides: dict[str, Any] = {
        "text_config": {"vocab_size": 400},
        "point_head_config": {"predict_scale": True},
        "prompt_config": {"reads_map": True, "pools_prompt": True},  # as in the preset `photo`
        "vision_config": {"standardise": True},
    }
    if stage == "masks":
        overrides["mask_head_config"] = {"hidden_size": 16, "num_attention_heads": 2}
    elif "init" in settings:
        overrides["mask_head_config"] = None
    words = {
        "run.total_steps": 2, "run.warmup_steps": 1, "run.eval_every": 2, "run.eval_batches": 1, "run.progress": False,
        "data.batch_size": 2, "data.cache_threads": 1, "model.weights": [], "model.overrides": overrides,
        "run.mixed_precision": "no", **{f"model.{name}": value for name, value in settings.items()},
    }  # fmt: skip
    file = REPOSITORY / "configs" / "photo" / f"{stage}.yaml"
    variables = {"data": str(photographs), "runs": str(runs)}
    recipe = load_config(TrainConfig, file, [f"{key}={json.dumps(value)}" for key, value in words.items()], variables)
    runpy.run_path(str(REPOSITORY / "scripts" / "train.py"))["main"](recipe)
    return runs / stage / "model"


def test_every_stage_runs_from_the_folder_of_photographs_and_leaves_a_model_for_the_next(
    photographs: Path, tmp_path: Path
) -> None:
    words = [*prompt_texts(), "a dog beside a man is on the left two men walk cat sleeps person"]
    train_tokenizer(words, max_pieces=400).save_pretrained(tmp_path / "tokenizer")
    label_objects(photographs, tmp_path)
    run("text", photographs, tmp_path, init="for_tests")
    joint = run("joint", photographs, tmp_path, init="for_tests")
    points = run("points", photographs, tmp_path)
    reward = run("reward", photographs, tmp_path)
    assert joint.is_dir() and points.is_dir() and reward.is_dir()
    masks = run("masks", photographs, tmp_path)
    model = PixelLLMForGroundedGeneration.from_pretrained(masks)
    assert model.mask_head is not None and model.point_head.scale is not None
    embedded = GenerationConfig.from_pretrained(embedded_checkpoint("photo"))
    for name in ("num_beams", "max_new_tokens", "no_repeat_ngram_size", "max_repeated_tokens"):
        assert getattr(model.generation_config, name) == getattr(embedded, name), name
    parts = {folder.parent.name for folder in (tmp_path / "cache").glob("features-*/part-*")}
    assert len(parts) == 2  # one set of maps for language, one with the map of masks


def test_the_joint_stage_teaches_every_prompt_that_a_task_asks_by_default(photographs: Path, tmp_path: Path) -> None:
    label_objects(photographs, tmp_path)
    file = REPOSITORY / "configs" / "photo" / "joint.yaml"
    recipe = load_config(TrainConfig, file, [], {"data": str(photographs), "runs": str(tmp_path)})
    taught = set()
    for source in recipe.data.sources:
        for row in read_source(source):
            spec = TASK_SPECS[row["task"]]
            for prompt in row["prompts"]:
                taught |= {prompt["context"]} if prompt["context"] else set(source.contexts or spec.training)
    config = PixelLLMConfig.photo()
    tasks = [spec for spec in TASK_SPECS.values() if not spec.missing_head(config)]
    assert {spec.name for spec in tasks} >= {"caption", "trace", "region", "refer", "segment", "dense"}
    for spec in tasks:
        asked = spec.default or spec.prefix
        assert any(text.startswith(asked) if spec.needs_words else text == asked for text in taught), spec.name
