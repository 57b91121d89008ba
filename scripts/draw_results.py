"""Draw where a model does best and worst on photographs, by a rule and not by hand.

python scripts/draw_results.py --data data/photographs --out build/photographs            # the embedded model
python scripts/draw_results.py --data DIR --out OUT --model runs/photo/masks/model --images 200 --shown 4

DIR has flickr/ and coco/ as in docs/training-on-photographs.md. Of the first --images of each split the --shown best
and worst are drawn: captions with their words' points by CIDEr, masks of named objects by IoU, found objects by AP50.
OUT gets the drawings and results.json. The photographs are their owners': drawings are to look at, not to publish.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pixelllm_hf.cli.arguments import positive
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError
from pixelllm_hf.evaluation.best_and_worst import METRICS, TASKS, ScoredImage, best_and_worst, scored_images
from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.extras import require
from pixelllm_hf.files import atomic_text
from pixelllm_hf.inference import EMBEDDED, Captioner, ModelError
from pixelllm_hf.processing.grounded_results import draw_results
from pixelllm_hf.processing.processing_pixelllm import best_objects

FOLDERS = {"caption": "flickr", "segment": "coco", "dense": "coco"}
MOST_OBJECTS = 8  # of a drawing, the surest ones; more are hard to read


def main(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The drawn answers, as results.json has them."""
    require("datasets", what="reading the annotations")
    import datasets

    datasets.disable_progress_bars()
    captioner = Captioner.load(args.model, args.device, "auto", {})
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for task in TASKS:
        data = DataFolder(args.data / FOLDERS[task], split=args.split)
        scored = scored_images(captioner.model, captioner.processor, task, data, images=args.images)
        best, worst = best_and_worst(scored, args.shown)
        for kind, chosen in (("best", best), ("worst", worst)):
            for number, one in enumerate(chosen, 1):
                file = f"{task}_{kind}_{number}.webp"
                drawing(task, one).save(args.out / file, quality=85)
                record = {"task": task, "metric": METRICS[task], "kind": kind, "score": round(one.score, 3)}
                said = [answer.text for answer in shown(task, one)]
                drawn.append(record | {"file": file, "said": said, "truth": one.truth, "of": len(scored)})
                print(f"{file}  {METRICS[task]} {one.score:.3f}  {'; '.join(said)}")
    with atomic_text(args.out / "results.json") as index:
        json.dump(drawn, index, indent=1)
    return drawn


def shown(task: str, one: ScoredImage) -> list[Any]:
    """The answers that are drawn."""
    return best_objects(one.answers, MOST_OBJECTS) if task == "dense" else list(one.answers)


def drawing(task: str, one: ScoredImage) -> Any:
    """The image with its answers."""
    image = one.image.open().convert("RGB")
    return one.answers[0].draw(image) if task == "caption" else draw_results(image, shown(task, one))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder with flickr/ and coco/")
    parser.add_argument("--out", required=True, type=Path, help="folder for the drawings and results.json")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id (default: the embedded one)")
    parser.add_argument("--images", type=positive, default=100, help="first images of each split to choose from")
    parser.add_argument("--shown", type=positive, default=3, help="best ones, and as many worst ones, of each task")
    parser.add_argument("--device", default="auto")
    try:
        main(parser.parse_args())
    except (ModelError, EvaluationDataError, AnnotationFileError, BadRecordError, OSError) as error:
        sys.exit(f"error: {error}")
