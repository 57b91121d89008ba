"""PixelLLM for the Hugging Face ecosystem: image in, caption out, with a pixel location for every word.

Public names are imported when they are first used; torch is not needed before a model is asked for. After importing the
package, `AutoConfig`, `AutoModel`, `AutoModelForImageTextToText`, `AutoImageProcessor` and `AutoProcessor` know its
classes, and `pipeline("grounded-captioning")` its task.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import registration

if TYPE_CHECKING:
    from .modeling.configuration_pixelllm import PixelLLMConfig as PixelLLMConfig
    from .modeling.configuration_pixellm import PixelLMConfig as PixelLMConfig
    from .modeling.modeling_pixelllm import PixelLLMForGroundedGeneration as PixelLLMForGroundedGeneration
    from .modeling.modeling_pixellm import PixelLMForReasoningSegmentation as PixelLMForReasoningSegmentation
    from .processing.canvas_transform import CanvasTransform as CanvasTransform, xywh_to_xyxy as xywh_to_xyxy
    from .processing.code_export import CodeExportError as CodeExportError
    from .processing.dataset_exports import (
        pascal_voc_annotation as pascal_voc_annotation,
        to_supervision as to_supervision,
        yolo_classes as yolo_classes,
        yolo_labels as yolo_labels,
    )
    from .processing.grounded_results import (
        GroundedCaption as GroundedCaption,
        GroundedTarget as GroundedTarget,
        GroundedWord as GroundedWord,
        draw_results as draw_results,
    )
    from .processing.grounded_streamer import GroundedStreamer as GroundedStreamer
    from .processing.image_processing_pixelllm import PixelLLMImageProcessor as PixelLLMImageProcessor
    from .processing.image_reading import ImageError as ImageError
    from .processing.pipeline_grounded_captioning import GroundedCaptioningPipeline as GroundedCaptioningPipeline
    from .processing.processing_pixelllm import PixelLLMProcessor as PixelLLMProcessor
    from .processing.processing_pixellm import (
        PixelLMProcessor as PixelLMProcessor,
        add_pixellm_tokens as add_pixellm_tokens,
    )
    from .processing.prompt_locations import PromptError as PromptError
    from .processing.result_exports import (
        coco_annotations as coco_annotations,
        coco_results as coco_results,
        labelme_record as labelme_record,
        narrative_records as narrative_records,
    )

__version__ = "0.1.0"

_HOMES = {
    "PixelLLMConfig": ".modeling.configuration_pixelllm",
    "PixelLLMForGroundedGeneration": ".modeling.modeling_pixelllm",
    "PixelLMConfig": ".modeling.configuration_pixellm",
    "PixelLMForReasoningSegmentation": ".modeling.modeling_pixellm",
    "PixelLMProcessor": ".processing.processing_pixellm",
    "add_pixellm_tokens": ".processing.processing_pixellm",
    "PixelLLMImageProcessor": ".processing.image_processing_pixelllm",
    "PixelLLMProcessor": ".processing.processing_pixelllm",
    "CanvasTransform": ".processing.canvas_transform",
    "CodeExportError": ".processing.code_export",
    "GroundedCaption": ".processing.grounded_results",
    "GroundedCaptioningPipeline": ".processing.pipeline_grounded_captioning",
    "GroundedStreamer": ".processing.grounded_streamer",
    "GroundedTarget": ".processing.grounded_results",
    "GroundedWord": ".processing.grounded_results",
    "ImageError": ".processing.image_reading",
    "PromptError": ".processing.prompt_locations",
    "coco_annotations": ".processing.result_exports",
    "coco_results": ".processing.result_exports",
    "draw_results": ".processing.grounded_results",
    "labelme_record": ".processing.result_exports",
    "narrative_records": ".processing.result_exports",
    "pascal_voc_annotation": ".processing.dataset_exports",
    "to_supervision": ".processing.dataset_exports",
    "xywh_to_xyxy": ".processing.canvas_transform",
    "yolo_classes": ".processing.dataset_exports",
    "yolo_labels": ".processing.dataset_exports",
}

EMBEDDED_CHECKPOINTS = ("photo", "tiny", "tiny-reason")
"""The models that the package brings, by name; the first is the default. `tiny-reason` answers questions."""

__all__ = [
    "EMBEDDED_CHECKPOINTS", "__version__", "default_checkpoint", "embedded_checkpoint", "export_code", *_HOMES,
]  # fmt: skip


def default_checkpoint() -> Path:
    """Folder of the embedded model that is used where none is named, for `from_pretrained`."""
    return embedded_checkpoint(EMBEDDED_CHECKPOINTS[0])


def embedded_checkpoint(name: str) -> Path:
    """Folder of one of `EMBEDDED_CHECKPOINTS`, for `from_pretrained`.

    >>> embedded_checkpoint("tiny").name
    'tiny'
    """
    if name not in EMBEDDED_CHECKPOINTS:
        raise ValueError(f"no embedded checkpoint is called {name!r}. There are: {', '.join(EMBEDDED_CHECKPOINTS)}.")
    folder = Path(__file__).parent / "checkpoints" / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"the embedded checkpoint is not in {folder}. Install the package again, or name another model."
        )
    return folder


def export_code(folder: str | Path) -> list[Path]:
    """Put the code of a model of any of our families beside its weights in `folder`, which `save_pretrained` wrote.

    Then `AutoModel.from_pretrained(folder, trust_remote_code=True)`, its siblings and `pipeline` load it where the
    package is not installed. Returns the Python files written.
    """
    from .families import PIPELINE, family_of_folder, load
    from .processing.code_export import CodeExportError, export_code

    if not (Path(folder) / "config.json").is_file():
        raise CodeExportError(
            f"code goes beside a saved model and processor, but {Path(folder) / 'config.json'} does not exist. Call "
            "save_pretrained of both with this folder first."
        )
    family = family_of_folder(folder)
    return export_code(
        folder,
        config=family.config_class,
        model=family.model_class,
        processor=family.processor_class,
        image_processor=family.image_processor_class,
        pipeline=load(PIPELINE),
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.install()
