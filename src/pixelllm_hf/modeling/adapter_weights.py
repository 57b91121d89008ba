"""LoRA weights that are loaded into a model which they were not made for."""

import re
from collections.abc import Mapping, Sequence
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
    _refuse(
        foreign=[name for name in lora if name not in own],
        lacking=[name for name in wanted if name not in lora],
        shapes=[
            (name, lora[name].shape, own[name].shape)
            for name in lora
            if name in own and lora[name].shape != own[name].shape
        ],
    )


def check_loaded_adapter(info: Any) -> None:
    """Raise unless transformers has found every weight of an adapter a place, and every place a weight.

    info: what `PreTrainedModel.load_adapter` returns; transformers only logs what it lists.
    """
    _refuse(
        foreign=sorted(info.unexpected_keys), lacking=sorted(info.missing_keys), shapes=sorted(info.mismatched_keys)
    )


def remove_adapter(model: Any, name: str) -> None:
    """Take an adapter out again that transformers has put in; its own `delete_adapter` asks for a newer peft."""
    from peft.functional import delete_adapter

    delete_adapter(model, adapter_name=name, prefix=f"{model.peft_config[name].peft_type.value.lower()}_")
    model.peft_config.pop(name, None)
    if not model.peft_config:
        del model.peft_config
        model._hf_peft_config_loaded = False


def _refuse(foreign: Sequence[str], lacking: Sequence[str], shapes: Sequence[tuple[str, Any, Any]]) -> None:
    """Raise where there is any of these; shapes: name, shape in the adapter and in the model."""
    differing = [f"{name} has shape {tuple(a)} where the model's has {tuple(b)}" for name, a, b in shapes]
    for names, what in (
        (foreign, "the model has no place for {} of its weights, e.g. {}"),
        (lacking, "it lacks {} weights that the model's layers need, e.g. {}"),
        (differing, "{} of its weights are of another width: {}"),
    ):
        if names:
            raise AdapterMismatchError(
                f"this is a LoRA for another base: {what.format(len(names), '; '.join(names[:_SHOWN]))}. Load it onto "
                "the model that it was trained with (base_model_name_or_path of its adapter_config.json)."
            )


__all__ = ["AdapterMismatchError", "check_adapters", "check_loaded_adapter", "remove_adapter"]
