"""ReasonSeg: an image, sentences that need thought, and polygons of what they mean -> rows of task "reason".

Source: LISA (arXiv 2308.00692); folders `train`, `val`, `test` with NAME.json beside NAME.jpg. Polygons called
"ignore…" are pixels that count on neither side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from PIL import Image, ImageDraw

from pixelllm_hf.data.annotation_text import load_json
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.grounded_examples import TARGET_PLACEHOLDER, build_dataset, grounded_row, grounded_target
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import checked_flag, checked_list, checked_text, required, shown
from pixelllm_hf.data.target_answers import plain_answer, question_prompt
from pixelllm_hf.processing.mask_codec import MAX_MASK_PIXELS, MaskCodecError, encode_rle, polygon_points

_INSIDE, _IGNORED = 1, 2
_EXPLAIN = "Please explain why."
_EXPLANATIONS = Path("explanatory", "train.json")


def read_reason_seg(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    explanations: str | Path | None = None,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "reason", one per image: a prompt for each of its sentences, all with the image's one target.

    annotations: the folder that holds the splits, or one of them. images: the same, or where the images lie.
    split: the name of a folder in it; without it all are read, or the files of `annotations` itself.
    explanations: `explanatory/train.json`; images in it have a prompt more, whose answer goes on to say why. By
        default the file of this name in `annotations`, if it is there.
    Polygons are drawn from the largest to the smallest, each over what is below, with their outlines, as released.
    """
    check_on_error(on_error)
    root, folder = Path(annotations), ImageFolder(images, check=check_images)
    files = annotation_files(root, split)
    if explanations is None and (root / _EXPLANATIONS).is_file():
        explanations = root / _EXPLANATIONS

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        reasons = {} if explanations is None else _explanations(explanations, report, on_error)
        for file in files:
            report.read["images"] += 1
            where = str(file)
            try:
                record = _record(file)
                path = folder.find(where, file.stem, *(f"{file.parent.name}/{file.stem}{s}" for s in (".jpg", ".png")))
                size_wh = ImageFolder.size_wh(where, path)
                prompts = _prompts(where, record, size_wh, reasons.get(file.stem), on_error, report)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            if not prompts:
                report.leave_out("image without questions", f"{where} asks nothing.")
            else:
                yield grounded_row(path, file.stem, size_wh, "reason", prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def annotation_files(folder: Path, split: str | None) -> list[Path]:
    """The JSON files of a split, of all splits, or of the folder itself. None at all is an `AnnotationFileError`."""
    splits = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    splits = [name for name in splits if name != _EXPLANATIONS.parent.name and any((folder / name).glob("*.json"))]
    if split is not None and split not in splits:
        raise AnnotationFileError(
            f"{folder} has no split {split!r}; it has {', '.join(splits) or 'none at all'}. Name one of them."
        )
    chosen = [split] if split is not None else splits
    files = [file for name in chosen for file in sorted((folder / name).glob("*.json"))]
    files = files if split is not None else [*sorted(folder.glob("*.json")), *files]
    if not files:
        raise AnnotationFileError(f"{folder} holds no JSON file, nor do folders in it. Give the folder of ReasonSeg.")
    return files


def _record(file: Path) -> dict[str, Any]:
    """A file is a record: a damaged one costs itself alone."""
    try:
        return load_json(file, dict)
    except AnnotationFileError as error:
        raise BadRecordError("not JSON", str(file), str(error), "Or skip it.") from error


def _prompts(
    where: str,
    record: dict[str, Any],
    size_wh: tuple[int, int],
    reason: str | None,
    on_error: OnError,
    report: ReadReport,
) -> list[dict[str, Any]]:
    texts, shapes, is_sentence = required(where, record, "text", "shapes", "is_sentence")
    sentences = checked_flag(where, is_sentence, "is_sentence")
    target = _target(where, checked_list(where, shapes, "shapes"), size_wh, on_error, report)
    prompts = []
    for index, text in enumerate(checked_list(where, texts, "text")):
        report.read["questions"] += 1
        try:
            text = checked_text(f"{where}, text {index}", _western(text), "a question")
            question = text if sentences else f"What is {text} in this image?"
            prompts.append(question_prompt(where, question, plain_answer(1, f"{where} {index}"), [target]))
            if reason is not None:
                said = f"{plain_answer(1, f'{where} {index} why')} {reason}"
                prompts.append(question_prompt(where, f"{question} {_EXPLAIN}", said, [target]))
        except BadRecordError as error:
            report.drop(error, on_error)
    return prompts


def _target(
    where: str, shapes: list[Any], size_wh: tuple[int, int], on_error: OnError, report: ReadReport
) -> dict[str, Any]:
    """All polygons as one object and the pixels that do not count; bad ones are dropped and counted."""
    if size_wh[0] * size_wh[1] > MAX_MASK_PIXELS:
        raise BadRecordError("malformed size", where, f"an image of {size_wh} pixels is too large.", "Scale it down.")
    drawn = []
    for index, shape in enumerate(shapes):
        place = f"{where}, shape {index}"
        try:
            label, points = required(place, shape, "label", "points")
            label = checked_text(place, label, "label").lower()
            if label == "flag":  # a leftover of the annotation tool
                continue
            corners = _corners(place, points, size_wh)
            alone = Image.new("1", size_wh)
            ImageDraw.Draw(alone).polygon(corners, fill=1, outline=1)
            drawn.append((int(np.asarray(alone).sum()), _IGNORED if "ignore" in label else _INSIDE, corners))
        except BadRecordError as error:
            report.drop(error, on_error)
    canvas = Image.new("L", size_wh)
    for _, value, corners in sorted(drawn, key=lambda shape: -shape[0]):
        ImageDraw.Draw(canvas).polygon(corners, fill=value, outline=value)
    values = np.asarray(canvas)
    if not (values == _INSIDE).any():
        raise BadRecordError("missing mask", where, "no polygon of the target is left.", "Add one or skip the record.")
    rows, columns = np.flatnonzero((values == _INSIDE).any(1)), np.flatnonzero((values == _INSIDE).any(0))
    box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
    ignored = encode_rle(values == _IGNORED) if (values == _IGNORED).any() else None
    return grounded_target(None, box=box, mask=encode_rle(values == _INSIDE), ignored=ignored)


def _corners(where: str, points: Any, size_wh: tuple[int, int]) -> list[tuple[int, int]]:
    """The corners of a polygon, cut to whole pixels as released."""
    pairs = checked_list(where, points, "points")
    try:
        if any(len(pair) != 2 for pair in pairs):
            raise MaskCodecError(f"they are {shown(pairs)}")
        corners = polygon_points([side for pair in pairs for side in pair], size_wh[::-1]).astype(np.int64)
    except (MaskCodecError, TypeError) as error:
        problem = f"points must be three pairs x, y or more ({error})."
        raise BadRecordError("malformed polygon", where, problem, "The others were kept.") from error
    return [(x, y) for x, y in corners.tolist()]


def _western(text: Any) -> Any:
    """Some of the released files are not UTF-8 but in Windows' encoding of western Europe."""
    if not isinstance(text, str) or text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
        return text if raw.decode("utf-8", "ignore") == text else raw.decode("cp1252")
    except UnicodeError:
        return text


def _explanations(path: str | Path, report: ReadReport, on_error: OnError) -> dict[str, str]:
    """Stem of an image -> what its answer says besides."""
    found = {}
    for index, item in enumerate(load_json(path, list)):
        where = f"{path}, explanation {index}"
        try:
            image, text = required(where, item, "image", "outputs")
            text = checked_text(where, text, "an explanation")
            if TARGET_PLACEHOLDER in text:
                raise BadRecordError("malformed text", where, f"it has a {TARGET_PLACEHOLDER}.", "Remove it.")
            found[Path(checked_text(where, image, "image")).stem] = text
        except BadRecordError as error:
            report.drop(error, on_error)
    return found
