"""How far the METEOR variants that run here are from the official jar, on captions whose jar scores are stored.

python tests/evaluation/meteor_deviation.py tests/golden/metrics
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelllm_hf.evaluation.dense_captioning_map import METEOR_THRESHOLDS
from pixelllm_hf.evaluation.meteor import VARIANTS, meteor
from pixelllm_hf.evaluation.meteor_jar import jar_problem
from pixelllm_hf.evaluation.meteor_words import installed_folder


@dataclass(frozen=True)
class Deviation:
    """Differences to the jar over one set of captions; `decisions` of dense captioning that turn out otherwise."""

    captions: str
    variant: str
    mean: float
    jar_mean: float
    mean_absolute: float
    largest: float
    equal: float
    decisions: int
    count: int


def deviations(folder: Path, variant: str) -> list[Deviation]:
    """On PTB tokens and raw text of captions that were written to stress synonyms, and on dense captions."""
    samples = json.loads((folder / "caption_metrics.json").read_text(encoding="utf-8"))["samples"]
    dense = json.loads((folder / "densecap.json").read_text(encoding="utf-8"))
    records = [pair for case in [dense["main"], *dense["hand_made"]] for pair in case["meteor_pairs"]]
    sets: dict[str, list[tuple[str, list[str], float]]] = {
        "PTB tokens": [(s["tokens_hypothesis"], s["tokens_references"], s["METEOR"]) for s in samples],
        "raw text": [(s["hypothesis"], s["references"], s["METEOR_raw"]) for s in samples],
        "dense records": [(r["candidate"], r["references"], r["meteor"]) for r in records],
    }
    return [_deviation(name, rows, variant) for name, rows in sets.items()]


def _deviation(name: str, rows: Sequence[tuple[str, list[str], float]], variant: str) -> Deviation:
    scores = meteor([row[0] for row in rows], [row[1] for row in rows], variant=variant).samples
    jar = np.array([row[2] for row in rows])
    apart, thresholds = np.abs(scores - jar), np.array(METEOR_THRESHOLDS)[:, None]
    return Deviation(
        captions=name,
        variant=VARIANTS[variant],
        mean=float(scores.mean()),
        jar_mean=float(jar.mean()),
        mean_absolute=float(apart.mean()),
        largest=float(apart.max()),
        equal=float((apart <= 1e-6).mean()),
        decisions=int(((scores > thresholds) != (jar > thresholds)).sum()),
        count=len(rows),
    )


def runnable_variants() -> list[str]:
    """The variants that can run here, best first."""
    jar = ["meteor-jar"] if jar_problem() is None else []
    package = ["meteor-py"] if installed_folder() is not None else []
    return [*jar, *package, "meteor-approx"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per variant and set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path, help="folder with caption_metrics.json and densecap.json")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="default: all that can run here")
    args = parser.parse_args(arguments)
    for variant in args.variant or runnable_variants():
        for d in deviations(args.golden, variant):
            print(
                f"{d.variant:<42} {d.captions:<14} n={d.count:<4} mean {d.mean:.4f} (jar {d.jar_mean:.4f})  "
                f"MAE {d.mean_absolute:.1e}  max {d.largest:.1e}  equal {d.equal:.0%}  "
                f"decisions changed {d.decisions}/{d.count * len(METEOR_THRESHOLDS)}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
