"""A model folder that somebody else made: what is wrong is said at once, by file and field, and costs no memory.

Pickled weights are never read, whatever else is asked of transformers: they can hold code.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64_000_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Entries of a config whose name holds one of these words are counts that cost memory or time; the first word counts.
_LARGEST = {
    "layers": 256,
    "num_tokens": 1024,
    "vocab_size": 1 << 22,
    "patch_size": 1024,
    "image_size": 4096,
    "heads": 1024,
    "max_points": 1024,
    "max_new_tokens": 1 << 16,
    "num_beams": 1024,
    "num_return_sequences": 1024,
    "": 1 << 20,
}
_AT_LEAST_1 = re.compile(
    r"(hidden|intermediate|patch|image|vocab|roi|head|grid)_sizes?$|_(dim|heads|channels)$|^(d_|strides)|"
    r"^num_(beams|return_sequences)$"
)
_ROOM = 64_000_000  # parameters that a config may ask for beyond three times what its weight files hold


class ModelFolderError(OSError, ValueError):
    """A folder is no model, or is damaged, or asks for more than it can be meant to."""


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file of a model folder, which is an object."""
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ModelFolderError(f"{file} cannot be read: it is nested too deeply. Copy or save it again.") from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{file} cannot be read: {error}. Copy or save it again.") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{file} holds a {type(content).__name__} where an object is expected. Save it again.")
    return content


def check_config_file(folder: Path, model_type: str) -> None:
    """Raise unless the folder has a `config.json` of this type of model."""
    file = folder / "config.json"
    if not file.is_file():
        held = sorted(path.name for path in folder.iterdir())[:5]
        raise ModelFolderError(
            f"{folder} is no model: it has no config.json, but {', '.join(held) or 'nothing'}. Give the folder that "
            "save_pretrained wrote."
        )
    found = read_settings(file).get("model_type")
    if found != model_type:
        raise ModelFolderError(
            f"{file}: model_type is {_shown(found)}, and not {model_type!r}. Give a folder of such a model."
        )


def check_weight_files(folder: Path, *, variant: str | None = None) -> None:
    """Raise unless the folder has weights of its own in safetensors, or adapters that name their model."""
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    if adapter.is_file():
        base = read_settings(adapter).get("base_model_name_or_path")
        if not config.is_file():
            if not isinstance(base, str) or not base:
                raise ModelFolderError(
                    f"{adapter}: base_model_name_or_path is {_shown(base)}, so nobody knows the adapter's model. Load "
                    "the model first, and the adapter onto it with peft's PeftModel.from_pretrained."
                )
            return
    if (folder / "generation_config.json").exists():
        check_generation(read_settings(folder / "generation_config.json"), f"{folder / 'generation_config.json'}: ")
    mark = f".{variant}" if variant else ""
    whole, index = folder / f"model{mark}.safetensors", folder / f"model.safetensors.index{mark}.json"
    named = read_settings(config).get("transformers_weights") if config.is_file() else None
    if named is not None:
        if not _is_weight_file(named):
            raise ModelFolderError(
                f"{config}: transformers_weights is {_shown(named)}, no safetensors file of the folder."
            )
        whole = folder / named
    if whole.is_file():
        return
    if index.is_file():
        _check_index(index)
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ModelFolderError(
            f"{folder} has its weights only as pickle ({pickles[0]}), which can hold code and is not read. Convert "
            "them to safetensors where you trust them."
        )
    raise ModelFolderError(f"{folder} has no weights: neither {whole.name} nor {index.name}. Copy or save it again.")


def _check_index(index: Path) -> None:
    weight_map = read_settings(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(f"{index}: weight_map must name the file of every weight, but is {_shown(weight_map)}.")
    for weight, name in weight_map.items():
        if not _is_weight_file(name):
            raise ModelFolderError(
                f"{index}: weight_map puts {weight[:100]!r} into {_shown(name)}, which is no safetensors file of the "
                "folder."
            )
    for name in sorted(set(weight_map.values())):
        if not (index.parent / name).is_file():
            raise ModelFolderError(f"{index} names {name}, which is not there. Copy it, or save the model again.")


def _is_weight_file(name: Any) -> bool:
    """A plain name, on every system, so that nothing outside the folder is read."""
    return isinstance(name, str) and name.endswith(".safetensors") and not any(sign in name for sign in "/\\:\0")


_COUNTS = """
    max_length max_new_tokens min_length min_new_tokens num_beams num_beam_groups num_return_sequences top_k
    no_repeat_ngram_size encoder_no_repeat_ngram_size prompt_lookup_num_tokens max_matching_ngram_size
    num_assistant_tokens assistant_early_exit
""".split()
_FACTORS = """
    temperature top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty
    length_penalty diversity_penalty penalty_alpha guidance_scale max_time
""".split()
_SWITCHES = "do_sample use_cache return_dict_in_generate output_attentions output_hidden_states output_scores".split()
_TOKENS = "bos_token_id eos_token_id pad_token_id decoder_start_token_id".split()


def check_generation(settings: Mapping[str, Any], where: str) -> None:
    """Raise for entries of a generation config of the wrong type or size."""
    for names, types, what in (
        (_COUNTS, (int,), "a whole number"),
        (_FACTORS, (int, float), "a number"),
        (_SWITCHES, (bool,), "true or false"),
    ):
        for name in names:
            value = settings.get(name)
            if value is not None and (not isinstance(value, types) or isinstance(value, bool) != (bool in types)):
                raise ModelFolderError(f"{where}{name} must be {what}, but is {_shown(value)}.")
    _check_tokens(settings, where)
    _check_numbers(settings, where)


def _check_tokens(settings: Mapping[str, Any], where: str) -> None:
    for name in _TOKENS:
        ids = settings.get(name)
        if ids == [] and name != "eos_token_id":
            raise ModelFolderError(f"{where}{name} must be the number of a token, but is an empty list.")
        for value in ids if isinstance(ids, list) else [] if ids is None else [ids]:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST["vocab_size"]:
                raise ModelFolderError(f"{where}{name} must be the number of a token, but is {_shown(ids)}.")


def check_sizes(config: Any, where: str = "") -> None:
    """Raise for sizes of a config and of its parts that nobody means; it names them like `vision_config.image_size`."""
    for name, value in vars(config).items():
        parts = enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]
        for place, part in parts:
            if hasattr(part, "model_type") and not isinstance(part, type):
                check_sizes(part, f"{where}{name}{'' if place is None else f'[{place}]'}.")
    _check_tokens(vars(config), where)
    _check_numbers(vars(config), where)


