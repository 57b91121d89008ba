"""Write composed scenes in the official file layouts.

python -m pixelllm_hf.data.scenes --out data/scenes --num 40000 --seed 0 --workers 8
python -m pixelllm_hf.data.scenes --out data/few --num 20 --seed 1 --objects cutouts/ --backgrounds photos/
"""

from __future__ import annotations

import argparse
import sys

from pixelllm_hf.folders import FolderInUseError

from .backgrounds import BackgroundFolderError
from .library import ObjectFolderError
from .questions import QuestionPlan
from .writers import SceneOutputError, write_scenes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pixelllm_hf.data.scenes", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder to make; it must not exist or be empty")
    parser.add_argument("--num", type=int, required=True, help="how many scenes")
    parser.add_argument("--seed", type=int, default=0, help="series; scene i of a series is always the same")
    parser.add_argument(
        "--objects", help="folder of cut-outs with alpha, named after what they show (default: built in)"
    )
    parser.add_argument("--backgrounds", help="folder of photographs, used behind half of the scenes")
    parser.add_argument("--workers", type=int, default=1, help="processes; the files do not depend on it")
    parser.add_argument("--split", default="train", help="written into the RefCOCO-style file")
    parser.add_argument("--questions", type=int, default=QuestionPlan.number, help="asked about each scene at most")
    parser.add_argument(
        "--empty-share",
        type=float,
        default=QuestionPlan.empty_share,
        help="of these questions, roughly, point at nothing",
    )
    parser.add_argument(
        "--properties-alone", action="store_true", help="ask only what things are and are for, besides everything"
    )
    args = parser.parse_args(arguments)
    plan = QuestionPlan(args.questions, args.empty_share, args.properties_alone)
    try:
        write_scenes(
            args.out, args.num, args.seed, objects=args.objects, backgrounds=args.backgrounds,
            workers=args.workers, split=args.split, plan=plan, progress=sys.stderr.isatty(),
        )  # fmt: skip
    except (ObjectFolderError, BackgroundFolderError, SceneOutputError, FolderInUseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
