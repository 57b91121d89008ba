"""Annotation files and images -> a folder of parquet shards that `load_dataset` streams and that training reads back.

python scripts/prepare_dataset.py --format referring_expressions --task segment --split train --images train2014 \
    --annotations "refcoco/refs(unc).p" --companion refcoco/instances.json --out refcoco_rows \
    --push_to_hub org/refcoco --license cc-by-4.0
python scripts/prepare_dataset.py --format coco_captions --annotations captions.json --images images \
    --instances instances.json --out caption_rows

Killed and started again with the same arguments, it goes on where it stopped. What was dropped, and why, is printed and
written to preparation.json beside the shards. scripts/evaluate.py --data takes the folder too.
"""

from __future__ import annotations

import argparse
import pickle
import sys

from pixelllm_hf.cli.arguments import positive
from pixelllm_hf.data.formats import FORMATS
from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.folders import FolderInUseError
from pixelllm_hf.publishing import PublishError, push_dataset_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    formats = sorted(name for name, layout in FORMATS.items() if layout.needs_images)
    parser.add_argument("--format", required=True, choices=formats, help="layout of the annotation files")
    parser.add_argument(
        "--annotations",
        required=True,
        nargs="+",
        help="annotation file (some formats take several) or the folder that they are in",
    )
    parser.add_argument("--images", required=True, help="folder of the image files")
    parser.add_argument("--out", required=True, help="folder for the shards; new, or one to go on with")
    parser.add_argument("--task", help="what the rows are read as, where the format serves several tasks")
    parser.add_argument("--split", help="keep one split of the annotations, where the format has splits")
    parser.add_argument(
        "--companion",
        help="second file or folder: instances, image_data, panoptic segments, names of classes or explanations",
    )
    parser.add_argument(
        "--instances", help="COCO instances of the images: which names are present, for evaluation on the folder"
    )
    parser.add_argument("--on_error", default="skip", choices=("skip", "raise"), help="what a bad record does")
    parser.add_argument(
        "--for_evaluation",
        action="store_true",
        help="keep boxes without area, images without regions and crowds, which official evaluation counts",
    )
    parser.add_argument("--rows_per_shard", type=positive, default=2000, help="records in one parquet file at most")
    parser.add_argument("--push_to_hub", metavar="ORG/NAME", help="upload the finished folder as a Hub data set")
    parser.add_argument("--license", help="of the rows, as the Hub writes it (cc-by-4.0); needed to upload")
    parser.add_argument("--private", action="store_true", help="make the Hub data set private")
    args = parser.parse_args()
    if args.push_to_hub and not args.license:
        parser.error("--push_to_hub needs --license: what others may do with these rows and images")
    try:
        prepared = prepare_format(
            args.format,
            args.annotations if len(args.annotations) > 1 else args.annotations[0],
            args.images,
            args.out,
            task=args.task,
            split=args.split,
            companion=args.companion,
            instances=args.instances,
            on_error=args.on_error,
            for_evaluation=args.for_evaluation,
            rows_per_shard=args.rows_per_shard,
            progress=lambda line: print(line, flush=True),
        )
    except (ValueError, OSError, FolderInUseError, pickle.UnpicklingError) as error:
        sys.exit(f"error: {error}")
    print(prepared.table())
    if args.push_to_hub:
        try:
            done = push_dataset_folder(args.out, args.push_to_hub, private=args.private or None, license=args.license)
        except PublishError as error:
            sys.exit(f"error: {error}; the shards are complete, the same command uploads them")
        print(done.url)


if __name__ == "__main__":
    main()
