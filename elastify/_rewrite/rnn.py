"""Recurrent modules keep a second list of their weights, `_flat_weights`, that forward passes on.

In a subnet that list must hold slices, made anew for each forward so that no autograd graph outlives it; in the full
configuration everything is as torch has it. What is stored in the instance is always the full tensors.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def rnn_members(base: Any) -> dict[str, Any]:
    """`_flat_weights` as a property, and the two methods that would fight it."""

    def get(self: Any) -> Any:
        if _as_stored(self) or "_elastify_checking" in self.__dict__:
            return self.__dict__["_flat_weights"]
        return [getattr(self, name, None) for name in self._flat_weights_names]

    def put(self: Any, weights: Any) -> None:
        if not _as_stored(self):
            weights = [self._parameters.get(name) for name in self._flat_weights_names]
        self.__dict__["_flat_weights"] = weights

    def _update_flat_weights(self: Any) -> None:
        if _as_stored(self):
            base._update_flat_weights(self)

    def check_input(self: Any, *args: Any, **kwargs: Any) -> None:
        self.__dict__["_elastify_checking"] = True  # it reads only the dtype: no need to slice
        try:
            base.check_input(self, *args, **kwargs)
        finally:
            del self.__dict__["_elastify_checking"]

    return {
        "_flat_weights": property(get, put),
        "_update_flat_weights": _update_flat_weights,
        "check_input": check_input,
    }


def _as_stored(module: nn.Module) -> bool:
    """Whether the module computes with its weights as they are stored (also before it has its elastic state)."""
    elastic = module.__dict__.get("_elastify")
    return elastic is None or (elastic.active is None and not elastic.transforms)
