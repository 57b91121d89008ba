"""Time a model against the plain way of doing the same.

python scripts/benchmark.py generate                            # the embedded model
python scripts/benchmark.py generate --size small --repeats 9   # random weights at a larger width
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.evaluation.bootstrap import Estimate, resampled
from pixelllm_hf.inference import EMBEDDED, Captioner, ModelError

# Random weights at sizes between the embedded model and the released one; towers stay tiny, they are not timed.
SIZES: dict[str, dict[str, int]] = {
    "small": dict(d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6, vocab_size=32128),
    "base": dict(d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12, vocab_size=32128),
}
LIMIT = 1.05
# Captions that end by themselves, and captions cut off by the length limit, whose last token needs one more step.
CASES: dict[str, dict[str, Any]] = {
    "greedy, 1 row": dict(rows=1, beams=1),
    "greedy, 8 rows": dict(rows=8, beams=1),
    "4 beams, 1 row": dict(rows=1, beams=4),
    "greedy, 8 rows, cut": dict(rows=8, beams=1, cut=True),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared, seconds of both ways (medians) and whether their tokens agree.

    ratio: median over the repeats, each of which runs both ways one after the other: a machine that slows down for a
    while slows both; with its interval over redrawn repeats. extra_steps: what a cut row needs
    beyond the bare decoding, as a share of its steps; it is inherent, since the location of a word is read from the
    state that has consumed it.
    """

    name: str
    bare: float
    grounded: float
    ratio: Estimate
    extra_steps: float
    tokens_equal: bool
    worst_location_error: float


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()  # it comments on the length settings at every call
    model = _model(args)
    print(
        f"{args.size or args.model} · {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters · "
        f"{args.tokens} tokens · {args.threads} threads · {model.device} · median of {args.repeats} paired repeats"
    )
    print("decoding             bare s  with places s   ratio  (95 %)          extra steps  tokens equal  places")
    failed = False
    for name, settings in CASES.items():
        row = compare(model, name, tokens=args.tokens, repeats=args.repeats, **settings)
        print(
            f"{row.name:<19} {row.bare:7.4f} {row.grounded:14.4f} {row.ratio.value:7.3f}  "
            f"({row.ratio.low:.3f}-{row.ratio.high:.3f})  {row.extra_steps:10.1%}  "
            f"{row.tokens_equal!s:<12}  {row.worst_location_error:.1e}"
        )
        failed |= row.ratio.value > LIMIT or not row.tokens_equal or row.worst_location_error > 1e-4
    print(
        f"{'above' if failed else 'within'} the limits: ratio {LIMIT}, equal tokens, places as in a second pass to 1e-4"
    )
    return int(failed)


def _model(args: argparse.Namespace) -> PixelLLMForGroundedGeneration:
    if not args.size:
        return Captioner.load(args.model, args.device, args.dtype, {}).model
    torch.manual_seed(0)
    tiny = PixelLLMConfig.tiny()
    text = {**tiny.text_config.to_dict(), **SIZES[args.size]}
    config = PixelLLMConfig.tiny(text_config=text)
    device = torch.accelerator.current_accelerator() if args.device == "auto" else torch.device(args.device)
    return PixelLLMForGroundedGeneration(config).to(device or torch.device("cpu")).eval()


def bare_language_model(model: PixelLLMForGroundedGeneration) -> T5ForConditionalGeneration:
    """transformers' own class around the very same weights, without anything of ours."""
    with torch.device("meta"):
        bare = T5ForConditionalGeneration(model.config.text_config)
    body = model.language_model.body
    bare.shared, bare.encoder, bare.decoder = body.shared, body.encoder, body.decoder
    bare.lm_head = model.language_model.lm_head
    # the untied head takes the states as they are, as our language model does
    bare.config.tie_word_embeddings = bare.config.scale_decoder_outputs = False
    return bare.eval()


def compare(
    model: PixelLLMForGroundedGeneration,
    name: str,
    *,
    rows: int,
    beams: int,
    tokens: int,
    repeats: int,
    cut: bool = False,
) -> Row:
    """Decode the same number of tokens from the same encoder states, with and without locations, turn by turn."""
    torch.manual_seed(1)
    shape = (rows, model.config.prompt_config.num_tokens + 8, model.config.text_config.d_model)
    states = torch.randn(shape, device=model.device, dtype=model.dtype)
    text = model.config.text_config
    settings = GenerationConfig(
        num_beams=beams,
        min_new_tokens=tokens if cut else tokens - 1,
        max_new_tokens=tokens,
        forced_eos_token_id=None if cut else text.eos_token_id,
        do_sample=False,
        decoder_start_token_id=text.decoder_start_token_id,
        pad_token_id=text.pad_token_id,
        eos_token_id=text.eos_token_id,
        return_dict_in_generate=True,
    )
    bare = bare_language_model(model)

    def run(which: Any) -> Any:
        with torch.inference_mode():
            return which.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                generation_config=settings,
            )

    run(bare), run(model)  # first calls allocate
    times: dict[str, list[float]] = {"bare": [], "grounded": []}
    outputs = {}
    for i in range(repeats):
        # the order alternates, so that neither way always has the warmer caches
        for key in ("bare", "grounded") if i % 2 else ("grounded", "bare"):
            outputs[key], seconds = _timed(lambda k=key: run(bare if k == "bare" else model))  # type: ignore[misc]
            times[key].append(seconds)
    ratios = np.array(times["grounded"]) / np.array(times["bare"])
    medians = {"ratio": float(np.median(ratios))}
    grounded = outputs["grounded"]
    return Row(
        name,
        statistics.median(times["bare"]),
        statistics.median(times["grounded"]),
        resampled(medians, lambda drawn: [np.median(ratios.repeat(drawn))], repeats, count=repeats)["ratio"],
        1 / tokens if cut else 0.0,
        bool(torch.equal(outputs["bare"].sequences, grounded.sequences)),
        _location_error(model, states, grounded.sequences, grounded.coordinates),
    )


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    _synchronize()
    start = time.perf_counter()
    result = call()
    _synchronize()
    return result, time.perf_counter() - start


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _location_error(model: Any, states: Tensor, sequences: Tensor, coordinates: Tensor) -> float:
    """Largest difference to a teacher-forced second pass over the same tokens."""
    with torch.inference_mode():
        again = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=sequences
        ).coordinates
    known = ~coordinates.isnan()
    return float((coordinates - again)[known].abs().max()) if known.any() else float("nan")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["generate"], help="generate: captions with locations against bare captions")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id; or the name of an embedded one")
    parser.add_argument("--size", choices=sorted(SIZES), help="random weights of this size instead of a model")
    parser.add_argument("--tokens", type=int, default=64, help="as long as the captions that are generated")
    parser.add_argument("--repeats", type=int, default=101, help="on a busy machine a median of fewer says little")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    try:
        sys.exit(main(parser.parse_args()))
    except ModelError as error:
        sys.exit(f"error: {error}")
