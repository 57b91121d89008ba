"""What transformers' `Trainer` reads from a model's class about its labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from types import MethodType
from typing import Any


class OneLabelArgument:
    """A `forward` that its class, not its instances, shows with `labels` as the only argument called a label.

    `Trainer` looks at `type(model).forward` for arguments with "label" in their name, and gives no `eval_loss` for a
    batch that lacks any of them. Of ours only `labels` are in every batch: others belong to points that are asked about
    or to what a head may be taught. Which columns of a data set are kept it asks the model itself, where all are shown.
    """

    def __init__(self, forward: Callable[..., Any]):
        self.forward = forward
        update_wrapper(self, forward)

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is not None:
            return MethodType(self.forward, model)

        def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
            return self.forward(model, *args, **kwargs)

        update_wrapper(forward, self.forward)
        whole = inspect.signature(self.forward)
        kept = [p for name, p in whole.parameters.items() if name == "labels" or "label" not in name]
        forward.__signature__ = whole.replace(parameters=kept)  # type: ignore[attr-defined]
        return forward


__all__ = ["OneLabelArgument"]
