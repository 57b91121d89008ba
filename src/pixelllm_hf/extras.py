"""Packages that only training, evaluation or the demo need are asked for by name where one of them is missing."""

from __future__ import annotations

from importlib import import_module

# package, as it is imported -> the extras of this package that bring it; setup.py lists what each extra installs
EXTRAS = {
    "accelerate": ("train", "eval"),
    "datasets": ("train", "eval"),
    "evaluate": ("eval",),
    "gradio": ("demo",),
    "mcp": ("demo",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnx",),
    "onnxscript": ("onnx",),
    "peft": ("train",),
    "torchao": ("int8",),
}


class MissingExtraError(ImportError):
    """A package that an extra brings is not installed; the message says which extra to install."""


def require(*packages: str, what: str) -> None:
    """A `MissingExtraError` for the first of the packages that is not installed. what: needs them, "the demo" say."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            if error.name != package:  # it is there, and something of its own is broken
                raise
            raise _missing(package, what) from error


def explain(error: ModuleNotFoundError, module: str) -> None:
    """Raise the `MissingExtraError` that explains why a module of ours could not be imported, if there is one."""
    if error.name in EXTRAS:
        raise _missing(error.name, module) from error


def _missing(package: str, what: str) -> MissingExtraError:
    extras = [extra for extra in EXTRAS[package] if extra in what] or EXTRAS[package]  # "train" is in "….training.…"
    commands = " or ".join(f'pip install "pixelllm-hf[{extra}]"' for extra in extras)
    return MissingExtraError(
        f"{what} needs {package}, which is not installed. Install it with: {commands}", name=package
    )


__all__ = ["EXTRAS", "MissingExtraError", "explain", "require"]
