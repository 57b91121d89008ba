"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg in UNC's layout) -> grounded rows (spec section 11.2).

The official refs files are Python pickles. They are read without giving pickle its usual power to import and call
anything: only plain containers and scalars are admitted.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.grounded_examples import (
    BadRecordError,
    ImageFolder,
    OnError,
    ReadReport,
    build_dataset,
    check_on_error,
    checked_xywh,
    grounded_prompt,
    required,
)
from pixelllm_hf.data.visual_genome import load_json
from pixelllm_hf.processing.task_prompts import task_prompt


def read_referring_expressions(
    refs: str | Path,
    instances: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "refer", one per image: the expression is both question ("where is " + it) and decoder text.

    refs: UNC's refs file, pickle or the same content as JSON. instances: the COCO instances it points into.
    split: keep one of the file's splits ("train", "val", "testA", ...); None keeps all.
    check_images: decode every image while reading, so that damaged files are bad records too.
    As in the reference there is no text loss; the object's box is what is learned.
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        coco = load_json(instances, dict)
        image_records = {image["id"]: image for image in coco["images"]}
        boxes = {annotation["id"]: annotation for annotation in coco["annotations"]}
        records = [(index, ref) for index, ref in enumerate(load_refs(refs)) if split in (None, ref.get("split"))]
        by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        for index, ref in records:
            by_image.setdefault(ref.get("image_id"), []).append((index, ref))
        for image_id, members in by_image.items():
            where = f"{refs}, image {image_id}"
            try:
                if image_id not in image_records:
                    raise BadRecordError(
                        "missing image", where, f"{instances} has no image {image_id!r}.", "Pass the matching file."
                    )
                record = image_records[image_id]
                width, height, file_name = required(where, record, "width", "height", "file_name")
                path = folder.find(where, image_id, file_name)
                prompts = _prompts(str(refs), members, boxes, (width, height), on_error, report)
                if not prompts:
                    raise BadRecordError("no expressions", where, "no usable expression is left.", "Skip the image.")
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield {
                "image": str(path),
                "image_id": str(image_id),
                "width": width,
                "height": height,
                "task": "refer",
                "prompts": prompts,
            }

    return build_dataset(rows, streaming=streaming, report=report)


def load_refs(path: str | Path) -> list[dict[str, Any]]:
    """The records of a refs file: JSON by its suffix, else a pickle of plain containers (see `load_plain_pickle`)."""
    if Path(path).suffix == ".json":
        return load_json(path, list)
    content = load_plain_pickle(path)
    if not isinstance(content, list) or not all(isinstance(ref, dict) for ref in content):
        raise ValueError(f"{path} must hold a list of dicts, as UNC's refs files do.")
    return content


def load_plain_pickle(path: str | Path) -> Any:
    """Content of a pickle made of dicts, lists, tuples, sets, strings and numbers only.

    Anything else would run code of the file's choice while loading; it raises `pickle.UnpicklingError` and names the
    class.
    """
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f"{path}: {error}") from error
        except (EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, UnicodeDecodeError) as error:
            raise pickle.UnpicklingError(f"{path} is not a whole pickle ({error}). Download it again.") from error


class _PlainUnpickler(pickle.Unpickler):
    # bytes and bytearray are left out: called with a number they allocate that much.
    _ADMITTED = {"set": set, "frozenset": frozenset, "complex": complex}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in self._ADMITTED:
            return self._ADMITTED[name]
        raise pickle.UnpicklingError(
            f"refused to load {module}.{name}: a refs file holds builtin containers and scalars only. "
            "Do not trust this file; the official one has no classes."
        )

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"refused a persistent reference ({pid!r}): a refs file has none.")


def _prompts(
    file: str,
    refs: list[tuple[int, dict[str, Any]]],
    annotations: dict[Any, dict[str, Any]],
    size_wh: tuple[int, int],
    on_error: OnError,
    report: ReadReport,
) -> list[dict[str, Any]]:
    question = task_prompt("refer")
    prompts = []
    for index, ref in refs:
        where = f"{file}, ref {index}"
        try:
            annotation_id, sentences = required(where, ref, "ann_id", "sentences")
            if annotation_id not in annotations:
                raise BadRecordError(
                    "missing annotation", where, f"annotation {annotation_id!r} is unknown.", "Pass its instances file."
                )
            box = checked_xywh(where, annotations[annotation_id].get("bbox"), size_wh)
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        for sentence in sentences:
            text = str(sentence.get("sent") or sentence.get("raw") or "").strip()
            if not text:
                empty = BadRecordError("empty text", where, f"an expression is empty: {json.dumps(sentence)[:80]}.", "")
                report.drop(empty, on_error)
                continue
            prompts.append(
                grounded_prompt(
                    text, context=question.prompt(text, "refer"), object_box=box, text_loss=False, point_loss=True
                )
            )
    return prompts
