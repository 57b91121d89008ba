"""What each part of answers that point is worth: equal short trainings, one table.

python scripts/ablate_reason.py --recipe configs/reason/scenes.yaml --steps 600 --out runs/ablation \\
    --base src/pixelllm_hf/checkpoints/tiny --tokenizer runs/reason-tokenizer
python scripts/ablate_reason.py --recipe … --base … --tokenizer … --out runs/ablation --only "as it is" "one scale"
python scripts/ablate_reason.py --recipe configs/reason/scenes.yaml --out runs/table --model tiny-reason

Each variant starts from the same model by scripts/start_codebook.py, is trained by scripts/train.py with the recipe's
settings, and asked about held-out scenes. A variant that is there is not trained again. The light decoder and SAM's
both begin as the mask decoder that the model has already.
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
from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.data.formats import read_format
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.evaluation.runner import GenerationSettings, evaluate
from pixelllm_hf.evaluation.scene_folder import HELD_OUT_SEED
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import QUICK
from pixelllm_hf.inference.model_source import ModelSource
from pixelllm_hf.modeling.codebook_decoder import resize_logits

SCRIPTS = Path(__file__).parent
# what is said to start_codebook.py, and what to train.py
VARIANTS: dict[str, tuple[list[str], list[str]]] = {
    "as it is": ([], []),
    "no refinement": ([], ["model.overrides.codebook_config.refinement_alpha=1.0"]),
    "one token a scale": (["--tokens-per-scale", "1"], []),
    "one scale": (["--scales", "1", "--tokens-per-scale", "3"], []),
    "SAM's decoder": (["--segmentation-head", "sam"], []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="recipe that every variant is trained with")
    parser.add_argument("--out", required=True, type=Path, help="folder for the variants and the table")
    parser.add_argument("--base", help="model that every variant starts from")
    parser.add_argument("--tokenizer", help="folder of a tokenizer with target tokens")
    parser.add_argument("--steps", type=int, help="optimizer steps of each variant; the recipe's by default")
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes to ask about")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="names of variants")
    parser.add_argument("--model", help="ask this model alone, and train nothing")
    args = parser.parse_args()
    if args.model is None and not (args.base and args.tokenizer):
        parser.error("name the --base and the --tokenizer that the variants start from, or a --model to ask alone.")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(Path(folder) / "scenes", args.scenes, HELD_OUT_SEED, split="test")
        if args.model is not None:
            table = {args.model: asked(ModelSource.find(args.model).folder, scenes)}
        else:
            table = {name: asked(trained(name, args), scenes) for name in args.only or VARIANTS}
    (args.out / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    print(shown(table))


def trained(name: str, args: argparse.Namespace) -> Path:
    """The folder of a variant's model, which is made if it is not there."""
    run = args.out / name.replace(" ", "-").replace("'", "")
    if not (run / "model").is_dir():
        of_start, of_training = VARIANTS[name]
        start = args.out / f"{run.name}-start"
        made = ["--model", args.base, "--tokenizer", args.tokenizer, "--out", str(start), *of_start]
        subprocess.run([sys.executable, str(SCRIPTS / "start_codebook.py"), *made], check=True)
        steps = [f"run.total_steps={args.steps}", f"run.warmup_steps={args.steps // 10}"] if args.steps else []
        words = [f"model.init={start}", f"run.output_dir={run}", "run.eval_every=0", *of_training, *steps]
        subprocess.run([sys.executable, str(SCRIPTS / "train.py"), "--config", args.recipe, *words], check=True)
    return run / "model"


def asked(folder: Path, scenes: Path) -> dict[str, float]:
    """What a model answers about the scenes, with its sizes and times."""
    model = PixelLLMForGroundedGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = PixelLLMProcessor.from_pretrained(folder)
    with seconds_of(model, "generate") as whole, seconds_of(model, "predict_target_masks") as masks:
        found = evaluate(
            model, processor, TASKS["muse"], scenes, settings=QUICK, generation=GenerationSettings(batch_size=12)
        )
    numbers = {name: estimate["value"] for name, estimate in found.result["metrics"].items()}
    numbers["given_iou"] = iou_of_given_answers(model, processor, scenes)
    numbers["seconds_per_image"] = sum(whole) / found.result["scenes"]
    numbers["mask_seconds_per_target"] = sum(masks) / max(found.result["written_targets"], 1)
    parts = [model.codebook_head, model.language_model.target_tokens]
    if model.config.segmentation_head == "sam":
        parts += [part for part in (model.mask_head.decoder, model.mask_head.map_projection) if part is not None]
    sizes = {"parameters": size_of(model), "head_parameters": sum(size_of(part) for part in parts)}
    return numbers | sizes


@torch.inference_mode()
def iou_of_given_answers(model: PixelLLMForGroundedGeneration, processor: PixelLLMProcessor, scenes: Path) -> float:
    """The mean IoU of masks, on the canvas, where the true answers are given: the worth of masks, whatever is said."""
    rows = undecoded(read_format("muse", scenes / "muse" / "muse.json", scenes / "images"))
    settings: dict[str, Any] = {"max_prompts": 4, "prompt_choice": "first", "max_context_tokens": 24}
    collator = GroundedCollator.for_processor(processor, target_tokens=model.config.target_token_ids, **settings)
    overlaps: list[torch.Tensor] = []
    for start in range(0, len(rows), 10):
        batch = collator([rows[i] for i in range(start, min(start + 10, len(rows)))])
        features = model.get_image_features(batch["pixel_values"], batch["pixel_mask"])
        begin = torch.full((len(batch["labels"]), 1), model.config.text_config.decoder_start_token_id)
        tokens = torch.cat([begin, batch["labels"].clamp(min=0)], dim=1)
        asked_for = {name: batch[name] for name in ("pixel_mask", "prompt_boxes", "prompt_mask", "input_ids")}
        output = model(
            image_features=features,
            attention_mask=batch["attention_mask"],
            decoder_input_ids=tokens,
            **asked_for,
        )
        groups, states = model.codebook_head.find(tokens, output.decoder_states)
        images = batch["prompt_mask"].nonzero()[:, 0][groups.row]
        masks, inside = batch["target_mask_labels"] > 0, batch["pixel_mask"].bool()[images]
        logits = model.predict_target_masks(features, states, images)
        found = (resize_logits(logits, masks.shape[-2:]) > 0) & inside
        overlaps.append((found & masks).flatten(1).sum(1) / (found | masks).flatten(1).sum(1))
    return float(torch.cat(overlaps).mean())


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
        "| | masks of given answers (IoU) | gIoU | cIoU | few / many targets (gIoU) | right number | "
        "empty answers right | head, M | model, M | ms a target | ms an image |",
        "|---|" + "---|" * 10,
    ]
    for name, row in table.items():
        few, many, empty = (row.get(name, float("nan")) for name in ("gIoU_few", "gIoU_many", "empty_accuracy"))
        lines.append(
            f"| {name} | {row['given_iou']:.3f} | {row['gIoU']:.3f} | {row['cIoU']:.3f} | {few:.3f} / {many:.3f} | "
            f"{row['right_number']:.3f} | {empty:.3f} | {row['head_parameters'] / 1e6:.2f} | "
            f"{row['parameters'] / 1e6:.2f} | {1000 * row['mask_seconds_per_target']:.1f} | "
            f"{1000 * row['seconds_per_image']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
