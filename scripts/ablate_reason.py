"""What each part of answers that point is worth: equal short trainings, one table.

python scripts/ablate_reason.py --recipe configs/reason/scenes.yaml --steps 600 --out runs/ablation
python scripts/ablate_reason.py --recipe … --steps 600 --out runs/ablation --only "SAM's decoder" "one scale"

Each variant is trained by scripts/train.py with the recipe and a few settings laid over it, and asked about held-out
scenes. A variant that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.evaluation.runner import GenerationSettings, evaluate
from pixelllm_hf.evaluation.scene_folder import HELD_OUT_SEED
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import QUICK
from pixelllm_hf.training.build_model import model_config
from pixelllm_hf.training.config import load_config
from pixelllm_hf.training.recipe import TrainConfig

TRAIN = Path(__file__).with_name("train.py")


def variants(token_ids: list[int], scales: int, width: int) -> dict[str, dict]:
    """Settings of `model.overrides` by the name of the variant."""
    per_scale = len(token_ids) // scales
    one_each = {"tokens_per_scale": 1, "token_ids": token_ids[:scales]}
    one_scale = {"num_scales": 1, "token_ids": token_ids[:per_scale], "level_maps": ["fused"]}
    sam = {"hidden_size": width, "intermediate_size": 2 * width, "head_hidden_size": width}
    return {
        "as it is": {},
        "no refinement": {"codebook_config": {"refinement_alpha": 1.0}},
        "one token a scale": {"codebook_config": one_each},
        "one scale": {"codebook_config": one_scale},
        "SAM's decoder": {"segmentation_head": "sam", "mask_head_config": sam},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="recipe of a model with a codebook")
    parser.add_argument("--out", required=True, type=Path, help="folder for the variants and the table")
    parser.add_argument("--steps", type=int, help="optimizer steps of each variant; the recipe's by default")
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes to ask about")
    parser.add_argument("--only", nargs="+", help="names of variants")
    parser.add_argument("--model", type=Path, help="ask this folder's model alone, and train nothing")
    args = parser.parse_args()
    settings = load_config(TrainConfig, args.recipe).model
    codebook = model_config(settings.init, settings.overrides).codebook_config
    if codebook is None:
        parser.error(f"the model of {args.recipe} has no codebook_config.")
    every = variants(list(codebook.token_ids), codebook.num_scales, codebook.hidden_size)
    if unknown := set(args.only or ()) - set(every):
        parser.error(f"there is no variant {', '.join(sorted(unknown))}; there are {', '.join(every)}.")
    chosen = {name: every[name] for name in args.only or every}
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(Path(folder) / "scenes", args.scenes, HELD_OUT_SEED, split="test")
        if args.model is not None:
            table = {args.model.name: asked(args.model, scenes)}
        else:
            table = {name: trained_and_asked(name, changes, args, scenes) for name, changes in chosen.items()}
    (args.out / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    print(shown(table))


def trained_and_asked(name: str, changes: dict, args: argparse.Namespace, scenes: Path) -> dict[str, float]:
    run = args.out / name.replace(" ", "-").replace("'", "")
    if not (run / "model").is_dir():
        overrides = [f"{key}={json.dumps(value)}" for key, value in flat("model.overrides", changes).items()]
        steps = [f"run.total_steps={args.steps}"] if args.steps else []
        words = [*overrides, *steps, f"run.output_dir={run}"]
        subprocess.run([sys.executable, str(TRAIN), "--config", args.recipe, *words], check=True)
    return asked(run / "model", scenes)


def flat(prefix: str, values: dict) -> dict[str, object]:
    """Nested settings with dotted keys. A mapping that is new as a whole (a head) stays one."""
    found: dict[str, object] = {}
    for key, value in values.items():
        deeper = isinstance(value, dict) and key == "codebook_config"
        found |= flat(f"{prefix}.{key}", value) if deeper else {f"{prefix}.{key}": value}
    return found


def asked(folder: Path, scenes: Path) -> dict[str, float]:
    """What a model answers about the scenes, with its sizes and times."""
    model = PixelLLMForGroundedGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = PixelLLMProcessor.from_pretrained(folder)
    with seconds_of(model, "generate") as whole, seconds_of(model, "predict_target_masks") as masks:
        found = evaluate(
            model, processor, TASKS["muse"], scenes, settings=QUICK, generation=GenerationSettings(batch_size=12)
        )
    numbers = {name: estimate["value"] for name, estimate in found.result["metrics"].items()}
    numbers["seconds_per_image"] = sum(whole) / found.result["scenes"]
    numbers["mask_seconds_per_target"] = sum(masks) / max(found.result["written_targets"], 1)
    parts = [model.codebook_head, model.language_model.target_tokens]
    if model.config.segmentation_head == "sam":
        parts.append(model.mask_head.decoder)
    sizes = {"parameters": size_of(model), "head_parameters": sum(size_of(part) for part in parts)}
    return numbers | sizes


@contextmanager
def seconds_of(model: torch.nn.Module, method: str) -> Iterator[list[float]]:
    """The time of each call of a method of the model."""
    seconds: list[float] = []
    plain = getattr(model, method)

    def timed(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = plain(*args, **options)
        seconds.append(time.perf_counter() - began)
        return result

    setattr(model, method, timed)
    try:
        yield seconds
    finally:
        delattr(model, method)


def size_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shown(table: dict[str, dict[str, float]]) -> str:
    """A Markdown table."""
    lines = [
        "| | gIoU | cIoU | few / many targets (gIoU) | right number | empty answers right | head, M | model, M | "
        "ms a target | ms an image |",
        "|---|" + "---|" * 9,
    ]
    for name, row in table.items():
        few, many = (row.get(f"gIoU_{kind}", float("nan")) for kind in ("few", "many"))
        lines.append(
            f"| {name} | {row['gIoU']:.3f} | {row['cIoU']:.3f} | {few:.3f} / {many:.3f} | {row['right_number']:.3f} | "
            f"{row['empty_accuracy']:.3f} | {row['head_parameters'] / 1e6:.2f} | {row['parameters'] / 1e6:.2f} | "
            f"{1000 * row['mask_seconds_per_target']:.1f} | {1000 * row['seconds_per_image']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
