"""The one row that every grounded source becomes.

A row is an image with a list of prompts. A prompt asks about a location (or the whole image) and has one target text;
what is known about places in that text comes with it, per utterance, as one box of the object it speaks of, or as the
targets that it points at.
All boxes are xyxy in pixels of the original image (`width` x `height`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, IterableDataset, List, Value

from pixelllm_hf.data.bad_records import ReadReport

logger = logging.getLogger(__name__)

_BOX = List(Value("float32"))
# Compressed COCO run lengths, at the image's size.
_MASK = {"size": List(Value("int32")), "counts": Value("string")}
# Stands in a target text behind the words that name one of its `targets`, in their order; as in MUSE's text answers.
TARGET_PLACEHOLDER = "{seg}"

GROUNDED_FEATURES = Features(
    {
        "image": datasets.Image(),
        "image_id": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        # "trace", "caption", "refer", "segment", "region", "dense", "reason": names the default context, the
        # augmentation and the tensors. The prompts of a "dense" row are the objects to find in the image.
        "task": Value("string"),
        "prompts": List(
            {
                "box": _BOX,  # the place asked about; None = the whole image
                "context": Value("string"),  # text prompt; None = one of the task's prompt strings
                "target": Value("string"),
                "object_box": _BOX,  # box of the object that the target speaks of; None = unknown
                # The same as it was annotated, x, y, w, h, also where it leaves the image: what official evaluation
                # compares with. None = unknown, or no box of one object.
                "annotation_box": List(Value("float64")),
                # Stands for several objects: evaluation counts no answer about it. Only in rows read for evaluation.
                "crowd": Value("bool"),
                "mask": _MASK,  # its mask; None = unknown
                # Of a "reason" row: what the target text points at, one for each TARGET_PLACEHOLDER in it.
                # ignored: pixels that are neither of the target nor not of it; None = there are none.
                "targets": List({"name": Value("string"), "box": _BOX, "mask": _MASK, "ignored": _MASK}),
                "utterances": List(
                    {
                        "text": Value("string"),
                        "box": _BOX,  # zeros where no location is known, as in the reference
                        "center": List(Value("float32")),
                        "visual": Value(
                            "bool"
                        ),  # whether the words have a location in the image at all; None = unknown
                    }
                ),
                "text_loss": Value("bool"),
                "point_loss": Value("bool"),
            }
        ),
    }
)


# Fields of prompts and utterances that folders of rows lack which were prepared before there were such fields; there
# they are None.
LATER_FIELDS = ("targets", "visual", "annotation_box", "crowd")


def grounded_row(
    path: Path | None, image_id: Any, size_wh: tuple[int, int], task: str, prompts: list[dict[str, Any]]
) -> dict[str, Any]:
    """A row of `GROUNDED_FEATURES`, about the image file `path` of this size in pixels."""
    return {
        "image": str(path) if path else None,
        "image_id": str(image_id),
        "width": size_wh[0],
        "height": size_wh[1],
        "task": task,
        "prompts": prompts,
    }


def grounded_prompt(
    target: str,
    *,
    box: list[float] | None = None,
    context: str | None = None,
    object_box: list[float] | None = None,
    annotation_box: Sequence[float] | None = None,
    crowd: bool = False,
    mask: dict[str, Any] | None = None,
    utterances: list[dict[str, Any]] | None = None,
    targets: list[dict[str, Any]] | None = None,
    text_loss: bool = True,
    point_loss: bool = False,
) -> dict[str, Any]:
    """One entry of a row's `prompts`, every field present as `GROUNDED_FEATURES` wants it."""
    return {
        "box": box,
        "context": context,
        "target": target,
        "object_box": object_box,
        "annotation_box": None if annotation_box is None else list(annotation_box),
        "crowd": crowd,
        "mask": mask,
        "utterances": utterances or [],
        "targets": targets or [],
        "text_loss": text_loss,
        "point_loss": point_loss,
    }


def grounded_target(
    name: str | None,
    *,
    box: list[float] | None = None,
    mask: dict[str, Any] | None = None,
    ignored: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One entry of a prompt's `targets`; name: what it is called, None if unknown."""
    return {"name": name, "box": box, "mask": mask, "ignored": ignored}


def build_dataset(
    rows: Callable[[ReadReport], Iterator[dict[str, Any]]],
    *,
    features: Features = GROUNDED_FEATURES,
    streaming: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Typed dataset from a generator of rows; streaming reads again at every pass and keeps nothing.

    What was dropped is in `report` and, when it is anything, in one warning at the end of the pass. With several
    loader workers a streamed pass counts in each worker.
    """
    report = report if report is not None else ReadReport()

    def one_pass() -> Iterator[dict[str, Any]]:
        report.kept, report.read, report.dropped, report.first = 0, Counter(), Counter(), {}
        for row in rows(report):
            report.kept += 1
            yield row
        if report.dropped:
            logger.warning(report.summary())

    if streaming:
        return IterableDataset.from_generator(one_pass, features=features)
    # Not Dataset.from_generator: its cache is keyed by paths, and would outlive a change of the files.
    chunks = [Dataset.from_list(chunk, features=features) for chunk in _chunks(one_pass(), 1000)]
    if not chunks:
        return Dataset.from_dict({name: [] for name in features}, features=features)
    return datasets.concatenate_datasets(chunks)


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
