"""The recipe of `scripts/train.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pixelllm_hf.training.auxiliary.config import AuxiliaryConfig
from pixelllm_hf.training.config import ConfigError, OptimizerConfig, RunConfig
from pixelllm_hf.training.lora import LoraSettings
from pixelllm_hf.training.recipe_values import Positive, RecipePart, Share, Within
from pixelllm_hf.training.sources import DataConfig


@dataclass
class ModelSettings(RecipePart):
    """Where the model starts and which parts of it train.

    Args:
        init: preset (`tiny`, `for_tests`, `t5_xl`: random weights) or a checkpoint folder.
        sizes: preset or folder with the sizes of `init`, for a dry run where that is not here yet.
        overrides: settings laid over its config, nested like the config.
        processor: folder with the tokenizer (and processor); by default the checkpoint folder.
        vision_weights: towers of a recipe of objective `towers`.
        weights: further safetensors files named like the whole model, laid over in order.
        freeze: dotted names of parts that do not train. The prompt encoder never does in the reference.
        lora: adapters on the language model, whose own weights then freeze; None trains it in full.
        generation: entries of the generation config that is saved with the model, e.g. `{max_new_tokens: 64}`.
        export_dtype: of the tensors stored in the final `model/` folder: float32, bfloat16 or float16.
    """

    init: str = "tiny"
    sizes: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    processor: str | None = None
    vision_weights: str | None = None
    weights: list[str] = field(default_factory=list)
    freeze: list[str] = field(default_factory=lambda: ["prompt_encoder"])
    lora: LoraSettings | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclass
class RewardConfig(RecipePart):
    """What captions are rewarded for.

    Args:
        function: `module:function`, called once with the references of all training images and asked as a `Reward` of
            `reward_objective`.
        samples: captions that are written of an image. temperature: that they are drawn at.
        share: of the batches of captions that are rewarded; the others teach as they do otherwise.
        weight: of a rewarded batch's loss.
        max_new_tokens: longest caption.
    """

    function: str = "pixelllm_hf.evaluation.cider:CiderReward"
    samples: Annotated[int, Within(2, 64)] = 5
    temperature: Positive = 1.0
    share: Share = 0.7
    weight: Positive = 1.0
    max_new_tokens: Annotated[int, Within(1, 4096)] = 24


@dataclass
class TrainConfig(RecipePart):
    """The whole recipe.

    Args:
        objective: what is learnt. `language` from `data.sources`; `reward` from the same, with captions that the model
            writes itself rewarded; `text` a decoder that writes like these and `data.texts`, with nothing to look at;
            `box_masks` masks of the boxes of sources of task `segment`. The others from `auxiliary` alone: `towers`
            gives vision towers that name what they see, `prompt_tokens` a model whose prompt tokens know what is where,
            `masks` one that makes masks of boxes, and towers for it.
        reward: of objective `reward`.
        auxiliary: labels of COCO instances that teach beside language, or by themselves.
        evaluate: `module:function` called during training as `function(model, processor) -> {name: value}`.
        evaluate_options: keywords of that function. `pixelllm_hf.evaluation.runner:validate` takes `tasks`, by default
            all that the model has the heads for, and `scenes`: `{tasks: [trace, refer], scenes: 64}`.
    """

    objective: Literal["language", "reward", "text", "box_masks", "towers", "prompt_tokens", "masks"] = "language"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    reward: RewardConfig | None = None
    auxiliary: AuxiliaryConfig | None = None
    evaluate: str | None = None
    evaluate_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.auxiliary is not None and self.data.cache_features:
            raise ConfigError(
                "auxiliary teaches the towers, but with cache_features they never run. Leave one of them out."
            )
