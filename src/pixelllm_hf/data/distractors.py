"""The expressions of a refs file for which a name is not enough: others of the category are in the image.

python -m pixelllm_hf.data.distractors --refs refs.json --instances instances.json --out refs_distractors.json

In most data sets they are few, and hard. As a source of its own beside the whole file they can be shown more often.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixelllm_hf.data.bad_records import BadRecordError
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.record_fields import checked_id, required
from pixelllm_hf.data.referring_expressions import load_refs


def refs_with_distractors(
    refs: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The refs (UNC's layout) whose image has another annotation (COCO's) of their category, in their order.

    >>> things = [{"image_id": 1, "category_id": c} for c in (7, 7, 8)]
    >>> refs_with_distractors([{"image_id": 1, "category_id": 7}, {"image_id": 1, "category_id": 8}], things)
    [{'image_id': 1, 'category_id': 7}]
    """
    number = Counter(_kind(f"annotation {index}", thing) for index, thing in enumerate(annotations))
    return [ref for index, ref in enumerate(refs) if number[_kind(f"ref {index}", ref)] > 1]


def _kind(where: str, record: dict[str, Any]) -> tuple[Any, Any]:
    image, category = required(where, record, "image_id", "category_id")
    return checked_id(where, image), checked_id(where, category)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refs", required=True, help="UNC's refs file, pickle or JSON")
    parser.add_argument("--instances", required=True, help="the COCO instances that it points into")
    parser.add_argument("--out", required=True, help="the refs file to write, as JSON")
    args = parser.parse_args(arguments)
    try:
        refs = load_refs(args.refs)
        kept = refs_with_distractors(refs, CocoFile.read(args.instances).annotations)
        Path(args.out).write_text(json.dumps(kept), encoding="utf-8")
    except (OSError, ValueError, BadRecordError, pickle.UnpicklingError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(kept)} of {len(refs)} references, in {len({ref['image_id'] for ref in kept})} images")


if __name__ == "__main__":
    main()
