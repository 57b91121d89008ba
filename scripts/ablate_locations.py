"""How locations are told, and what trains: variants of one small model, equal processor minutes each, one table.

python scripts/ablate_locations.py --out runs/locations --minutes 10
python scripts/ablate_locations.py --out runs/locations --minutes 2 --only "point head" strings bins

The point head reads a location from the states of the expression's tokens; strings and bins are written instead, as
per cent of width and height: "12 34 56 78" in digits, or one token of its own for each number (arXiv 2109.10852). Each
variant learns to find what expressions refer to on composed scenes, from the towers of the embedded model `tiny` and a
new language model. Steps are what two probes say fits into the processor minutes, whatever else the machine does.
A variant that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor, embedded_checkpoint
from pixelllm_hf.data.conversations import conversation_context
from pixelllm_hf.data.referring_expressions import read_referring_expressions
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.data.tokenizer_training import train_tokenizer
from pixelllm_hf.evaluation.box_iou import aligned_box_iou
from pixelllm_hf.evaluation.scene_folder import HELD_OUT_SEED
from pixelllm_hf.training.config import load_config
from pixelllm_hf.training.recipe import TrainConfig

TRAIN = Path(__file__).with_name("train.py")
NUMBERS = 100  # of bins, and of different numbers in strings
PROBES = (4, 16)  # steps; what is the same in both, as reading the data, is no part of a step
NARROW = {"d_model": 96, "d_ff": 256, "num_heads": 3}


@dataclass(frozen=True)
class Variant:
    """written: None for the point head, "strings" or "bins". settings: laid over the recipe."""

    written: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "point head": Variant(),
    "strings": Variant("strings"),
    "bins": Variant("bins"),
    "LoRA": Variant(settings={"model.lora": {"rank": 16}}),
    "narrow language model": Variant(settings={"model.overrides.text_config": NARROW}),
    "tuned towers": Variant(settings={"model.freeze": ["prompt_encoder"]}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for the scenes, the variants and the table")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for each variant")
    parser.add_argument("--scenes", type=int, default=2000, help="to learn from")
    parser.add_argument("--held-out", type=int, default=100, help="scenes to ask about")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="VARIANT", help="names of variants")
    args = parser.parse_args()
    prepared = Prepared.in_folder(args.out, args.scenes, args.held_out)
    table = []
    for name in args.only or VARIANTS:
        run = args.out / name.replace(" ", "-")
        if not (run / "model").is_dir():
            trained(VARIANTS[name], prepared, run, args.minutes)
        table.append({"variant": name, **asked(VARIANTS[name].written, run, prepared.held_out)})
        print(f"{name}: {table[-1]}", flush=True)
    (args.out / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    print(shown(table))


@dataclass(frozen=True)
class Prepared:
    """Scenes to learn from and held-out ones, a tokenizer for each way of writing, and the towers to start from."""

    train: Path
    held_out: Path
    tokenizer: dict[str | None, Path]
    conversations: dict[str, Path]
    towers: Path

    @classmethod
    def in_folder(cls, out: Path, scenes: int, held_out: int) -> Prepared:
        """Made where they are not there yet."""
        out.mkdir(parents=True, exist_ok=True)
        train, asked_about, towers = out / "scenes", out / "held-out", out / "towers.safetensors"
        if not train.is_dir():
            write_scenes(train, scenes, 0)
        if not asked_about.is_dir():
            write_scenes(asked_about, held_out, HELD_OUT_SEED, split="test")
        rows = referred(train)
        # Without numbers: strings are spelt in digits, as by a tokenizer that nobody made for locations.
        texts = [conversation_context(prompt["target"]) for row in rows for prompt in row["prompts"]]
        tokenizer = train_tokenizer(texts, max_pieces=600)
        tokenizer.save_pretrained(out / "words")
        tokenizer.add_tokens([f"<{number}>" for number in range(NUMBERS)])
        tokenizer.save_pretrained(out / "words-and-bins")
        conversations = {}
        for kind in ("strings", "bins"):
            conversations[kind] = out / f"{kind}.json"
            conversations[kind].write_text(json.dumps(list(as_conversations(rows, kind))), encoding="utf-8")
        tensors = load_file(embedded_checkpoint("tiny") / "model.safetensors")
        save_file({name: tensor for name, tensor in tensors.items() if name.startswith("vision_towers.")}, towers)
        words = {None: out / "words", "strings": out / "words", "bins": out / "words-and-bins"}
        return cls(train, asked_about, words, conversations, towers)


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


def recipe(variant: Variant, prepared: Prepared, run: Path, steps: int) -> TrainConfig:
    images = str(prepared.train / "images")
    if variant.written is None:
        refs = prepared.train / "refcoco"
        source: dict[str, Any] = {
            "format": "referring_expressions",
            "annotations": str(refs / "refs.json"),
            "images": images,
        }
        source |= {"instances": str(refs / "instances.json"), "max_prompts": 8, "object_points": "all"}
    else:
        path = str(prepared.conversations[variant.written])
        source = {"format": "conversations", "annotations": path, "images": images, "max_prompts": 8}
    settings: dict[str, Any] = {
        "model.init": "tiny",
        "model.vision_weights": str(prepared.towers),
        "model.processor": str(prepared.tokenizer[variant.written]),
        "model.freeze": ["vision_towers", "prompt_encoder"],
        "model.overrides.proposal_head_config": None,
        "model.overrides.mask_head_config": None,
        "data.sources": [source],
        "data.batch_size": 8,
        "optimizer.learning_rate": 1e-3,
        "optimizer.max_grad_norm": 1.0,
        "run.output_dir": str(run),
        "run.total_steps": steps,
        "run.warmup_steps": min(50, steps // 10),
        "run.cpu": True,
        "run.num_threads": 1,
        "run.progress": False,
        "run.seed": 1,
    }
    if settings["model.freeze"] == variant.settings.get("model.freeze", settings["model.freeze"]):
        settings |= {"data.cache_features": True, "data.cache_dir": str(prepared.train.parent / "cache")}
    settings |= variant.settings
    return load_config(TrainConfig, None, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def trained(variant: Variant, prepared: Prepared, run: Path, minutes: float) -> None:
    """Train as many steps as fit, after probes of a few."""
    main = runpy.run_path(str(TRAIN))["main"]
    few, more = (_seconds_of(main, variant, prepared, run.with_name(f"{run.name}-probe-{n}"), n) for n in PROBES)
    a_step = max((more - few) / (PROBES[1] - PROBES[0]), 1e-3)
    _seconds_of(main, variant, prepared, run, max(PROBES[0], int(60 * minutes / a_step)))


def _seconds_of(main: Any, variant: Variant, prepared: Prepared, run: Path, steps: int) -> float:
    """Of the processor."""
    AcceleratorState._reset_state(reset_partial_state=True)
    began = time.process_time()
    main(recipe(variant, prepared, run, steps))
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
