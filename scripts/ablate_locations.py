"""How locations are told, and what trains: variants of one small model, equal processor minutes each, one table.

python scripts/ablate_locations.py --out runs/locations --minutes 10
python scripts/ablate_locations.py --out runs/locations --minutes 2 --only "point head" strings bins

The point head reads a location from the states of the expression's tokens; strings and bins are written instead, as
per cent of width and height: "12 34 56 78" in digits, or one token of its own for each number (arXiv 2109.10852).

All variants start from one model that sees and reads, but has never told a location: that of the embedded `tiny`, whose
decoder and point head are new, and that has then learnt captions and names of regions for `--first` minutes. Each
learns to find what expressions refer to on composed scenes. Steps are what two probes say fits into the processor
minutes, whatever else the machine does. What is there already is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import runpy
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor, embedded_checkpoint
from pixelllm_hf.data.conversations import conversation_context
from pixelllm_hf.data.referring_expressions import read_referring_expressions
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.evaluation.box_iou import aligned_box_iou
from pixelllm_hf.evaluation.scene_folder import HELD_OUT_SEED
from pixelllm_hf.training.config import load_config
from pixelllm_hf.training.recipe import TrainConfig

TRAIN = Path(__file__).with_name("train.py")
NUMBERS = 100  # of bins, and of different numbers in strings
PROBES = (4, 24)  # steps; what is the same in both, as reading the data, is no part of a step
NEW = ("language_model.body.decoder.", "language_model.lm_head.", "point_head.")  # of the model that all start from


@dataclass(frozen=True)
class Variant:
    """written: None for the point head, "strings" or "bins". layers: of the decoder; None for as many as it has.
    settings: laid over the recipe."""

    written: str | None = None
    layers: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "point head": Variant(),
    "strings": Variant("strings"),
    "bins": Variant("bins"),
    "LoRA": Variant(settings={"model.lora": {"rank": 16}}),
    "one decoder layer": Variant(layers=1),
    "tuned towers": Variant(settings={"model.freeze": ["prompt_encoder"]}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for the scenes, the variants and the table")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for each variant")
    parser.add_argument("--first", type=float, default=10.0, help="minutes of captions and regions that all start from")
    parser.add_argument("--scenes", type=int, default=2000, help="to learn from")
    parser.add_argument("--held-out", type=int, default=100, help="scenes to ask about")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="VARIANT", help="names of variants")
    args = parser.parse_args()
    prepared = Prepared.in_folder(args.out, args.scenes, args.held_out)
    if not (prepared.start / "model").is_dir():
        trained(first_plan(prepared), prepared, prepared.start, args.first)
    table = []
    for name in args.only or VARIANTS:
        run = args.out / name.replace(" ", "-")
        if not (run / "model").is_dir():
            trained(plan(VARIANTS[name], prepared), prepared, run, args.minutes)
        table.append({"variant": name, **asked(VARIANTS[name].written, run, prepared.held_out)})
        print(f"{name}: {table[-1]}", flush=True)
    (args.out / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    print(shown(table))


@dataclass(frozen=True)
class Prepared:
    """Scenes to learn from and held-out ones, and what variants start from: `new` has a new decoder and point head,
    `start` is the run that teaches it captions and regions."""

    train: Path
    held_out: Path
    conversations: dict[str, Path]
    new: Path
    start: Path

    @classmethod
    def in_folder(cls, out: Path, scenes: int, held_out: int) -> Prepared:
        """Made where they are not there yet."""
        out.mkdir(parents=True, exist_ok=True)
        train, asked_about, new = out / "scenes", out / "held-out", out / "new"
        if not train.is_dir():
            write_scenes(train, scenes, 0)
        if not asked_about.is_dir():
            write_scenes(asked_about, held_out, HELD_OUT_SEED, split="test")
        rows = referred(train)
        conversations = {}
        for kind in ("strings", "bins"):
            conversations[kind] = out / f"{kind}.json"
            conversations[kind].write_text(json.dumps(list(as_conversations(rows, kind))), encoding="utf-8")
        if not new.is_dir():
            write_new(new)
        return cls(train, asked_about, conversations, new, out / "start")

    def start_of(self, variant: Variant) -> Path:
        """The folder of the model that a variant starts from."""
        model = self.start / "model"
        if variant.layers is None:
            return model
        folder = self.start / f"model-{variant.layers}"
        if not folder.is_dir():
            start = PixelLLMForGroundedGeneration.from_pretrained(model)
            with_new_parts(start, (), num_decoder_layers=variant.layers).save_pretrained(folder)
            PixelLLMProcessor.from_pretrained(model).save_pretrained(folder)
        return folder


def write_new(folder: Path) -> None:
    """`tiny` with what tells locations new, and with a token for each bin, which strings never use."""
    tiny = PixelLLMForGroundedGeneration.from_pretrained(embedded_checkpoint("tiny"), dtype=torch.float32)
    processor = PixelLLMProcessor.from_pretrained(embedded_checkpoint("tiny"))
    processor.tokenizer.add_tokens([f"<{number}>" for number in range(NUMBERS)])
    tiny.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    tiny.config.proposal_head_config = tiny.config.mask_head_config = None
    with_new_parts(tiny, NEW).save_pretrained(folder)
    processor.save_pretrained(folder)


def with_new_parts(
    model: PixelLLMForGroundedGeneration, new: tuple[str, ...], **text: Any
) -> PixelLLMForGroundedGeneration:
    """A model of its config, `text` laid over that of the language model, with its weights where both have them and the
    name does not begin like one of `new`."""
    config = copy.deepcopy(model.config)
    for name, value in text.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    other = PixelLLMForGroundedGeneration(config)
    mine = other.state_dict()
    taken = {k: v for k, v in model.state_dict().items() if k in mine and not k.startswith(new)}
    other.load_state_dict(taken, strict=False)
    return other


def referred(scenes: Path) -> list[dict[str, Any]]:
    """The rows of a folder's expressions, images as file names."""
    refs = scenes / "refcoco"
    rows = read_referring_expressions(refs / "refs.json", refs / "instances.json", scenes / "images")
    return [dict(row) for row in rows.cast_column("image", _paths())]  # type: ignore[union-attr]


