"""A scene as records of the official file layouts (plain dicts, ready for JSON)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pixelllm_hf.processing.mask_codec import encode_rle

from .composition import SceneObject
from .expressions import Referral
from .scene import Narrative, Scene

IDS_PER_IMAGE = 10  # annotation, region and ref ids are image id * this + a running number
SENTENCES_PER_REF = 4
DATASET_ID = "pixelllm_scenes"


@dataclass(frozen=True)
class SceneRecords:
    """What one scene adds to each file."""

    file_name: str
    narratives: list[dict[str, Any]]
    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    captions: list[dict[str, Any]]
    refs: list[dict[str, Any]]
    vg_image: dict[str, Any]
    vg_regions: dict[str, Any]
    muse: dict[str, Any]


def scene_records(scene: Scene, category_ids: dict[str, int], split: str) -> SceneRecords:
    """All records of a scene. Image ids count from 1; ids of everything else derive from them."""
    image_id = scene.index + 1
    file_name = image_file_name(scene.index)
    width, height = scene.image.size
    image = {"id": image_id, "file_name": file_name, "width": width, "height": height, "license": 1, "coco_url": ""}
    annotations = [_annotation(obj, image_id, category_ids) for obj in scene.objects]
    texts = [scene.short_caption] + [n.caption for n in scene.narratives]
    return SceneRecords(
        file_name=file_name,
        narratives=[_narrative(n, k, image_id) for k, n in enumerate(scene.narratives)],
        image=image,
        annotations=annotations,
        captions=[
            {"image_id": image_id, "id": image_id * IDS_PER_IMAGE + k, "caption": text} for k, text in enumerate(texts)
        ],
        refs=[_ref(r, scene.objects[r.target], image_id, category_ids, split) for r in scene.referrals],
        vg_image={
            "width": width,
            "height": height,
            "image_id": image_id,
            "url": file_name,
            "coco_id": None,
            "flickr_id": None,
        },  # fmt: skip
        vg_regions={"id": image_id, "regions": [_region(obj, image_id) for obj in scene.objects]},
        muse=_muse(scene, image, annotations),
    )


def image_file_name(index: int) -> str:
    """Twelve digits, as COCO names its files; the image id is the same number."""
    return f"{index + 1:012d}.jpg"


def object_phrase(obj: SceneObject) -> str:
    """The region caption of one object, for example: a small red car."""
    words = [w for w in (obj.size, obj.color, obj.name) if w]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _xywh(obj: SceneObject) -> list[int]:
    x0, y0, x1, y1 = obj.box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def _annotation(obj: SceneObject, image_id: int, category_ids: dict[str, int]) -> dict[str, Any]:
    attributes = {key: value for key, value in (("color", obj.color), ("size", obj.size)) if value}
    return {
        "id": image_id * IDS_PER_IMAGE + obj.index,
        "image_id": image_id,
        "category_id": category_ids[obj.name],
        "bbox": _xywh(obj),
        "area": obj.area,
        "iscrowd": 0,
        "segmentation": encode_rle(obj.mask),
        "attributes": attributes,
    }


def _narrative(narrative: Narrative, annotator: int, image_id: int) -> dict[str, Any]:
    trace = narrative.trace
    path = [{"x": x, "y": y, "t": t} for x, y, t in trace.path.tolist()]
    cuts = [0, *trace.segments, len(path)]
    return {
        "dataset_id": DATASET_ID,
        "image_id": f"{image_id:012d}",
        "annotator_id": annotator,
        "caption": narrative.caption,
        "timed_caption": [
            {"start_time": start, "end_time": end, "utterance": word.text}
            for word, (start, end) in zip(narrative.words, trace.times.tolist(), strict=True)
        ],
        "traces": [path[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)],
        "voice_recording": "",
    }


def _ref(
    referral: Referral, obj: SceneObject, image_id: int, category_ids: dict[str, int], split: str
) -> dict[str, Any]:
    ref_id = image_id * IDS_PER_IMAGE + obj.index
    sentences = [
        {"tokens": text.split(), "raw": text, "sent_id": ref_id * SENTENCES_PER_REF + k, "sent": text}
        for k, text in enumerate(referral.sentences)
    ]
    return {
        "sent_ids": [s["sent_id"] for s in sentences],
        "file_name": f"{image_id:012d}_{obj.index}.jpg",
        "ann_id": ref_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": sentences,
        "category_id": category_ids[obj.name],
    }


def _region(obj: SceneObject, image_id: int) -> dict[str, Any]:
    x, y, width, height = _xywh(obj)
    return {
        "region_id": image_id * IDS_PER_IMAGE + obj.index,
        "width": width,
        "height": height,
        "image_id": image_id,
        "phrase": object_phrase(obj),
        "y": y,
        "x": x,
    }


def _muse(scene: Scene, image: dict[str, Any], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    listed = []
    for obj, annotation in zip(scene.objects, annotations, strict=True):
        kept = {k: annotation[k] for k in ("id", "bbox", "area", "category_id")}
        kept |= {
            "category_name": obj.name,
            "rephrased_name": object_phrase(obj),
            "segmentation": annotation["segmentation"],
        }
        listed.append(kept)
    return {
        "coco_url": "", "flickr_url": "", "height": image["height"], "width": image["width"], "id": image["id"],
        "file_name": image["file_name"], "ann_list": listed,
        "questions": [question.text for question in scene.questions],
        "answers": [[listed[i] for i in question.targets] for question in scene.questions],
        "text_answers": [question.answer for question in scene.questions],
    }  # fmt: skip
