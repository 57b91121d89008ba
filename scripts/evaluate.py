"""Measure a model: print a table with intervals, write the numbers as JSON.

python scripts/evaluate.py --task trace --model tiny                          # 500 held-out scenes, composed here
python scripts/evaluate.py --task trace --model runs/tiny/model --scenes 50   # a first look
python scripts/evaluate.py --task trace --model tiny --data DIR --json trace.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pixelllm_hf.cli import EMBEDDED, Captioner, UsageError
from pixelllm_hf.data.grounded_examples import BadRecordError
from pixelllm_hf.data.scenes import BackgroundFolderError, ObjectFolderError, SceneOutputError
from pixelllm_hf.evaluation.report import metrics_table, write_report
from pixelllm_hf.evaluation.runner import evaluate_trace, versions, weights_digest
from pixelllm_hf.evaluation.scene_folder import HELD_OUT_SEED, composed_folder
from pixelllm_hf.files import atomic_text

SCENES = 500


def main(args: argparse.Namespace) -> None:
    if args.data and (args.scenes or args.seed is not None):
        raise UsageError("--data brings its own scenes; leave --scenes and --seed out, or leave --data out.")
    captioner = Captioner.load(args.model, args.device, args.dtype, {})
    number, seed = args.scenes or SCENES, HELD_OUT_SEED if args.seed is None else args.seed
    started = time.perf_counter()
    with ExitStack() as stack:
        folder = args.data or stack.enter_context(
            composed_folder(number, seed, objects=args.objects, backgrounds=args.backgrounds)
        )
        listed: list[dict[str, Any]] = []
        result = evaluate_trace(
            captioner.model,
            captioner.processor,
            folder,
            batch_size=args.batch_size,
            max_new_tokens=args.max_new_tokens,
            num_beams=args.num_beams,
            progress=sys.stderr.isatty(),
            on_caption=lambda scene, caption, score: listed.append(
                {
                    "image_id": scene.image_id,
                    "present": sorted(score.present),
                    "found": sorted(score.found),
                    "words": [vars(mention) for mention in score.mentions],
                    "caption": caption.to_dict(),
                }
            ),
        )
    seconds = time.perf_counter() - started
    data: dict[str, Any] = {"folder": Path(args.data).name} if args.data else {"seed": seed}
    data |= {k: Path(v).name for k, v in (("objects", args.objects), ("backgrounds", args.backgrounds)) if v}
    source = Path(captioner.model.name_or_path)
    report = {
        "task": args.task,
        "model": args.model if not Path(args.model).exists() else Path(args.model).name,
        "weights_sha256": weights_digest(source) if source.is_dir() else None,
        "command": " ".join(["python scripts/evaluate.py", *_without_outputs(sys.argv[1:])]),
        "data": data,
        "decoding": {
            "num_beams": args.num_beams,
            "max_new_tokens": args.max_new_tokens,
            "dtype": str(captioner.model.dtype).removeprefix("torch."),
        },
        "versions": versions(),
        **result,
    }
    print(f"{args.task} · {report['model']} · {result['scenes']} scenes · {result['words']} words · {seconds:.1f} s")
    print(metrics_table(report))
    if args.json:
        write_report(args.json, report)
    if args.captions:
        with atomic_text(args.captions) as file:
            file.writelines(json.dumps(record) + "\n" for record in listed)


def _without_outputs(arguments: list[str]) -> list[str]:
    """The command line without what a reader of the report does not have: output files, where folders are."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument in ("--json", "--captions"):
            skip = not skip
        elif not argument.startswith(("--json=", "--captions=")):
            kept.append(shlex.quote(Path(argument).name if Path(argument).is_absolute() else argument))
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["trace"], default="trace")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id; tiny is the embedded one")
    parser.add_argument("--data", help="folder of scenes in the official layouts, instead of composing some")
    parser.add_argument("--scenes", type=int, help=f"how many to compose (default: {SCENES})")
    parser.add_argument("--seed", type=int, help=f"their series, never a trained one (default: {HELD_OUT_SEED})")
    parser.add_argument("--objects", help="folder of other cut-outs to compose with")
    parser.add_argument("--backgrounds", help="folder of photographs to compose on")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--captions", type=Path, help="write every caption with its score, one JSON record a line")
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--num-beams", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    try:
        main(parser.parse_args())
    except (UsageError, BadRecordError, ObjectFolderError, BackgroundFolderError, SceneOutputError, OSError) as error:
        sys.exit(f"error: {error}")