def _paths() -> Any:
    from datasets import Image

    return Image(decode=False)


def as_conversations(rows: Iterable[dict[str, Any]], kind: str) -> Iterable[dict[str, Any]]:
    """A question for each expression, whose answer is where it is."""
    for row in rows:
        turns = []
        for prompt in row["prompts"]:
            answer = written(prompt["object_box"], (row["width"], row["height"]), kind)
            turns += [{"from": "human", "value": prompt["target"]}, {"from": "gpt", "value": answer}]
        yield {"image": Path(row["image"]["path"]).name, "conversations": turns}


def written(box: Sequence[float], size_wh: tuple[int, int], kind: str) -> str:
    """A box xyxy in pixels as text.

    >>> written([10, 20, 50, 100], (100, 100), "strings"), written([10, 20, 50, 100], (100, 100), "bins")
    ('10 20 50 99', '<10> <20> <50> <99>')
    """
    shares = np.asarray(box, float).reshape(2, 2) / size_wh
    numbers = np.clip(shares * NUMBERS, 0, NUMBERS - 1).astype(int).flatten().tolist()
    return " ".join(f"<{number}>" if kind == "bins" else str(number) for number in numbers)


def read(text: str, size_wh: tuple[int, int]) -> list[float]:
    """The box xyxy in pixels that a text tells; without four numbers one that is nowhere.

    >>> read("<10> <20> <50><99>", (100, 100))
    [10.5, 20.5, 50.5, 99.5]
    """
    numbers = [int(number) for number in re.findall(r"\d+", text)][:4]
    if len(numbers) < 4:
        return [0.0, 0.0, 0.0, 0.0]
    return ((np.array(numbers).reshape(2, 2) + 0.5) / NUMBERS * size_wh).flatten().tolist()


@dataclass(frozen=True)
class Plan:
    """What a run starts from, what it learns from, and what is laid over the recipe that all share."""

    init: Path
    sources: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)


def first_plan(prepared: Prepared) -> Plan:
    """Captions and names of regions, without a location."""
    images, genome = str(prepared.train / "images"), prepared.train / "visual_genome"
    captions = {"format": "coco_captions", "annotations": str(prepared.train / "captions.json"), "images": images}
    regions = {
        "format": "visual_genome",
        "annotations": str(genome / "region_descriptions.json"),
        "image_data": str(genome / "image_data.json"),
        "images": images,
        "max_prompts": 8,
    }
    return Plan(prepared.new, [captions, regions])


def plan(variant: Variant, prepared: Prepared) -> Plan:
    """Where expressions are, told in the variant's way."""
    images, refs = str(prepared.train / "images"), prepared.train / "refcoco"
    if variant.written is None:
        source: dict[str, Any] = {
            "format": "referring_expressions",
            "annotations": str(refs / "refs.json"),
            "instances": str(refs / "instances.json"),
            "object_points": "all",
        }
    else:
        source = {"format": "conversations", "annotations": str(prepared.conversations[variant.written])}
    return Plan(prepared.start_of(variant), [source | {"images": images, "max_prompts": 8}], variant.settings)


