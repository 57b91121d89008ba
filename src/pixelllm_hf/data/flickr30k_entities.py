"""Flickr30k Entities in its official layout -> grounded rows: captions whose phrases have boxes.

Plummer et al. 2015. `Sentences/ID.txt` has a caption a line, its phrases marked as `[/EN#entity/type phrase]`;
`Annotations/ID.xml` has the boxes of the entities, each with one <name> per entity. Entity 0 is none at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.annotation_text import read_lines
from pixelllm_hf.data.bad_records import (
    AnnotationFileError,
    BadRecordError,
    OnError,
    ReadReport,
    check_on_error,
    check_task,
)
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_prompt, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import NamedObject, object_prompts
from pixelllm_hf.data.record_fields import checked_text, shown
from pixelllm_hf.data.split_lists import listed_ids, needed_folder
from pixelllm_hf.data.xml_annotations import bndbox_xyxy, child, child_flag, read_xml, size_element

TASKS = ("caption", "trace", "refer", "region")
_NO_ENTITY = "0"
_MARKED = re.compile(r"\[/EN#(\d{1,20})/[^\s\[\]]+\s+([^\[\]]*)\]", re.ASCII)
# The files have a blank before every mark; captions of other data sets do not.
_BLANK_BEFORE_MARK = re.compile(r"\s+(?=(?:[.,;:!?]|'s)(?:[\s\]]|$))")
_NOWHERE = {"box": [0.0] * 4, "center": [0.0] * 2}  # what the collator takes for "no location", like the reference


@dataclass(frozen=True)
class Phrase:
    """start, end: its characters in the caption. entity: the number that joins it with boxes and other phrases."""

    start: int
    end: int
    text: str
    entity: str


def read_flickr30k_entities(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    task: Literal["caption", "trace", "refer", "region"] = "caption",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of `task`, one per image.

    annotations: the folder that holds Sentences, Annotations and the lists of splits.
    images: the folder of the image files, called after their ids, with any suffix that can be read.
    split: a list in the folder ("train" for train.txt); None takes all images.
    task: "caption" and "trace" have the captions as prompts, and a box for every word of a phrase: the smallest box
        around all of the phrase's. Words outside phrases, and phrases without a box, have no location (a box of zeros)
        and cost nothing. Words outside phrases, and phrases of entity 0, which the annotators found not to be visible,
        are marked as having none (`visual`); of other phrases without a box, as a sky, that is not known.
        "refer" asks for a phrase, "region" has a phrase as the answer about its box; each phrase comes once per entity,
        and "refer" leaves out those that name two entities of the image.
    check_images: decode every image while reading, so that damaged files are bad records too.
    Blanks before punctuation marks are taken out of the captions.
    An entity of which one box is bad has no location: what is left of its boxes is not where it is.
    """
    check_on_error(on_error)
    check_task(task, TASKS)
    folder = ImageFolder(images, check=check_images)
    sentences = needed_folder(annotations, "Sentences", "Flickr30k Entities")
    boxes = needed_folder(annotations, "Annotations", "Flickr30k Entities")

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for where, image_id in listed_ids(sentences, Path(annotations), split, report, on_error):
            report.read["images"] += 1
            try:
                captions = _read_captions(sentences / f"{image_id}.txt", where, report, on_error)
                size_wh, places = _read_boxes(boxes / f"{image_id}.xml", report, on_error)
                path = folder.find(where, image_id, size_wh=size_wh)
                if task in ("caption", "trace"):
                    prompts = [_caption_prompt(text, phrases, places) for _, text, phrases in captions]
                else:
                    prompts = object_prompts(_named(captions, places, report), task, report, on_error)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            if not prompts:
                report.leave_out("image without phrases", f"{where} (image {image_id}) has none for this task.")
                continue
            yield grounded_row(path, image_id, size_wh, task, prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def parse_sentence(where: str, line: str) -> tuple[str, list[Phrase]]:
    """A line of a Sentences file -> the caption without its marks, and its phrases in order.

    >>> parse_sentence("here", "[/EN#1/people A man] with [/EN#2/animals a dog] .")[0]
    'A man with a dog.'
    """
    line = _BLANK_BEFORE_MARK.sub("", " ".join(checked_text(where, line, "the caption").split()))
    phrases: list[Phrase] = []
    caption, end = "", 0
    for match in _MARKED.finditer(line):
        caption += line[end : match.start()]
        text = checked_text(f"{where}, phrase {len(phrases)}", match.group(2), "a phrase")
        phrases.append(Phrase(len(caption), len(caption) + len(text), text, match.group(1)))
        caption, end = caption + text, match.end()
    caption += line[end:]
    # Any bracket that is left is half of a mark.
    if "[" in caption or "]" in caption or "/EN#" in caption:
        problem = f"a phrase must be marked as [/EN#number/type words], but the caption is {shown(caption)}."
        raise BadRecordError("malformed phrase", where, problem, "Fix it.")
    return caption, phrases


Captions = list[tuple[str, str, list[Phrase]]]  # where, text, phrases
Places = dict[str, list[float]]  # entity -> the smallest box around its boxes


def _read_captions(path: Path, listed: str, report: ReadReport, on_error: OnError) -> Captions:
    captions: Captions = []
    try:
        for where, line in read_lines(path, report, on_error):
            if not line.strip():
                continue
            report.read["captions"] += 1
            try:
                caption, phrases = parse_sentence(where, line)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            report.read["phrases"] += len(phrases)
            captions.append((where, caption, phrases))
    except FileNotFoundError as error:
        raise BadRecordError("missing captions", listed, f"{str(path)!r} does not exist.", "Add it.") from error
    except (AnnotationFileError, OSError) as error:
        raise BadRecordError("unreadable captions", listed, str(error), "Or skip the image.") from error
    if not captions:
        raise BadRecordError("no captions", str(path), "the image has no usable caption.", "Skip the image.")
    return captions


def _read_boxes(path: Path, report: ReadReport, on_error: OnError) -> tuple[tuple[int, int], Places]:
    """Width and height of the image, and where its entities are."""
    annotation = read_xml(path, "annotation")
    size_wh = size_element(str(path), annotation)
    places: Places = {}
    unknown: set[str] = set()
    for number, element in enumerate(annotation.findall("object")):
        where = f"{path}, object {number}"
        names = {name.text.strip() for name in element.findall("name") if name.text and name.text.strip()}
        try:
            if not names:
                raise BadRecordError("missing key", where, "the object has no <name>: its entities.", "Add it.")
            flags = () if element.find("bndbox") is not None else ("nobndbox", "scene")
            if any(child_flag(where, element, flag) for flag in flags):
                continue
            report.read["boxes"] += 1
            box = bndbox_xyxy(where, child(where, element, "bndbox"), size_wh)
        except BadRecordError as error:
            unknown |= names
            report.drop(error, on_error)
            continue
        for name in names:
            places[name] = _union(places.get(name, box), box)
    return size_wh, {name: box for name, box in places.items() if name not in unknown and name != _NO_ENTITY}


def _union(a: list[float], b: list[float]) -> list[float]:
    return [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]


def _caption_prompt(text: str, phrases: list[Phrase], places: Places) -> dict[str, Any]:
    """The caption with an utterance for every phrase and for what lies between: all words, so that none is mistaken."""
    spoken: list[tuple[Phrase | None, list[str]]] = []
    upcoming = list(reversed(phrases))
    for word in re.finditer(r"\S+", text):
        while upcoming and upcoming[-1].end <= word.start():
            upcoming.pop()
        phrase = upcoming[-1] if upcoming and upcoming[-1].start < word.end() else None
        if not spoken or spoken[-1][0] is not phrase:
            spoken.append((phrase, []))
        spoken[-1][1].append(word.group())
    utterances = []
    for phrase, words in spoken:
        box = places.get(phrase.entity) if phrase else None
        place = {"box": box, "center": [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]} if box else _NOWHERE
        nowhere = phrase is None or phrase.entity == _NO_ENTITY
        visual = True if box else False if nowhere else None
        utterances.append({"text": " ".join(words), **place, "visual": visual})
    placed = any(phrase and phrase.entity in places for phrase in phrases)
    return grounded_prompt(text, utterances=utterances if placed else None, point_loss=placed)


def _named(captions: Captions, places: Places, report: ReadReport) -> list[NamedObject]:
    """Every phrase that has a location, once per entity."""
    found: dict[tuple[str, str], NamedObject] = {}
    for where, _, phrases in captions:
        for number, phrase in enumerate(phrases):
            place = f"{where}, phrase {number}"
            if phrase.entity not in places:
                report.leave_out("phrase without a box", f"{place}: nothing is known of {shown(phrase.text)}.")
                continue
            text = _inside_a_sentence(phrase)
            found.setdefault((text, phrase.entity), NamedObject(place, text, places[phrase.entity]))
    return list(found.values())


def _inside_a_sentence(phrase: Phrase) -> str:
    """The phrase without the capital that beginning the caption gave it; "Spider-Man" keeps his."""
    first = phrase.text.split()[0]
    if phrase.start == 0 and first[1:] == first[1:].lower():
        return phrase.text[0].lower() + phrase.text[1:]
    return phrase.text
