"""What every PixelLLM shares: how weights start, and what transformers needs to know."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import update_wrapper
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.dynamic_module_utils import custom_object_save

from .checked_loading import CheckedModel
from .configuration_pixelllm import PixelLLMConfig
from .former_names import FORMER_PATTERNS, current_name, former_names
from .initialized_layers import InitializesItself
from .mask_head import MaskAdapter
from .vision_eva02 import Eva02Attention, Eva02VisionTower
from .vision_sam import SamAttention, SamVisionTower

APACHE = (
    "Licensed under the Apache License, Version 2.0; you may obtain a copy at https://www.apache.org/licenses/LICENSE-2.0\n"
    'Distributed on an "AS IS" basis, without warranties or conditions of any kind, either express or implied. The\n'
    "tensors were renamed, and may have been trained further."
)


class PixelLLMPreTrainedModel(CheckedModel, PreTrainedModel):
    """Weight initialisation and what transformers needs to know about every PixelLLM."""

    config_class = PixelLLMConfig
    config: PixelLLMConfig
    base_model_prefix = ""
    model_tags = ["grounded-captioning", "pixelllm"]  # of the card that push_to_hub makes
    main_input_name = "pixel_values"
    _checkpoint_conversion_mapping = FORMER_PATTERNS  # `PeftModel.from_pretrained` asks for this
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    row_columns: tuple[str, ...] = ()  # of a data set, what its collator reads; see `ShownToTrainer`
    accepts_loss_kwargs = False  # every loss is a mean over its batch, so Trainer divides it by accumulated batches
    _supports_sdpa = True
    _no_split_modules = [
        "SamBlock",
        "Eva02Block",
        "T5Block",
        "EfficientNetLiteBlock",
        "YoloxStage",
    ]
    # Half precision costs several pixels, so locations are computed in float32 whatever the rest runs in.
    _keep_in_fp32_modules_strict = ["point_head", "prompt_encoder", "proposal_head", "fused_mean", "fused_scale"]
    _keep_in_fp32_modules = _keep_in_fp32_modules_strict  # where quantizers look for what to leave alone

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers asks only about modules that own parameters, never about their containers.
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, InitializesItself):
            module.init_weights()
        elif isinstance(module, nn.ConvTranspose2d):  # here always as wide a kernel as a step: one cell makes a pixel
            init.normal_(module.weight, std=module.in_channels**-0.5)
        elif isinstance(module, nn.Linear):
            # Flax's default, as in the reference. A fixed 0.02 fades what narrow layers pass on of the image.
            init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, SamVisionTower):
            init.normal_(module.pos_embed, std=std)
        elif isinstance(module, Eva02VisionTower):
            init.normal_(module.pos_embed, std=std)
            init.normal_(module.cls_token, std=std)
        elif isinstance(module, SamAttention):
            init.zeros_(module.rel_pos_h)
            init.zeros_(module.rel_pos_w)
        elif isinstance(module, Eva02Attention):
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)
        elif isinstance(module, MaskAdapter):
            init.zeros_(module.alpha)
        elif isinstance(module, nn.ParameterList):  # the scales of the detector's levels
            for scale in module:
                init.ones_(scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PixelLLMPreTrainedModel:
        """`to(bfloat16)`, `half()` and their like keep in float32 what `from_pretrained(dtype=…)` keeps in it."""
        names = set(self._keep_in_fp32_modules_strict or ())
        tensors = [
            tensor for name, tensor in (*self.named_parameters(), *self.named_buffers()) if names & {*name.split(".")}
        ]
        kept = {id(tensor) for tensor in tensors} | {id(tensor.grad) for tensor in tensors if tensor.grad is not None}

        def convert(tensor: Tensor) -> Tensor:
            converted = fn(tensor)
            narrowed = converted.is_floating_point() and converted.dtype.itemsize < 4
            # From the tensor as it was: what has been narrowed cannot be widened again.
            return tensor.to(converted.device, torch.float32) if narrowed and id(tensor) in kept else converted

        return super()._apply(convert, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """What `load_state_dict` is given may have former names, too: `Trainer` resumes with it."""
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[prefix + current_name(name.removeprefix(prefix))] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers', with a `NOTICE` where a tower's weights ask for one."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_notice(Path(save_directory), self.config.vision_config.weights_notices)

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str | None = "5GB", **options: Any) -> str:
        """As transformers', with weights in shards of at most 5 GB. `pixelllm_hf.publishing.push_model` sends more."""
        return super().push_to_hub(repo_id, max_shard_size=max_shard_size, **options)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        """What goes to the Hub takes its code along, so that it loads where this package is not installed."""
        write_notice(Path(working_dir), self.config.vision_config.weights_notices)
        path = Path(working_dir) / "config.json"  # not there if an adapter alone was saved
        if self._auto_class is None and path.is_file():  # what was loaded with its code has saved that already
            custom_object_save(self, working_dir)
            model, config = _reference(type(self)), _reference(type(self.config))
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings["auto_map"] = {"AutoConfig": config, "AutoModel": model, "AutoModelForImageTextToText": model}
            path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return super()._upload_modified_files(working_dir, *args, **kwargs)


register_checkpoint_conversion_mapping(PixelLLMConfig.model_type, former_names(), overwrite=True)


def blocks_of(model: PreTrainedModel) -> set[str]:
    """Names of the classes of blocks that stay on one device and are sharded as one: the model's, and those of every
    model of transformers within it. transformers itself asks only the parts that are such models directly."""
    within = (part._no_split_modules or () for part in model.modules() if isinstance(part, PreTrainedModel))
    return {name for names in within for name in names}


class ShownToTrainer:
    """A `forward` as transformers' `Trainer` should see it, which reads two things off its arguments.

    Those of `type(model).forward` with "label" in their name must be in a batch, or there is no `eval_loss`. Of ours
    only `labels` are in every batch: others belong to points that are asked about or to what a head may be taught. So
    the class shows `labels` as the only one.
    Columns of a data set that are no arguments of `model.forward` are dropped before a collator sees them. So a model
    whose `row_columns` name what its collator reads shows these as well.
    """

    def __init__(self, forward: Callable[..., Any]):
        self.forward = forward
        update_wrapper(self, forward)

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            kept = [p for name, p in self._parameters().items() if name == "labels" or "label" not in name]
            return self._showing(self.forward, kept)
        bound = MethodType(self.forward, model)
        if not model.row_columns:
            return bound
        _, *kept = self._parameters().values()
        columns = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in model.row_columns]
        return self._showing(bound, sorted([*kept, *columns], key=lambda parameter: parameter.kind))

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.forward).parameters

    def _showing(self, function: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        update_wrapper(forward, self.forward)
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return forward


def write_notice(folder: Path, notices: list[str]) -> None:
    """Add to `NOTICE` in a folder those of the notices that it lacks, with the licence that they share."""
    path = folder / "NOTICE"
    present = path.read_text(encoding="utf-8") if path.is_file() else ""
    missing = [f"{notice}\n{APACHE}\n" for notice in notices if notice not in present]
    if missing:
        path.write_text("\n".join([*([present] if present else []), *missing]), encoding="utf-8")


def _reference(cls: type) -> str:
    """A class of the code beside the weights, as an auto_map names it."""
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


__all__ = ["PixelLLMPreTrainedModel", "ShownToTrainer", "blocks_of"]
