"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg in UNC's layout) -> grounded rows (spec section 11.2).

The official refs files are Python pickles. They are read without giving pickle its usual power to import and call
anything: only plain containers and scalars are admitted.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.grounded_examples import (
    BadRecordError,
    ImageFolder,
    OnError,
    ReadReport,
    build_dataset,
    check_on_error,
    check_task,
    checked_id,
    checked_list,
    checked_text,
    checked_xywh,
    image_size_wh,
    load_json,
    required,
)
from pixelllm_hf.data.named_objects import expression_prompt
from pixelllm_hf.data.object_masks import checked_mask


def read_referring_expressions(
    refs: str | Path,
    instances: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    task: Literal["refer", "segment"] = "refer",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "refer" or "segment", one per image.

    The expression is both question ("where is " + it) and decoder text.
    refs: UNC's refs file, pickle or the same content as JSON. instances: the COCO instances it points into.
    split: keep one of the file's splits ("train", "val", "testA", ...); None keeps all.
    task: "segment" adds the object's mask, where the instances have one.
    check_images: decode every image while reading, so that damaged files are bad records too.
    As in the reference there is no text loss; the object's box is what is learned.
    """
    check_on_error(on_error)
    check_task(task, ("refer", "segment"))
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        coco = CocoFile.read(instances)
        image_records = {image["id"]: image for image in coco.images if isinstance(image, dict) and "id" in image}
        objects = {thing["id"]: thing for thing in coco.annotations if isinstance(thing, dict) and "id" in thing}
        records = [(index, ref) for index, ref in enumerate(load_refs(refs)) if split in (None, ref.get("split"))]
        report.read["references"] = len(records)
        by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        for index, ref in records:
            where = f"{refs}, ref {index}"
            try:
                (image_id,) = required(where, ref, "image_id")
                by_image.setdefault(checked_id(where, image_id), []).append((index, ref))
            except BadRecordError as error:
                report.drop(error, on_error)
        for image_id, members in by_image.items():
            where = f"{refs}, image {image_id}"
            try:
                if image_id not in image_records:
                    raise BadRecordError(
                        "missing image", where, f"{instances} has no image {image_id!r}.", "Pass the matching file."
                    )
                record = image_records[image_id]
                (file_name,) = required(where, record, "file_name")
                width, height = image_size_wh(where, record)
                path = folder.find(where, image_id, file_name)
                prompts = _prompts(str(refs), members, objects, (width, height), task == "segment", on_error, report)
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
                "task": task,
                "prompts": prompts,
            }

    return build_dataset(rows, streaming=streaming, report=report)


def load_refs(path: str | Path) -> list[dict[str, Any]]:
    """The records of a refs file: JSON by its suffix, else a pickle of plain containers (see `load_plain_pickle`)."""
    content = load_json(path, list) if Path(path).suffix == ".json" else load_plain_pickle(path)
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
    with_masks: bool,
    on_error: OnError,
    report: ReadReport,
) -> list[dict[str, Any]]:
    prompts = []
    for index, ref in refs:
        where = f"{file}, ref {index}"
        try:
            annotation_id, sentences = required(where, ref, "ann_id", "sentences")
            if checked_id(where, annotation_id) not in annotations:
                raise BadRecordError(
                    "missing annotation", where, f"annotation {annotation_id!r} is unknown.", "Pass its instances file."
                )
            checked_list(where, sentences, "sentences")
            annotation = annotations[annotation_id]
            box = checked_xywh(where, annotation.get("bbox"), size_wh)
            mask = checked_mask(where, annotation.get("segmentation"), size_wh) if with_masks else None
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        for sentence in sentences:
            report.read["expressions"] += 1
            try:
                said = (sentence.get("sent") or sentence.get("raw") or "") if isinstance(sentence, dict) else sentence
                prompts.append(expression_prompt(checked_text(where, said, "an expression"), box, mask))
            except BadRecordError as error:
                report.drop(error, on_error)
    return prompts
