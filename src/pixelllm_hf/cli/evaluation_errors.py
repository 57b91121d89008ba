"""What can be wrong with data, models and settings that something is measured with: said in a line, without a trace."""

from __future__ import annotations

from pickle import UnpicklingError

from pixelllm_hf.conversion.onnx_file import OnnxFileError
from pixelllm_hf.conversion.towers import TowerWeightsError
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError
from pixelllm_hf.data.prepared_folder import PreparedFolderError
from pixelllm_hf.data.scenes import BackgroundFolderError, ObjectFolderError, SceneOutputError
from pixelllm_hf.evaluation.baselines import BaselineError
from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.runner import CannotDoError
from pixelllm_hf.inference import ModelError
from pixelllm_hf.processing.mask_codec import MaskCodecError
from pixelllm_hf.processing.prompt_locations import PromptError

from .errors import UsageError

COMPOSING_ERRORS = (ObjectFolderError, BackgroundFolderError, SceneOutputError, OSError)
EVALUATION_ERRORS = (
    *(UsageError, ModelError, CannotDoError, BaselineError, PromptError, MaskCodecError),
    *(EvaluationDataError, PreparedFolderError, AnnotationFileError, BadRecordError, UnpicklingError),
    *(OnnxFileError, TowerWeightsError),
    *COMPOSING_ERRORS,
)

__all__ = ["COMPOSING_ERRORS", "EVALUATION_ERRORS"]
