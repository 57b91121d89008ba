"""Source formats -> typed `datasets` rows -> batches. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "bad_records": ("AnnotationFileError", "BadRecordError", "ReadReport"),
    "coco_captions": ("read_coco_captions",),
    "coco_instances": ("read_coco_instances",),
    "coco_objects": ("read_coco_objects", "read_coco_panoptic"),
    "collator": ("GroundedCollator",),
    "conversations": ("read_conversations",),
    "flickr30k_entities": ("read_flickr30k_entities",),
    "formats": ("FORMATS", "read_format"),
    "grounded_examples": ("GROUNDED_FEATURES",),
    "grit_captions": ("read_grit_captions",),
    "grounding_json": ("read_grounding_json",),
    "image_transforms": ("REFERENCE_AUGMENTATION", "Augmentation"),
    "label_maps": ("read_ade20k", "read_coco_stuff", "read_mapillary"),
    "localized_narratives": ("read_localized_narratives",),
    "mixing": ("GroundedBatches", "MixedBatches"),
    "muse": ("read_muse",),
    "pascal_voc": ("read_pascal_voc",),
    "parquet_shards": ("prepare_format", "prepare_shards"),
    "prepared_folder": ("read_prepared",),
    "plain_pickle": ("load_plain_pickle",),
    "question_collator": ("QuestionCollator",),
    "reason_seg": ("read_reason_seg",),
    "referring_expressions": ("read_referring_expressions",),
    "tokenizer_training": ("train_tokenizer",),
    "visual_genome": ("read_visual_genome",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
