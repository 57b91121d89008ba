"""Models, data sets and the demo on the Hub, and back from it. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    ".downloads": ("DamagedDownloadError", "verified_snapshot"),
    "errors": ("AccessError", "PublishError", "UploadError"),
    "model_card": ("render_model_card", "validate_card"),
    "repository": ("Publication", "publish_model", "publish_space", "push_dataset_folder", "push_model"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
