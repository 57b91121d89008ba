"""Time a way of computing against another that gives the same, side by side in one run.

python scripts/benchmark.py generate                # captions with locations against bare captions
python scripts/benchmark.py decode                  # against the whole sequence for every token, and once more
python scripts/benchmark.py regions                 # what a further region costs beside the first
python scripts/benchmark.py encoder --sam b         # SAM's encoder against transformers', and a matrix product
python scripts/benchmark.py cache --towers base     # training on cached features of frozen towers
python scripts/benchmark.py int8 --model tiny --task refer --scenes 100  # weights in eight bits: size, time, accuracy

Options that a comparison does not have, it does not read. On a machine that others use too, --clock processor and one
thread count the time that the process had.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers.utils import logging

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.benchmarks import cached_training, eight_bits, encoder, generation, official_decoding, regions
from pixelllm_hf.benchmarks.pairs import CLOCKS
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.evaluation.scene_folder import HELD_OUT_SEED, DataFolder, composed_folder
from pixelllm_hf.evaluation.tasks import NAMES
from pixelllm_hf.extras import MissingExtraError
from pixelllm_hf.inference import EMBEDDED, Captioner, ModelError
from pixelllm_hf.inference.model_source import ModelSource

# Random weights at sizes between the embedded model and the released one; towers stay tiny, they are not timed.
SIZES: dict[str, dict[str, int]] = {
    "small": dict(d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6, vocab_size=32128),
    "base": dict(d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12, vocab_size=32128),
}


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()  # it comments on the length settings at every call
    logging.disable_progress_bar()
    return int(COMPARISONS[args.what](args))


def generate(args: argparse.Namespace) -> bool:
    model, failed = _told(args), False
    print("decoding             bare s  with locations s   ratio  (95 %)          extra steps  tokens equal  locations")
    for name, settings in generation.CASES.items():
        row = generation.compare(model, tokens=args.tokens, repeats=args.repeats, clock=args.clock, **settings)
        print(
            f"{name:<19} {row.bare:7.4f} {row.grounded:14.4f} {_shown(row.ratio):>22}  "
            f"{row.extra_steps:10.1%}  {row.tokens_equal!s:<12}  {row.worst_location_error:.1e}"
        )
        failed |= row.ratio.value > generation.LIMIT or not row.tokens_equal or row.worst_location_error > 1e-4
    limits = f"ratio {generation.LIMIT}, equal tokens, locations as in a second pass to 1e-4"
    print(f"{'above' if failed else 'within'} the limits: {limits}")
    return failed


def decode(args: argparse.Namespace) -> bool:
    model, failed = _told(args), False
    print("prompts      ours s  official way s  times as fast (95 %)    tokens equal  locations")
    for prompts in args.prompts or (1, 16):
        row = official_decoding.compare(
            model, prompts=prompts, tokens=args.tokens, repeats=args.repeats, clock=args.clock
        )
        print(
            f"{prompts:7} {row.ours:11.4f} {row.official:15.4f} {_shown(row.faster):>22}  "
            f"{row.tokens_equal!s:<12}  {row.location_error:.1e}"
        )
        failed |= not row.tokens_equal or row.location_error > 1e-4
    return failed


def count_regions(args: argparse.Namespace) -> bool:
    model, failed = _told(args), False
    print("prompts   one s   all s  a further one, of the first (95 %)  as alone")
    for prompts in args.prompts or (16,):
        row = regions.compare(model, prompts=prompts, tokens=args.tokens, repeats=args.repeats, clock=args.clock)
        print(f"{prompts:7} {row.one:7.4f} {row.all:7.4f} {_shown(row.further):>35}  {row.equal}")
        failed |= not row.equal
    return failed


def encode(args: argparse.Namespace) -> bool:
    print(f"SAM ViT-{args.sam} · {args.image_size} pixels · {args.images} images · {_conditions(args)}")
    row = encoder.compare(
        args.sam, image_size=args.image_size, images=args.images, repeats=args.repeats, clock=args.clock
    )
    print(
        "  ours s  transformers s  ratio (95 %)          GFLOP  GFLOP/s  product's  share (95 %)         "
        "of our linear layers'  difference"
    )
    print(
        f"{row.ours:8.3f} {row.theirs:15.3f} {_shown(row.ratio):>20} {row.gflop:7.1f} {row.gflops:8.1f} "
        f"{row.peak_gflops:10.1f}  {_shown(row.share):>19} {_shown(row.share_of_linear):>21} {row.difference:11.1e}"
    )
    return row.difference > 1e-4


def cache(args: argparse.Namespace) -> bool:
    print(f"towers {args.towers} · {args.images} images a step · {_conditions(args)}")
    row = cached_training.compare(args.towers, batch_size=args.images, repeats=args.repeats, clock=args.clock)
    print("towers M  others M  images/s cached  without  times as fast (95 %)    losses")
    print(
        f"{row.tower_parameters / 1e6:8.2f} {row.other_parameters / 1e6:9.2f} {row.cached:16.2f} {row.uncached:8.2f} "
        f"{_shown(row.faster):>21}  {row.worst_loss_error:.1e}"
    )
    return row.worst_loss_error > 1e-2


def int8(args: argparse.Namespace) -> bool:
    source = ModelSource.find(args.model, None)
    with ExitStack() as stack:
        folder = args.data or stack.enter_context(composed_folder(args.scenes, HELD_OUT_SEED))
        print(f"{args.model} · {args.task} · {args.threads} threads")
        print("weights        MB  s an image  accuracy (95 %)")
        data = DataFolder(Path(folder), split=args.split)
        for row in eight_bits.compare(Path(source.folder), args.task, data, limit=args.limit):
            metrics = "  ".join(f"{name} {_shown(estimate)}" for name, estimate in row.metrics.items())
            print(f"{row.name:<9} {row.bytes / 1e6:7.1f} {row.seconds:11.3f}  {metrics}", flush=True)
    return False


COMPARISONS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "generate": generate,
    "decode": decode,
    "regions": count_regions,
    "encoder": encode,
    "cache": cache,
    "int8": int8,
}


def _told(args: argparse.Namespace) -> PixelLLMForGroundedGeneration:
    """The model that is timed, after a line about it."""
    if args.size:
        torch.manual_seed(0)
        text = {**PixelLLMConfig.tiny().text_config.to_dict(), **SIZES[args.size]}
        device = torch.accelerator.current_accelerator() if args.device == "auto" else torch.device(args.device)
        model = PixelLLMForGroundedGeneration(PixelLLMConfig.tiny(text_config=text))
        model = model.to(device or torch.device("cpu")).eval()
    else:
        model = Captioner.load(args.model, args.device, args.dtype, {}).model
    print(
        f"{args.size or args.model} · {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters · "
        f"{args.tokens} tokens · {model.device} · {_conditions(args)}"
    )
    return model


def _conditions(args: argparse.Namespace) -> str:
    seconds = "" if args.clock == "wall" else f", {args.clock} seconds"
    return f"{args.threads} threads · median of {args.repeats} paired repeats{seconds}"


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(COMPARISONS), help="see above")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id; or the name of an embedded one")
    parser.add_argument("--size", choices=sorted(SIZES), help="random weights of this size instead of a model")
    parser.add_argument("--tokens", type=int, default=64, help="as long as the captions that are generated")
    parser.add_argument("--prompts", type=int, nargs="+", help="of decode (1 16) and regions (16)")
    parser.add_argument("--sam", choices=sorted(encoder.SIZES), default="b", help="of encoder: its published size")
    parser.add_argument("--image-size", type=int, default=384, help="of encoder: pixels")
    parser.add_argument("--images", type=int, default=4, help="of encoder and cache: at a time")
    parser.add_argument(
        "--towers", choices=sorted(cached_training.TOWERS), default="small", help="of cache: their size"
    )
    parser.add_argument("--task", choices=NAMES, default="refer", help="of int8: what is measured")
    parser.add_argument("--data", help="of int8: folder with annotations instead of composed scenes; --split of it")
    parser.add_argument("--split", help="of --data")
    parser.add_argument("--scenes", type=int, default=100, help="of int8: how many are composed")
    parser.add_argument("--limit", type=int, help="of int8: only the first images")
    parser.add_argument("--repeats", type=int, default=101, help="on a busy machine a median of fewer says little")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    try:
        sys.exit(main(parser.parse_args()))
    except (ModelError, MissingExtraError) as error:
        sys.exit(f"error: {error}")
