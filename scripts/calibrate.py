"""Fit how sure a model says it is of places, on captions whose phrases have boxes; print what that changes.

python scripts/calibrate.py --model runs/photo/model --data FLICKR --split val
python scripts/calibrate.py --model runs/photo/model --data FLICKR --split val --save   # into the model's config.json

FLICKR is in the layout of Flickr30k Entities, see scripts/evaluate.py, whose task `certainty` measures the outcome on
another split.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
from pathlib import Path

from pixelllm_hf.cli import UsageError
from pixelllm_hf.cli.arguments import positive
from pixelllm_hf.cli.evaluation_errors import EVALUATION_ERRORS
from pixelllm_hf.evaluation.calibration import as_calibrated, fitted_settings, save_settings
from pixelllm_hf.evaluation.certainty import certainty_metrics
from pixelllm_hf.evaluation.report import METRICS
from pixelllm_hf.evaluation.runner import CannotDoError, GenerationSettings, answers_of
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import task_for
from pixelllm_hf.evaluation.tasks.certainty import certainties
from pixelllm_hf.extras import require
from pixelllm_hf.inference import Captioner


def main(args: argparse.Namespace) -> None:
    require("datasets", what="calibration")
    import datasets

    datasets.disable_progress_bars()
    if args.save and not (Path(args.model) / "config.json").is_file():
        raise UsageError(f"--save writes into a model folder on this machine, and {args.model!r} is none.")
    data = DataFolder(Path(args.data), images=args.images, split=args.split)
    captioner, task = Captioner.load(args.model, args.device, "auto", {}), task_for("certainty", data)
    if problem := task.unsupported_reason(captioner.model):
        raise CannotDoError(f"there is nothing to calibrate: {problem}.")
    images = task.read(data)[: args.limit]
    generation = GenerationSettings(batch_size=args.batch_size, progress=sys.stderr.isatty())
    records = [
        task.record(images[i], answers)
        for i, answers in answers_of(captioner.model, captioner.processor, task, images, generation=generation)
    ]
    head, measured = captioner.model.config.point_head_config, certainties(records)
    try:
        settings = fitted_settings(head, measured)
    except ValueError as error:
        raise CannotDoError(str(error)) from error
    threshold = captioner.processor.visual_threshold
    before = certainty_metrics(measured, threshold=threshold, resamples=0)
    after = certainty_metrics(as_calibrated(head, measured, settings), threshold=threshold, resamples=0)
    print("| metric | before | after |\n|---|---|---|")
    for name, estimate in before.items():
        print(f"| {METRICS[name]} (`{name}`) | {estimate.value:.4f} | {after[name].value:.4f} |")
    print("\n" + "\n".join(f"{name}: {value:.4f}" for name, value in settings.items()))
    if args.save:
        save_settings(Path(args.model), settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--data", required=True, help="folder in the layout of Flickr30k Entities")
    parser.add_argument("--images", type=Path, help="the images of --data, if they are not in its images/")
    parser.add_argument("--split", help="list of images in --data, such as val for val.txt")
    parser.add_argument("--limit", type=positive, help="only the first images")
    parser.add_argument("--save", action="store_true", help="write the settings into the model's config.json")
    parser.add_argument("--batch-size", type=positive, default=25, help="images at a time")
    parser.add_argument("--device", default="auto")
    try:
        main(parser.parse_args())
    except EVALUATION_ERRORS as error:
        sys.exit(f"error: {error}")
