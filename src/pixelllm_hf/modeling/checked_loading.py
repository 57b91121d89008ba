"""Loading and saving as transformers do, of folders that may be damaged, hostile, or about to be cut off."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .adapter_weights import AdapterMismatchError, check_adapters, check_loaded_adapter, remove_adapter
from .model_folder import (
    check_config_file,
    check_finite,
    check_sizes,
    check_weight_count,
    check_weight_files,
    local_folder,
    model_errors,
    refuse_code,
)
from .whole_saves import saved_whole


class CheckedConfig:
    """Before `PreTrainedConfig` among the bases of a model's config."""

    model_type: str
    sub_configs_defaults: dict[str, Any]

    def check_part_types(self, *chosen_elsewhere: str) -> None:
        """Raise a ValueError for a part of another kind: it would be taken for ours with its settings left out.

        chosen_elsewhere: parts that may be of several kinds.
        """
        for name, spec in self.sub_configs_defaults.items():
            part = getattr(self, name)
            given = part.get("model_type") if isinstance(part, dict) else getattr(part, "model_type", None)
            if name not in chosen_elsewhere and given not in (None, spec.config_class.model_type):
                raise ValueError(
                    f"{name} must be a config of model_type {spec.config_class.model_type!r}, but it is one of "
                    f"{given!r}. Leave it out or give its settings as a dict."
                )

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        check_sizes(self)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As transformers'. A damaged file, another model's, or sizes nobody means are a `ModelFolderError`."""
        folder = local_folder(pretrained_model_name_or_path, kwargs.get("subfolder"))
        with model_errors(pretrained_model_name_or_path, folder):
            if folder is not None and not kwargs.get("gguf_file"):
                check_config_file(folder, cls.model_type)
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', with errors like `from_pretrained`; the Auto classes come here."""
        name = kwargs.get("name_or_path") or "the config"
        with model_errors(name, local_folder(name)):
            refuse_code(config_dict)
            return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]


class CheckedModel:
    """Before `PreTrainedModel` among the bases of a model."""

    config_class: Any

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As transformers', from safetensors alone. What is damaged, or not finite, is a `ModelFolderError`."""
        if kwargs.setdefault("use_safetensors", True) is False:
            raise ValueError("pickled weights can hold code and are not read: leave use_safetensors=False out.")
        name, here = pretrained_model_name_or_path, kwargs.get("gguf_file") is None
        folder = local_folder(name, kwargs.get("subfolder")) if here else None
        with model_errors(name, folder):
            if folder is not None:
                if kwargs.get("config") is None and not (folder / "adapter_config.json").is_file():
                    check_config_file(folder, cls.config_class.model_type)
                check_weight_files(folder, variant=kwargs.get("variant"))
            loaded = super().from_pretrained(name, *model_args, **kwargs)  # type: ignore[misc]
        if name is not None:
            check_finite(loaded[0] if isinstance(loaded, tuple) else loaded, name)
        return loaded

    @classmethod
    def _load_pretrained_model(
        cls, model: Any, state_dict: Any, checkpoint_files: list[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        # The one moment when the model is there and costs nothing yet.
        if checkpoint_files and state_dict is None and getattr(model, "hf_quantizer", None) is None:
            check_weight_count(model, checkpoint_files)
        return super()._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)  # type: ignore[misc]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Of every `load_state_dict`, peft's too, which takes a model's adapters as they come.
        if any(".lora_" in name for name in state_dict):
            check_adapters(self.state_dict(), state_dict, prefix)  # type: ignore[attr-defined]
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]

    def load_adapter(self, peft_model_id: Any = None, adapter_name: str | None = None, **kwargs: Any) -> Any:
        """As transformers', which `from_pretrained` of an adapter's folder calls. A LoRA for another base is an
        `AdapterMismatchError`, and the model is then without it."""
        kwargs["ignore_mismatched_sizes"] = True  # in the error are names and shapes
        info = super().load_adapter(peft_model_id, adapter_name, **kwargs)  # type: ignore[misc]
        try:
            check_loaded_adapter(info)
        except AdapterMismatchError:
            remove_adapter(self, adapter_name or "default")
            raise
        return info

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, **options: Any) -> None:
        """As transformers', into a temporary folder first: a kill leaves what was there before, or the whole model."""
        options.setdefault("repo_id", Path(save_directory).resolve().name)
        if not is_main_process or Path(save_directory).is_file():
            super().save_pretrained(save_directory, is_main_process=is_main_process, **options)  # type: ignore[misc]
            return
        with saved_whole(Path(save_directory)) as folder:
            try:
                super().save_pretrained(folder, is_main_process=is_main_process, **options)  # type: ignore[misc]
            except SafetensorError as error:  # the library wraps what the system said: a full disk, a quota
                raise OSError(
                    f"the model could not be written to {str(save_directory)!r} ({error}). What was there before is "
                    "there still."
                ) from error
