"""LoRA on the language model through peft, as in the reference (official.md#t5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pixelllm_hf.extras import require
from pixelllm_hf.training.recipe_values import ConfigError, Few, Positive, RecipePart, Within
from pixelllm_hf.training.sharding import whole_state_dict


@dataclass
class LoraSettings(RecipePart):
    """Rank and targets; the update is `scale * A B`, scale 2 in the reference whatever the rank (alpha = 2 * rank).

    Args:
        targets: which projections (`q`, `k`, `v`, `o`) of the language model's attention are adapted, whatever its
            family calls them; one that makes several of them at once is adapted whole.
        fully_trained: dotted names of parts of the language model that train in full besides, such as the vocabulary
            that gets new tokens: `[model.embed_tokens, lm_head]` of a LLaMA.
    """

    rank: Few = 32
    scale: Positive = 2.0
    targets: list[Literal["q", "k", "v", "o"]] = field(default_factory=lambda: ["q", "v"])
    dropout: Annotated[float, Within(0, 0.999)] = 0.0
    fully_trained: list[str] = field(default_factory=list)


def lora_config(settings: LoraSettings, model: Any) -> Any:
    """peft's configuration of these settings; targets are a pattern, bare names would also hit the vision towers."""
    require("peft", what="LoRA")
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.scale * settings.rank,  # type: ignore[arg-type]
        target_modules=model.lora_pattern(settings.targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.language_model.modules()),  # GPT-2's
        lora_dropout=settings.dropout,
    )


def add_lora(model: Any, settings: LoraSettings) -> list[str]:
    """Put adapters into the model's language model, in place; returns the names of the adapted projections.

    The language model's own weights freeze, but for the visual projection, the codebook's tokens and what is
    `fully_trained`; what trains elsewhere stays as it was. B starts at zero, so the model's answers do not change; A is
    drawn like the kernel it modifies. Raises ConfigError where a part is named that the language model lacks.
    """
    require("peft", what="LoRA")
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    kept = ["language_model.target_tokens.", "language_model.visual_projection."]
    for part in settings.fully_trained:
        kept.append(f"language_model.{part}.")
        if not any(name.startswith(kept[-1]) for name in trained):
            children = ", ".join(name for name, _ in model.language_model.named_children())
            raise ConfigError(
                f"lora.fully_trained names {part!r}, but the language model has no such part that trains. Its parts "
                f"are: {children}."
            )
    inject_adapter_in_model(lora_config(settings, model), model)  # freezes everything but the adapters
    for name, parameter in model.named_parameters():
        if not name.startswith("language_model.") or name.startswith(tuple(kept)):
            parameter.requires_grad_(name in trained)
    head_width = getattr(model.language_model, "unscaled_query_width", None)
    adapted = []
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            draws_narrow = head_width is not None and name.endswith(".q")
            fan = module.in_features * (head_width if draws_narrow else 1)
            nn.init.normal_(module.lora_A["default"].weight, std=fan**-0.5)
            adapted.append(name)
    return adapted


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the plain model with the adapters' updates added in; the model itself is left alone."""
    from peft.tuners.lora import LoraLayer

    adapters = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    merged = {}
    tensors = whole_state_dict(model)
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner in adapters:
            a, b = (tensors[f"{owner}.lora_{side}.default.weight"] for side in "AB")
            delta = b @ a * adapters[owner].scaling["default"] if leaf == "weight" else 0
            merged[f"{owner}.{leaf}"] = tensor + delta
        elif ".lora_" not in name:
            merged[name] = tensor
    return merged


def save_adapter(model: Any, settings: LoraSettings, folder: Path) -> None:
    """The adapters alone, as peft reads them."""
    from peft import get_peft_model_state_dict

    from pixelllm_hf.training.checkpointing import save_tensors

    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(model, state_dict=dict(whole_state_dict(model)), adapter_name="default")
    tensors = {name: t for name, t in tensors.items() if ".lora_" in name}
    save_tensors(folder / "adapter_model.safetensors", {f"base_model.model.{k}": v for k, v in tensors.items()})
    lora_config(settings, model).save_pretrained(str(folder))
