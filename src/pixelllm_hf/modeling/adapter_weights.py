"""LoRA weights that are loaded into a model which they were not made for."""

import re
from collections.abc import Mapping
from typing import Any

_LORA = re.compile(r"(.+)\.lora_\w+\.([^.]+)(\.\w+)?$")  # projection, kind of matrix, adapter's name
_SHOWN = 3


class AdapterMismatchError(ValueError):
    """A LoRA for another base: its layers are not the model's."""


def check_adapters(own: Mapping[str, Any], given: Mapping[str, Any], prefix: str) -> None:
    """Raise unless the LoRA weights among `given` are those that a model has places for, all of them.

    own: the model's tensors by name. given: what is being loaded, each name behind `prefix`. peft drops what has no
    place and leaves at its start what is lacking, both without an error: a model that answers, but with half a LoRA.
    """
    lora = {
        name.removeprefix(prefix): tensor
        for name, tensor in given.items()
        if name.startswith(prefix) and ".lora_" in name
    }
    adapters = {match[2] for name in lora if (match := _LORA.match(name))}
    if not adapters:
        return
    wanted = {name for name in own if (match := _LORA.match(name)) and match[2] in adapters}
    shapes = [
        f"{name} has shape {tuple(lora[name].shape)} where the model's has {tuple(own[name].shape)}"
        for name in lora
        if name in own and lora[name].shape != own[name].shape
    ]
    for names, what in (
        ([name for name in lora if name not in own], "the model has no place for {} of its weights, e.g. {}"),
        ([name for name in wanted if name not in lora], "it lacks {} weights that the model's layers need, e.g. {}"),
        (shapes, "{} of its weights are of another width: {}"),
    ):
        if names:
            raise AdapterMismatchError(
                f"this is a LoRA for another base: {what.format(len(names), '; '.join(names[:_SHOWN]))}. Load it onto "
                "the model that it was trained with (base_model_name_or_path of its adapter_config.json)."
            )


__all__ = ["AdapterMismatchError", "check_adapters"]