def recipe(plan: Plan, prepared: Prepared, run: Path, steps: int) -> TrainConfig:
    settings: dict[str, Any] = {
        "model.init": str(plan.init),
        "model.freeze": ["vision_towers", "prompt_encoder"],
        "data.sources": plan.sources,
        "data.batch_size": 8,
        "optimizer.learning_rate": 5e-4,
        "optimizer.betas": [0.9, 0.98],
        "optimizer.max_grad_norm": 0.5,
        "run.output_dir": str(run),
        "run.total_steps": steps,
        "run.warmup_steps": min(50, steps // 10),
        "run.cpu": True,
        "run.num_threads": 1,
        "run.progress": False,
        "run.seed": 1,
    } | plan.settings
    if "vision_towers" in settings["model.freeze"]:
        settings |= {"data.cache_features": True, "data.cache_dir": str(prepared.train.parent / "cache")}
    return load_config(TrainConfig, None, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def trained(plan: Plan, prepared: Prepared, run: Path, minutes: float) -> None:
    """Train as many steps as fit, after probes of a few."""
    main = runpy.run_path(str(TRAIN))["main"]
    probe = run.with_name(f"{run.name}-probe")
    seconds = {}
    for steps in (PROBES[0], *PROBES):  # the first makes what is made once, as the features
        shutil.rmtree(probe, ignore_errors=True)
        seconds[steps] = _seconds_of(main, plan, prepared, probe, steps)
    a_step = (seconds[PROBES[1]] - seconds[PROBES[0]]) / (PROBES[1] - PROBES[0])
    if a_step <= 0:
        sys.exit(f"error: {PROBES[1]} steps of {run.name} took no longer than {PROBES[0]}: the machine is too busy.")
    _seconds_of(main, plan, prepared, run, max(PROBES[0], int(60 * minutes / a_step)))


def _seconds_of(main: Any, plan: Plan, prepared: Prepared, run: Path, steps: int) -> float:
    """Of the processor."""
    AcceleratorState._reset_state(reset_partial_state=True)
    began = time.process_time()
    main(recipe(plan, prepared, run, steps))
    return time.process_time() - began


@torch.inference_mode()
def asked(kind: str | None, run: Path, held_out: Path) -> dict[str, float]:
    """What a model finds on held-out scenes: share of IoU above 0.5, mean IoU, tokens an answer, seconds an image."""
    model = PixelLLMForGroundedGeneration.from_pretrained(run / "model", dtype=torch.float32).eval()
    processor = PixelLLMProcessor.from_pretrained(run / "model")
    found: list[list[float]] = []
    expected: list[list[float]] = []
    tokens, rows = 0, referred(held_out)
    began = time.process_time()
    for row in rows:
        expressions = [prompt["target"] for prompt in row["prompts"]]
        expected += [prompt["object_box"] for prompt in row["prompts"]]
        size = (row["width"], row["height"])
        boxes, number = find(model, processor, row["image"]["path"], expressions, size, kind)
        found += boxes
        tokens += number
    seconds = (time.process_time() - began) / len(rows)
    ious = aligned_box_iou(_xywh(found), _xywh(expected))
    steps = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["step"]
    return {
        "steps": steps,
        "P@0.5": float((ious > 0.5).mean()),
        "mean IoU": float(ious.mean()),
        "tokens": tokens / len(expected),
        "seconds": seconds,
        "expressions": len(expected),
    }


def _xywh(boxes_xyxy: list[list[float]]) -> np.ndarray:
    corners = np.array(boxes_xyxy, float).reshape(-1, 2, 2)
    return np.concatenate([corners[:, 0], (corners[:, 1] - corners[:, 0]).clip(min=0)], axis=1)


def find(
    model: Any, processor: Any, image: str, expressions: list[str], size_wh: tuple[int, int], kind: str | None
) -> tuple[list[list[float]], int]:
    """The boxes of expressions on an image, and how many tokens were read or written for them."""
    if kind is None:
        inputs = processor(images=image, task="refer", text=[expressions])
        output = model.generate(**inputs)
        answers = processor.post_process_grounded_generation(output, inputs)[0]
        boxes = [[0.0] * 4 if answer.box is None else list(answer.box) for answer in answers]
        return boxes, int((inputs["query_ids"] > 1).sum())
    inputs = dict(processor(images=image))
    inputs |= processor.tokenizer(list(map(conversation_context, expressions)), padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    whole = torch.tensor([[[0.0, 0.0, *inputs["pixel_mask"][0].nonzero().amax(0).flip(0).add(1).tolist()]]])
    inputs["prompt_boxes"] = whole.expand(1, len(expressions), 4)
    inputs["prompt_mask"] = torch.ones(1, len(expressions), dtype=torch.bool)
    sequences = model.generate(**inputs, num_beams=1, max_new_tokens=24, return_dict_in_generate=False)
    texts = processor.tokenizer.batch_decode(sequences, skip_special_tokens=True)
    return [read(text, size_wh) for text in texts], int((sequences > 1).sum())


def shown(table: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| variant | steps | P@0.5 | mean IoU | tokens an expression | ms an image |", "|---|---|---|---|---|---|"]
    for row in table:
        lines.append(
            f"| {row['variant']} | {row['steps']} | {row['P@0.5']:.3f} | {row['mean IoU']:.3f} | "
            f"{row['tokens']:.1f} | {1000 * row['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
