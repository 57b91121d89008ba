"""COCO captions -> grounded rows: whole-image captioning (official.md#data-sets), joined with the objects if wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.coco_files import CocoFile, CocoImage
from pixelllm_hf.data.coco_objects import coco_object
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_prompt, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import NamedObject, object_prompts
from pixelllm_hf.data.record_fields import checked_text, required, shown


def read_coco_captions(
    annotations: str | Path,
    images: str | Path,
    *,
    instances: str | Path | None = None,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    for_evaluation: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "caption", one per image with all its captions as prompts on the whole image.

    check_images: decode every image while reading, so that damaged files are bad records too.
    annotations: the official captions JSON. Images without a caption are left out and counted.
    instances: the official instances JSON of the same images; their objects follow the captions in the same row, each
        asked for by its box and answered by its category's name, as in rows of task "region". Crowds are left out.
    for_evaluation: empty captions are none, and images without one are left out, as in the official evaluation.
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        objects = _Objects(instances, report, on_error) if instances is not None else None
        for image in CocoFile.read(annotations).by_image(report, on_error):
            try:
                captions = []
                for where, annotation in image.annotations:
                    try:
                        (caption,) = required(where, annotation, "caption")
                        if text := checked_text(where, caption, "the caption", may_be_empty=for_evaluation):
                            captions.append(text)
                    except BadRecordError as error:
                        report.drop(error, on_error)
                if not captions and for_evaluation:
                    report.leave_out("no captions", f"{image.where} has none.")
                    continue
                if not captions:
                    raise BadRecordError(
                        "no captions", image.where, f"image {image.id!r:.80} has no caption.", "Use on_error='skip'."
                    )
                path = image.find_in(folder)
                prompts = [grounded_prompt(caption) for caption in captions]
                if objects is not None:
                    prompts += objects.regions(image)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield grounded_row(path, image.id, image.size_wh, "caption", prompts)

    return build_dataset(rows, streaming=streaming, report=report)


class _Objects:
    """The objects of an instances file, by image."""

    def __init__(self, instances: str | Path, report: ReadReport, on_error: OnError):
        self.report, self.on_error = report, on_error
        self.coco = CocoFile.read(instances)
        self.images = {image.id: image for image in self.coco.by_image(report, on_error)}

    def regions(self, captioned: CocoImage) -> list[dict[str, Any]]:
        """A prompt per object of the image; none where the file does not have it."""
        image = self.images.get(captioned.id)
        if image is None:
            self.report.leave_out("captions without objects", f"{self.coco.path} has no image {shown(captioned.id)}.")
            return []
        if image.size_wh != captioned.size_wh:
            problem = f"image {shown(image.id)} is {image.size_wh} here and {captioned.size_wh} in {captioned.where}."
            raise BadRecordError("two sizes", image.where, problem, "Pair the files.")
        objects: list[NamedObject] = []
        for where, record in image.annotations:
            try:
                objects.append(coco_object(self.coco, image, where, record))
            except BadRecordError as error:
                self.report.drop(error, self.on_error)
        return object_prompts(objects, "region", self.report, self.on_error)
