"""The whole road at full size with random weights: published layouts, assembling, loading, one caption.

python scripts/check_full_size.py --work /tmp/full-size             # about 4 B parameters: 16 GB of disk
python scripts/check_full_size.py --work /tmp/small --size small    # the same road in a minute

Each stage runs in a process of its own and prints its seconds and its peak memory. The first assembly is ended after
two files, as a kill would; the second goes on from them. Meaningless weights make meaningless words; what is checked is
that every layout, shard and stage works at this size, and what it costs.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pixelllm_hf.conversion.assembling import Plan

SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "lm": dict(d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, vocab_size=32128),
        "towers": {},
    },
    "small": {
        "lm": dict(d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, vocab_size=256),
        "towers": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=1),
    },
}
STAGES = ("sources", "begin", "assemble", "caption")
SHARDS = {"full": 2_000_000_000, "small": 20_000_000}
BEGUN_FILES = 2  # of the assembly that is ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder for the weights; its model is removed first")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--stage", choices=STAGES, help="run this one alone, in this process")
    args = parser.parse_args()
    if args.stage is not None:
        stages = {"sources": make_sources, "begin": begin_assembly, "assemble": run_assemble, "caption": run_caption}
        print(json.dumps(stages[args.stage](args)))
        return 0
    for left in ("model", ".model.assembling"):
        shutil.rmtree(args.work / left, ignore_errors=True)
    for stage in STAGES:
        began = time.monotonic()
        program = [sys.executable, __file__, "--work", str(args.work), "--size", args.size, "--stage", stage]
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return done.returncode
        told = json.loads(done.stdout.splitlines()[-1])
        seconds = time.monotonic() - began
        print(
            f"{stage:<10}{seconds:>8.0f} s  {' · '.join(f'{key} {value}' for key, value in told.items())}", flush=True
        )
    return 0


def make_sources(args: argparse.Namespace) -> dict[str, Any]:
    """Random bf16 weights in the layouts of the original SAM and EVA02, and a Flan-T5 in shards."""
    from transformers import T5Config, T5ForConditionalGeneration

    from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
    from pixelllm_hf.data.tokenizer_training import train_tokenizer

    size, folder = SIZES[args.size], args.work / "sources"
    if (folder / "whole").is_file():
        return {"kept": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    towers: list[dict[str, Any]] = [
        {"model_type": "pixelllm_eva02_tower", **size["towers"]},
        {"model_type": "pixelllm_sam_tower", **size["towers"]},
    ]
    if size["towers"]:
        towers[1] |= {"num_attention_heads": 2, "global_attn_indexes": [1]}
    language = {"model_type": "t5", "feed_forward_proj": "gated-gelu", **size["lm"]}
    config = PixelLLMConfig.t5_xl(vision_config={"towers": towers}, text_config=language, mask_head_config={})
    with torch.device("meta"):
        model = PixelLLMForGroundedGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    below = {
        "vision_towers.sam.": "image_encoder.", "prompt_encoder.": "prompt_encoder.",
        "mask_head.decoder.": "mask_decoder.",
    }  # fmt: skip
    torch.save(_drawn(shapes, below), folder / "sam_vit_h.pth")
    torch.save({"model": _eva02_names(_drawn(shapes, {"vision_towers.eva02.": ""}))}, folder / "eva02_L.pt")
    settings = T5Config(**size["lm"], feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    with torch.device("meta"):
        lm = T5ForConditionalGeneration(settings)
    (folder / "lm").mkdir(exist_ok=True)
    _save_shards(folder / "lm", {name: tuple(t.shape) for name, t in lm.state_dict().items()}, SHARDS[args.size])
    (folder / "lm" / "config.json").write_text(json.dumps(settings.to_dict() | {"scale_decoder_outputs": False}))
    train_tokenizer(["a red square where is the blue one"], max_pieces=99).save_pretrained(folder / "lm")
    (folder / "whole").write_text("")
    return {"GB": round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9, 2)}


def _drawn(shapes: dict[str, tuple[int, ...]], below: dict[str, str]) -> dict[str, torch.Tensor]:
    return {
        theirs + name.removeprefix(ours): _random(shape)
        for name, shape in shapes.items()
        for ours, theirs in below.items()
        if name.startswith(ours)
    }


def _random(shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) < 2:
        return torch.ones(shape, dtype=torch.bfloat16)
    count = torch.Size(shape).numel()
    block = torch.randn(min(count, 1 << 20)).to(torch.bfloat16) * shape[-1] ** -0.5  # drawn once, repeated
    return block.repeat(-(-count // len(block)))[:count].reshape(shape)


def _eva02_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("ln_post", "norm"): tensor for name, tensor in tensors.items()}


def _save_shards(folder: Path, shapes: dict[str, tuple[int, ...]], size: int) -> None:
    """As `save_pretrained` would, a shard in memory at a time."""
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    names = [name for name in shapes if not name.endswith("embed_tokens.weight")]
    for name in names:
        shard[name] = _random(shapes[name])
        if sum(tensor.nbytes for tensor in shard.values()) > size or name == names[-1]:
            file = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


class Ended(Exception):
    """Of an assembly, in place of a kill."""


def begin_assembly(args: argparse.Namespace) -> dict[str, Any]:
    def told(line: str) -> None:
        if line.startswith(f"{BEGUN_FILES}/"):
            raise Ended

    try:
        _assemble(args, told)
    except Ended:
        return {"files written": BEGUN_FILES, **_peak()}
    raise SystemExit(f"the assembly made fewer than {BEGUN_FILES} files")


def run_assemble(args: argparse.Namespace) -> dict[str, Any]:
    files: list[str] = []
    plan = _assemble(args, files.append)
    kept = sum(line.endswith("kept") for line in files)
    if kept != BEGUN_FILES:
        raise SystemExit(f"{kept} files were kept of the {BEGUN_FILES} that an assembly had written before it ended")
    largest = max(part.source.largest_file for part in plan.parts.values())
    parameters = sum(tensor.num_values for tensor in plan.tensors.values())
    told = {"parameters": f"{parameters / 1e9:.3f} B", "files kept": kept, "files written": len(files) - kept}
    return {**told, "largest source file GiB": _gib(largest), **_peak()}


def _assemble(args: argparse.Namespace, told: Callable[[str], None]) -> Plan:
    from pixelllm_hf.conversion.assembling import assemble, assembled_processor, make_plan

    folder = args.work / "sources"
    plan = make_plan(
        sam=str(folder / "sam_vit_h.pth"),
        eva02=str(folder / "eva02_L.pt"),
        lm=str(folder / "lm"),
        dtype=torch.bfloat16,
    )
    processor = assembled_processor(plan, None)
    assemble(plan, args.work / "model", processor=processor, max_shard_bytes=SHARDS[args.size], told=told)
    return plan


def run_caption(args: argparse.Namespace) -> dict[str, Any]:
    from PIL import Image

    from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor

    began = time.monotonic()
    model = PixelLLMForGroundedGeneration.from_pretrained(args.work / "model", dtype="auto").eval()
    processor = PixelLLMProcessor.from_pretrained(args.work / "model")
    loaded = time.monotonic() - began
    inputs = processor(images=Image.new("RGB", (384, 300), "teal"), text="a", return_tensors="pt")
    began = time.monotonic()
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=8, min_new_tokens=4)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return {
        "load seconds": round(loaded, 1),
        "caption seconds": round(time.monotonic() - began, 1),
        "tokens": output.sequences.shape[1],
        "coordinates finite": bool(output.coordinates.isfinite().any()),
        "weights GiB": _gib(weights),
        **_peak(),
        "peak / weights": round(_peak_bytes() / weights, 3),
    }


def _peak() -> dict[str, float]:
    return {"peak GiB": _gib(_peak_bytes())}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _gib(count: int) -> float:
    return round(count / 2**30, 2)


if __name__ == "__main__":
    sys.exit(main())
