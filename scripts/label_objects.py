"""Boxes and names of COCO's 80 categories for images that nobody has annotated, from a detector, as COCO instances.

python scripts/label_objects.py --detector picodet_s_416_coco.onnx --images data/photographs/flickr/images \
    --ids data/photographs/flickr/train.txt --out runs/photo/flickr_objects.json

Training reads the file as `format: coco_instances`. What is learnt from it is what the detector thinks, mistakes too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tqdm.auto import tqdm

from pixelllm_hf.evaluation.labelling import image_files, labelled
from pixelllm_hf.evaluation.object_detector import ObjectDetector
from pixelllm_hf.evaluation.picodet import CANVAS, picodet
from pixelllm_hf.files import atomic_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", required=True, help="PicoDet as exported to ONNX by its authors, 416 pixels")
    parser.add_argument("--images", required=True, type=Path, help="folder of the image files")
    parser.add_argument("--ids", type=Path, help="text file with a file name or stem a line: only these images")
    parser.add_argument("--least", type=float, default=0.5, help="score from which a detection is an object")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = None if args.ids is None else args.ids.read_text(encoding="utf-8").split()
    detector = ObjectDetector(picodet(args.detector), canvas=CANVAS, least=args.least, overlap=0.6)
    files = image_files(args.images, names)
    if not files:
        raise SystemExit(f"{args.images} has none of the images asked for. Pass their folder, and ids that are in it.")
    content = labelled(tqdm(files, unit=" images"), detector.detect)
    with atomic_text(args.out) as file:
        json.dump(content, file)
    print(f"{len(content['annotations'])} objects in {len(content['images'])} images -> {args.out}")


if __name__ == "__main__":
    main()
