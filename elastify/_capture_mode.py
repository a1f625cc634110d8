"""Who asks a module whether it is in training mode.

A run in training mode can only differ from one in evaluation mode from the first line on that reads `module.training`.
Layers of torch.nn read it, too, but whatever they do then (dropout, statistics of the batch) has the dimensions that it
has otherwise. Where nobody else reads it, the second run would tell nothing new, and it is left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_LAYERS = os.path.dirname(nn.modules.__file__) + os.sep


@contextmanager
def mode_readers(model: nn.Module) -> Iterator[set[str]]:
    """Files outside torch.nn in which `module.training` is read inside the block, by whatever thread.

    Meanwhile `training` is a property of nn.Module; the flags stay in the instances. A class that has a `training` of
    its own hides the property, so its name is among the answers from the start.
    """
    seen: set[str] = set()

    def read(module: nn.Module) -> bool:
        file = sys._getframe(1).f_code.co_filename
        if not file.startswith(_LAYERS):
            seen.add(file)
        try:
            return module.__dict__["training"]
        except KeyError:
            raise AttributeError("training") from None  # a scripted module, which answers itself

    def write(module: nn.Module, value: Any) -> None:
        module.__dict__["training"] = value

    seen.update(
        cls.__name__ for cls in {c for m in model.modules() for c in type(m).__mro__} if "training" in vars(cls)
    )
    nn.Module.training = property(read, write)  # type: ignore[assignment,method-assign]
    try:
        yield seen
    finally:
        del nn.Module.training