def refuse_code(settings: Mapping[str, Any]) -> None:
    """Raise if a config asks for attention or experts that are code of a repository."""
    for name, value in settings.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                refuse_code(part)
        if str(name).endswith("_implementation") and "/" in str(value):
            raise ModelFolderError(f"{name} is {_shown(value)}: code of a repository, which a config may not bring.")


def _check_numbers(settings: Mapping[str, Any], where: str) -> None:
    for name, value in settings.items():
        if not name.startswith("_") and not name.endswith(("token_id", "token_ids", "2id")):
            if isinstance(value, (list, tuple)) and len(value) > _LARGEST["layers"]:
                raise ModelFolderError(f"{where}{name} must be of at most {_LARGEST['layers']} values.")
            for number in _numbers(value):
                _check_number(name, number, where)


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _check_number(name: str, value: float, where: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ModelFolderError(f"{where}{name} must be a finite number, but is {value}.")
        if value < 0 and name.endswith(("_weight", "_rate", "_eps", "_std", "smoothing", "dropout", "temperature")):
            raise ModelFolderError(f"{where}{name} must not be negative, but is {value}.")
        if value > 1 and name.endswith(("_rate", "smoothing", "dropout", "top_p")):
            raise ModelFolderError(f"{where}{name} must be at most 1, but is {value}.")
        return
    largest = next(limit for word, limit in _LARGEST.items() if word in name)
    from_the_end = name in ("feature_layers", "seed")  # layers counted from the last one
    smallest = 1 if _AT_LEAST_1.search(name) else -largest if from_the_end else 0
    if not smallest <= value <= largest:
        raise ModelFolderError(f"{where}{name} must lie within {smallest}..{largest}, but is {_shown(value)}.")


def check_weight_count(model: Any, files: Iterable[str]) -> None:
    """Raise if a model asks for far more parameters than its files hold, before memory is taken for them.

    model: on the meta device, as transformers builds it. Somewhat more is in order: a new head starts at random.
    """
    from safetensors import SafetensorError, safe_open

    stored = 0
    for file in files:
        try:
            with safe_open(file, framework="pt") as content:
                stored += sum(math.prod(content.get_slice(name).get_shape()) for name in content.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ModelFolderError(f"{file} is damaged, copy it again: {error}.") from error
    asked = sum(parameter.numel() for parameter in model.parameters())
    if asked > 3 * stored + _ROOM:
        raise ModelFolderError(
            f"the config asks for {asked} parameters, but the weight files hold {stored}. Are they of the same model?"
        )


def check_finite(model: Any, name: Any) -> None:
    """Raise if a weight that was loaded is NaN or infinite: the model would answer with nothing."""
    for key, tensor in ((key, part) for key, value in model.state_dict().items() for part in _plain_tensors(value)):
        # Not what was left on disk, nor types of eight bits, which torch cannot compare.
        known = tensor.is_floating_point() and tensor.device.type != "meta" and tensor.element_size() > 1
        if known and tensor.numel() and not all(math.isfinite(end) for end in tensor.detach().aminmax()):
            raise ModelFolderError(
                f"the weight {key!r} of {name} is not finite (NaN or infinite as {tensor.dtype}). Copy the weights "
                "again, or take a checkpoint from before the training failed."
            )


def _plain_tensors(tensor: Any) -> Iterator[Any]:
    """The tensor, or those that one of a quantization library is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_tensors(getattr(tensor, name))


@contextmanager
def model_errors(name: Any, folder: Path | None) -> Iterator[None]:
    """What befalls transformers on damaged files becomes a `ModelFolderError` that names them.

    folder: of `name` here. A model of the Hub has none: what transformers says about it itself stays as it is.
    """
    try:
        yield
    except ModelFolderError as error:
        if folder is None or str(folder) in str(error):
            raise
        raise ModelFolderError(f"{folder}: {error}") from error
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        its_own = folder is None and isinstance(error, (OSError, ValueError))
        torch = sys.modules.get("torch")  # a folder is checked without it
        on_meta = torch is not None and torch.get_default_device().type == "meta"  # transformers says what is wrong
        if its_own or on_meta or type(error).__name__ == "OutOfMemoryError":
            raise
        raise ModelFolderError(f"{folder or name} cannot be loaded: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    told = text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__}: {text}"
    return told if len(told) <= 600 else told[:600] + " …"


def local_folder(name: Any, subfolder: str | None = None) -> Path | None:
    """The folder that a model's name means here; None for a model of the Hub or a file."""
    try:
        folder = Path(name, subfolder or "")
        return folder if folder.is_dir() else None
    except (TypeError, ValueError):  # no name at all; a NUL
        return None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 120 else text[:120] + " …"
