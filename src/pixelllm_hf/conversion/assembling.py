"""A PixelLLM out of published parts, written shard by shard: never more than one tensor and one source file in memory.

What was written stays when the program ends, and the same command goes on from there. The folder appears when it is
whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor

from pixelllm_hf.files import atomic_path, atomic_text
from pixelllm_hf.folders import folder_lock
from pixelllm_hf.safetensors_files import MAX_SHARD_BYTES, WeightsError, read_layout, write_index, write_tensors

from ..modeling.configuration_pixelllm import PixelLLMConfig
from .assembly_plan import Plan, PlannedTensor, empty_model, make_plan, source_folder
from .new_tensors import new_tensors
from .published_part import AssemblyError
from .weight_sources import DTYPES, tensor_bytes

MASK_DECODER_FILE = "mask_decoder.safetensors"
_PLAN = "plan.json"


def assemble(
    plan: Plan,
    out: str | Path,
    *,
    processor: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the model of a plan as a folder for `from_pretrained`; returns it.

    processor: saved with it. seed: of what starts anew. told: hears of each file. Without a mask head in the config
    SAM's mask decoder goes into a file of its own, which recipes of masks start from (`model.weights`).
    """
    out = check_target(out)
    work = out.parent / f".{out.name}.assembling"
    with folder_lock(work, "an assembly"):
        _begin(work, _fingerprint(plan, max_shard_bytes, seed))
        fresh = new_tensors(plan, seed)
        shards = split_state_dict_into_shards_factory(
            dict(plan.tensors),
            get_storage_size=lambda tensor: tensor.num_bytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_bytes,
        )
        files = {name: {key: plan.tensors[key] for key in keys} for name, keys in shards.filename_to_tensors.items()}
        if plan.mask_decoder:
            files[MASK_DECODER_FILE] = plan.mask_decoder
        for number, (name, tensors) in enumerate(files.items(), 1):
            state = "kept" if _is_whole(work / name, tensors) else "written"
            if state == "written":
                _write(work / name, tensors, plan, fresh)
            told(f"{number}/{len(files)} {name}: {len(tensors)} tensors, {state}")
        if shards.is_sharded:
            write_index(work / "model.safetensors.index.json", shards.tensor_to_filename, plan.tensors)
        _save_settings(plan, work)
        if processor is not None:
            processor.save_pretrained(work)
        if out.exists():
            out.rmdir()
        work.rename(out)  # with the plan in it: without that, what is whole would be begun again after a kill here
    for name in (_PLAN, ".lock"):
        (out / name).unlink(missing_ok=True)
    return out


def check_target(out: str | Path) -> Path:
    """The folder to make, behind any link; `AssemblyError` where something is there already."""
    out = Path(os.path.realpath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AssemblyError(f"{str(out)!r} is there already. Name a folder that is not, or remove it.")
    return out


def _begin(work: Path, fingerprint: str) -> None:
    """Keep the files of an earlier try with the same parts and settings, and no others."""
    plan = work / _PLAN
    if not plan.is_file() and (others := [path.name for path in work.iterdir() if path.name != ".lock"]):
        raise AssemblyError(
            f"{str(work)!r}, where this is put together, has files of no assembly: {', '.join(others[:3])}. Move them."
        )
    if not plan.is_file() or _recorded(plan) != fingerprint:
        for path in work.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with atomic_text(plan) as file:
            file.write(json.dumps({"fingerprint": fingerprint}))


def _recorded(plan: Path) -> Any:
    try:
        return json.loads(plan.read_bytes())["fingerprint"]
    except (ValueError, LookupError, TypeError):
        return None


def _fingerprint(plan: Plan, max_shard_bytes: int, seed: int) -> str:
    told = {
        "sources": {kind: part.source.fingerprint() for kind, part in plan.parts.items()},
        "tensors": {name: repr(tensor) for name, tensor in (plan.tensors | plan.mask_decoder).items()},
        "config": plan.config.to_json_string(use_diff=False),
        "settings": [max_shard_bytes, seed],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _is_whole(file: Path, tensors: Mapping[str, PlannedTensor]) -> bool:
    try:
        layout = read_layout(file)
    except (OSError, WeightsError):
        return False
    return {name: (t.dtype, t.shape) for name, t in layout.items()} == {
        name: (t.dtype, t.shape) for name, t in tensors.items()
    }


def _write(file: Path, tensors: Mapping[str, PlannedTensor], plan: Plan, fresh: Mapping[str, Tensor]) -> None:
    def content(name: str) -> Any:
        planned = tensors[name]
        return tensor_bytes(fresh[name] if planned.origin is None else plan.tensor(planned, name))

    with atomic_path(file) as temporary:
        write_tensors(temporary, tensors, content)
    for part in plan.parts.values():
        part.source.close()


def _save_settings(plan: Plan, folder: Path) -> None:
    model = empty_model(plan.config)
    config: PixelLLMConfig = model.config
    config.architectures = [type(model).__name__]
    kinds = [tensor.dtype for tensor in plan.tensors.values()]
    config.dtype = DTYPES[max(set(kinds), key=kinds.count)]
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def assembled_processor(plan: Plan, tokenizer: str | None) -> Any:
    """The processor around a tokenizer, by default that of the language model; None where there is neither."""
    from transformers import AutoTokenizer

    from pixelllm_hf.processing.image_processing_pixelllm import PixelLLMImageProcessor
    from pixelllm_hf.processing.processing_pixelllm import PixelLLMProcessor

    folder = tokenizer or source_folder(plan)
    if folder is None:
        return None
    try:
        words = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise AssemblyError(
            f"{str(folder)!r} has no tokenizer ({' '.join(str(error).split())[:200]}). Name one with --tokenizer."
        ) from error
    size = plan.config.vision_config.image_size
    if words.pad_token_id is None:  # of most decoder-only models
        words.pad_token = words.convert_ids_to_tokens(plan.config.get_text_config().pad_token_id)
    if len(words) > plan.config.get_text_config().vocab_size:
        raise AssemblyError(
            f"the tokenizer has {len(words)} pieces, the language model only "
            f"{plan.config.get_text_config().vocab_size}. Name its own with --tokenizer."
        )
    return PixelLLMProcessor(PixelLLMImageProcessor(size={"height": size, "width": size}), words)


__all__ = ["MASK_DECODER_FILE", "AssemblyError", "assemble", "assembled_processor", "check_target", "make_plan"]
