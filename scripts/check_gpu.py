"""Checks that need a GPU; `scripts/check_gpu.sh` runs them within six minutes.

python scripts/check_gpu.py --report report.json
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.data.scenes.__main__ import main as compose_scenes
from pixelllm_hf.data.tokenizer_training import train_tokenizer
from pixelllm_hf.training.config import load_config
from pixelllm_hf.training.recipe import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "scripts" / "gpu_report.json"
SKIPPED = 77
STAGES = ("trace", "refer", "segment", "dense", "region", "joint", "joint_segment")
SHALLOW: dict[str, dict[str, Any]] = {
    "vision_config": {
        "towers": {
            "eva02": {"num_hidden_layers": 2},
            "sam": {"num_hidden_layers": 2, "global_attn_indexes": [1]},
        }
    },
    "text_config": {"num_layers": 2, "num_decoder_layers": 2},
}
BF16_TOLERANCE, FLOAT32_TOLERANCE = 5e-2, 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--report", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        known = json.loads(REPORT.read_text(encoding="utf-8"))["device"] if REPORT.is_file() else None
        print(f"No GPU here: nothing was checked. {f'Last run on {known}.' if known else 'It was never run on a GPU.'}")
        return SKIPPED
    device = torch.device("cpu" if args.rehearse else "cuda")
    numbers: dict[str, Any] = {"device": "rehearsal" if args.rehearse else torch.cuda.get_device_name()}
    failed = []
    for check in (parity, compiled, stages):
        for name, value, good in check(device, args.rehearse):
            numbers[name] = value
            print(f"{'ok    ' if good else 'FAILED'} {name}: {value}", flush=True)
            failed += [] if good else [name]
    if args.report is not None:
        args.report.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(f"{len(failed)} checks failed" if failed else "all checks passed")
    return 1 if failed else 0


def shallow(rehearse: bool, **parts: Any) -> PixelLLMConfig:
    """The paper's widths at two layers, or the tests' model."""
    if rehearse:
        return PixelLLMConfig.for_tests(**parts)
    values = PixelLLMConfig.t5_xl(**parts).to_dict()
    for tower in values["vision_config"]["towers"]:
        tower |= SHALLOW["vision_config"]["towers"][tower["name"]]
    values["text_config"] |= SHALLOW["text_config"]
    return PixelLLMConfig(**values)


def parity(device: torch.device, rehearse: bool) -> Iterator[tuple[str, float, bool]]:
    """The same weights in float32 on the CPU, in float32 and in bf16 on the device: map, scores and points."""
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(shallow(rehearse)).eval()
    side = model.config.image_size
    pixels = torch.rand(2, 3, side, side) * 255
    words = torch.randint(5, 90, (2, 8))

    def outputs(model: PixelLLMForGroundedGeneration, at: torch.device) -> list[Tensor]:
        with torch.inference_mode():
            features = model.get_image_features(pixels.to(at))
            output = model(pixel_values=pixels.to(at), labels=words.to(at))
        return [features.fused.float().cpu(), output.logits.float().cpu(), output.coordinates.float().cpu()]

    expected = outputs(model, torch.device("cpu"))
    for dtype, limit in ((torch.float32, FLOAT32_TOLERANCE), (torch.bfloat16, BF16_TOLERANCE)):
        found = outputs(model.to(device, dtype), device)
        for name, theirs, ours in zip(("map", "scores", "points"), expected, found, strict=True):
            error = float((theirs - ours).abs().max() / theirs.abs().max())
            yield f"{name} in {str(dtype).removeprefix('torch.')}, largest relative error", error, error <= limit


def compiled(device: torch.device, rehearse: bool) -> Iterator[tuple[str, float, bool]]:
    """Seconds of the towers with and without torch.compile."""
    model = PixelLLMForGroundedGeneration(shallow(rehearse)).to(device, torch.bfloat16).eval()
    side = model.config.image_size
    pixels = torch.rand(4, 3, side, side, device=device) * 255
    plain: Callable[..., Any] = model.vision_towers
    backend = "eager" if rehearse else "inductor"
    for name, towers in (("eager", plain), ("compiled", torch.compile(plain, backend=backend))):
        with torch.inference_mode():
            towers(pixels)  # compiles
            times = []
            for _ in range(5):
                began = time.perf_counter()
                towers(pixels)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
        yield f"towers on 4 images, {name}, seconds", sorted(times)[2], True


def stages(device: torch.device, rehearse: bool) -> Iterator[tuple[str, Any, bool]]:
    """One optimizer step of each recipe of the paper on composed scenes: its loss, seconds and peak memory."""
    train = runpy.run_path(str(ROOT / "scripts" / "train.py"))["main"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "scenes")
        compose_scenes(["--out", str(data), "--num", "8"])
        texts = [json.loads(line)["caption"] for line in (data / "localized_narratives.jsonl").read_text().splitlines()]
        train_tokenizer(texts, max_pieces=99).save_pretrained(Path(folder, "tokenizer"))
        for stage in STAGES:
            AcceleratorState._reset_state(reset_partial_state=True)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            words = _overrides(stage, data, Path(folder), rehearse)
            recipe = load_config(TrainConfig, ROOT / "configs" / "pixelllm" / f"{stage}.yaml", words)
            train(recipe)
            metrics = json.loads(Path(folder, stage, "metrics.json").read_text())
            memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
            told = {"loss": metrics["loss"], "seconds": metrics["seconds"], "GiB": memory}
            yield f"a step of {stage}", told, abs(metrics["loss"]) < float("inf")


def _overrides(stage: str, data: Path, folder: Path, rehearse: bool) -> list[str]:
    """The recipe on the scenes, from random weights, for one step."""
    task = {"joint": "trace", "joint_segment": "segment"}.get(stage, stage)
    source: dict[str, Any] = {"name": task, "images": str(data / "images"), "max_prompts": 4}
    if task == "trace":
        source |= {"format": "localized_narratives", "annotations": str(data / "localized_narratives.jsonl")}
    elif task in ("refer", "segment"):
        refs = data / "refcoco"
        source |= {"format": "referring_expressions", "task": task, "annotations": str(refs / "refs.json")}
        source |= {"instances": str(refs / "instances.json")}
    else:
        regions = data / "visual_genome"
        source |= {"format": "visual_genome", "task": task, "image_data": str(regions / "image_data.json")}
        source |= {"annotations": str(regions / "region_descriptions.json")}
    words: dict[str, Any] = {
        "model.init": "for_tests" if rehearse else "t5_xl",
        "model.processor": str(folder / "tokenizer"),
        "model.weights": [],
        "data.sources": [source],
        "data.batch_size": 2,
        "data.cache_dir": str(folder / "cache"),
        "run.output_dir": str(folder / stage),
        "run.total_steps": 1,
        "run.warmup_steps": 0,
        "run.gradient_accumulation": 1,
        "run.workers": 0,
        "run.trackers": [],
        "run.progress": False,
        "run.cpu": rehearse,
    }
    if rehearse:  # torch's bf16 convolutions on CPUs have NaN gradients on maps of one cell, as the tests' model has
        words["run.mixed_precision"] = "no"
    else:
        words |= {f"model.overrides.{part}": sizes for part, sizes in SHALLOW.items()}
    return [f"{key}={json.dumps(value)}" for key, value in words.items()]


if __name__ == "__main__":
    sys.exit(main())
