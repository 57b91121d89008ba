"""Print how the numbers of training runs went.

python scripts/learning_curve.py runs/photo/joint
python scripts/learning_curve.py runs/photo/caption runs/photo/joint --numbers text point eval_text --points 20
"""

from __future__ import annotations

import argparse
import sys

from pixelllm_hf.training.learning_curve import learning_curve, read_metrics
from pixelllm_hf.training.recipe_values import ConfigError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folders of runs")
    parser.add_argument("--numbers", nargs="+", default=[], metavar="NAME", help="columns; the losses by default")
    parser.add_argument("--points", type=int, default=12, help="lines of a table at most")
    args = parser.parse_args()
    try:
        for run in args.runs:
            print(f"{run}\n\n{learning_curve(read_metrics(run), args.numbers, points=max(1, args.points))}\n")
    except ConfigError as error:
        sys.exit(f"ConfigError: {error}")


if __name__ == "__main__":
    main()
