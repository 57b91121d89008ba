"""Results in other people's file formats: COCO results and annotations, labelme, Localized Narratives.

Functions of one result or of the results of many images. They read results by their fields (see `GroundedCaption`);
everything they return is plain lists, numbers and strings for `json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .canvas_transform import xyxy_to_xywh
from .grounded_targets import PlacedObject, objects_of
from .mask_codec import encode_rle, mask_to_polygons, rle_area

# What free text names has no place in a list of categories; the text itself is in "caption", as in GRiT's files.
COCO_CATEGORIES = ({"id": 1, "name": "object", "supercategory": "object"},)
SECONDS_PER_WORD = 0.4  # a usual speed of speech
_STROKE = 0.8  # of a word's time the mouse moves over its place; then it jumps to the next
LABELME_VERSION = "5.5.0"


def coco_result(result: Any, image_id: Any, *, category_id: int = 1) -> dict[str, Any]:
    """One line of a COCO results file, which `COCO.loadRes` takes.

    An object gives {"image_id", "category_id", "bbox" xywh, "score", "text"} and with a mask "segmentation", compressed
    run lengths. A caption of the whole image gives {"image_id", "caption"}. The words of an object are in "text",
    because pycocotools takes records with "caption" for captions.
    """
    lines = list(_coco_lines(result, image_id, category_id))
    if len(lines) > 1:
        raise ValueError(
            f"one COCO result has one object, but the answer {result.text[:60]!r} has {len(lines)}. Take "
            "coco_results([[result]], [image_id]), which gives a result for each."
        )
    return lines[0]


def _coco_lines(result: Any, image_id: Any, category_id: int = 1) -> Iterator[dict[str, Any]]:
    for thing in objects_of(result):
        if not thing.is_placed:
            yield {"image_id": image_id, "caption": result.text}
            continue
        record = {"image_id": image_id, "category_id": category_id, "bbox": xyxy_to_xywh(thing.bounds).tolist()}
        record["score"] = 1.0 if thing.score is None else float(thing.score)  # evaluators need a number
        if thing.mask is not None:
            record["segmentation"] = encode_rle(thing.mask)
        yield record | {"text": thing.text}


def coco_results(results: Sequence[Sequence[Any]], image_ids: Sequence[Any]) -> list[dict[str, Any]]:
    """A COCO results file: a line, as of `coco_result`, for every object of every result.

    results: per image a list, as post-processing gives.
    """
    _check_lengths(results, image_ids=image_ids)
    rows = zip(image_ids, results, strict=True)
    return [line for image_id, row in rows for result in row for line in _coco_lines(result, image_id)]


def coco_annotations(
    results: Sequence[Sequence[Any]],
    image_ids: Sequence[Any],
    file_names: Sequence[str],
    sizes_wh: Sequence[tuple[int, int]] | None = None,
    *,
    polygons: bool = False,
) -> dict[str, Any]:
    """A whole COCO annotation file of several images: images, annotations and the one category "object".

    An object is an annotation with "bbox", "area", "iscrowd", "caption", "score" (if one is known), and with a mask
    "segmentation": run lengths, which keep it exactly, or with `polygons` its outlines, which fill its holes. A caption
    of the whole image is an annotation with "caption" alone, as in COCO's caption files.
    sizes_wh: sizes of the images; needed only where one has no result.
    """
    _check_lengths(results, image_ids=image_ids, file_names=file_names, sizes_wh=sizes_wh)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (row, image_id, name) in enumerate(zip(results, image_ids, file_names, strict=True)):
        if not row and sizes_wh is None:
            raise ValueError(
                f"the size of image {i} ({name!r}) cannot be told from its results, there are none. Pass sizes_wh."
            )
        width, height = row[0].image_size if row else sizes_wh[i]  # type: ignore[index]
        images.append({"id": image_id, "file_name": str(name), "width": int(width), "height": int(height)})
        for thing in (thing for result in row for thing in objects_of(result)):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "caption": thing.text}
            if thing.is_placed:
                annotation |= _coco_object(thing, polygons)
            annotations.append(annotation)
    return {"images": images, "annotations": annotations, "categories": [dict(c) for c in COCO_CATEGORIES]}


def _coco_object(thing: PlacedObject, polygons: bool) -> dict[str, Any]:
    x, y, width, height = xyxy_to_xywh(thing.bounds).tolist()
    record = {
        "category_id": COCO_CATEGORIES[0]["id"],
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
    }
    if thing.score is not None:
        record["score"] = float(thing.score)
    if thing.mask is not None:
        rle = encode_rle(thing.mask)
        # An empty mask has no outline, and readers stumble over an empty list.
        outlines = mask_to_polygons(thing.mask) if polygons else []
        record |= {"segmentation": outlines or rle, "area": float(rle_area(rle))}
    return record


def labelme_record(results: Sequence[Any], image_path: str, *, image_size: tuple[int, int]) -> dict[str, Any]:
    """The labelme file of one image; image_size is (width, height).

    An object is a shape labelled with its text: with a mask a polygon for every part (one group), else a rectangle. A
    caption of the whole image becomes a rectangle for each of its words, or a point where the place is one, and its
    text is the description. What was asked about with points is a point.
    """
    width, height = image_size
    shapes: list[dict[str, Any]] = []
    things = [(result, thing) for result in results for thing in objects_of(result)]
    for number, (result, thing) in enumerate(things):
        outlines = [] if thing.mask is None else mask_to_polygons(thing.mask)
        if outlines:
            group = number if len(outlines) > 1 else None
            shapes += [_shape("polygon", thing.text, _pairs(outline), result, group) for outline in outlines]
        elif thing.location is not None:
            shapes.append(_shape("rectangle", thing.text, _pairs(thing.location), result))
        elif result.prompt_points:
            inside = [(x, y) for x, y, label in result.prompt_points if label] or [result.prompt_points[0][:2]]
            group = number if len(inside) > 1 else None
            shapes += [_shape("point", result.text, [list(xy)], result, group) for xy in inside]
        else:
            shapes += [_word_shape(word, result, number) for word in result.placed_words if word.box is not None]
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": str(image_path),
        "imageData": None,
        "imageHeight": int(height),
        "imageWidth": int(width),
    }


def _word_shape(word: Any, result: Any, group: int) -> dict[str, Any]:
    x0, y0, x1, y1 = word.box
    kind, points = ("rectangle", _pairs(word.box)) if x1 > x0 and y1 > y0 else ("point", [list(word.point)])
    return _shape(kind, word.text, points, result, group)


def _shape(kind: str, label: str, points: list[list[float]], result: Any, group: int | None = None) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": result.text,
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


def narrative_record(
    result: Any,
    image_id: Any,
    *,
    dataset_id: str = "pixelllm_hf",
    annotator_id: int = 0,
    seconds_per_word: float = SECONDS_PER_WORD,
) -> dict[str, Any]:
    """One line of a Localized Narratives JSONL file: the caption, its words with times, and a mouse trace.

    The model knows no times: every word gets `seconds_per_word`, in which the mouse goes across the word's box from its
    left top to its right bottom corner. So a reader that takes the smallest box around the mouse during a word gets
    back the word's box, and its centre. Words without a location are said together with the word before.
    """
    utterances: list[tuple[str, Any]] = []
    waiting: list[str] = []
    for word in result.placed_words:
        if word.box is not None:
            utterances.append((" ".join([*waiting, word.text]), word.box))
            waiting = []
        elif utterances:
            utterances[-1] = (f"{utterances[-1][0]} {word.text}", utterances[-1][1])
        else:
            waiting.append(word.text)
    if not utterances:
        raise ValueError(
            f"a narrative needs words with locations, but {result.text[:60]!r} has none. Leave it out, or generate "
            "with coordinates."
        )
    width, height = result.image_size
    timed, traces = [], []
    for i, (text, (x0, y0, x1, y1)) in enumerate(utterances):
        start, end = i * seconds_per_word, (i + _STROKE) * seconds_per_word
        timed.append({"utterance": text, "start_time": start, "end_time": end})
        traces.append([{"x": x0 / width, "y": y0 / height, "t": start}, {"x": x1 / width, "y": y1 / height, "t": end}])
    return {
        "dataset_id": dataset_id,
        "image_id": str(image_id),
        "annotator_id": annotator_id,
        "caption": result.text,
        "timed_caption": timed,
        "traces": traces,
        "voice_recording": "",
    }


def narrative_records(results: Sequence[Sequence[Any]], image_ids: Sequence[Any]) -> list[dict[str, Any]]:
    """The lines of a Localized Narratives file: the `narrative_record` of every result whose words have locations."""
    _check_lengths(results, image_ids=image_ids)
    return [
        narrative_record(result, image_id, annotator_id=number)
        for image_id, row in zip(image_ids, results, strict=True)
        for number, result in enumerate(row)
        if result.trace
    ]


def image_id_of(path: str | Path) -> int | str:
    """The id that a file name means: its number if it is one, as in COCO, else the name without its suffix.

    >>> image_id_of("photos/000000000790.jpg"), image_id_of("cat.png")
    (790, 'cat')
    """
    stem = Path(path).stem
    return int(stem) if stem.isdecimal() else stem


def _pairs(values: Sequence[float]) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in zip(values[::2], values[1::2], strict=True)]


def _check_lengths(results: Sequence[Any], **others: Sequence[Any] | None) -> None:
    for name, values in others.items():
        if values is not None and len(values) != len(results):
            raise ValueError(
                f"{name} must have an entry for each image, but there are {len(values)} for the results of "
                f"{len(results)}. Results are a list per image of lists of answers."
            )
    for i, row in enumerate(results):
        if isinstance(row, Mapping) or not isinstance(row, Sequence):
            raise TypeError(
                f"results must hold a list for each image, but entry {i} is a {type(row).__name__}. "
                "For one image pass [results]."
            )


__all__ = [
    "COCO_CATEGORIES",
    "coco_annotations",
    "coco_result",
    "coco_results",
    "image_id_of",
    "labelme_record",
    "narrative_record",
    "narrative_records",
]
