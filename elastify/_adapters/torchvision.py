"""torchvision: image networks at 224 pixels unless they were built for another size; clips for video networks, lists
of pictures for detectors.

A network does not know by which name it was made: it is the one whose builder makes the same shapes. Its own operators,
known to torch by qualified names, have rules like all others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import nn

from elastify._adapters.build import check_name
from elastify._adapters.library import Inputs, Library
from elastify._adapters.noise import noise
from elastify._adapters.weightless import Weightless


class TorchVision(Library, package="torchvision"):
    prefix = "torchvision"
    operators = frozenset({"nms", "roi_align", "roi_pool"})

    def inputs(self, model: nn.Module) -> Inputs | None:
        home = next(cls.__module__ for cls in type(model).__mro__ if cls.__module__.startswith("torchvision."))
        if not home.startswith("torchvision.models."):
            return None
        if ".detection" in home:  # what is not a detector there is one of its parts
            resize: Any = getattr(model, "transform", None)
            if resize is None:
                return None
            size = int(resize.min_size[-1])
            return ([noise(3, size, size), noise(3, size, size)],), {}
        if ".optical_flow" in home:
            return (noise(2, 3, 128, 128), noise(2, 3, 128, 128)), {}
        stem = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
        channels = stem.in_channels if stem is not None else 3
        if isinstance(stem, nn.Conv3d):
            position = getattr(model, "pos_encoding", None)
            frames = getattr(position, "temporal_size", 8) * stem.stride[0]
            space = getattr(position, "spatial_size", None)
            size = [n * s for n, s in zip(space, stem.stride[1:], strict=True)] if space else [112, 112]
            return (noise(2, channels, max(frames, 16), *size),), {}
        side = getattr(model, "image_size", 299 if home.endswith(".inception") else 224)
        return (noise(2, channels, int(side), int(side)),), {}

    def maker(self, name: str) -> Callable[[], nn.Module]:
        from torchvision import models

        check_name(self.prefix, name, models.list_models())
        return lambda: _make(name)

    def notes(self, model: nn.Module) -> dict[str, Any] | None:
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
        name = _builder(type(model).__module__, shapes)
        return {"name": name} if name else None

    def build_like(self, name: str, notes: Mapping[str, Any]) -> nn.Module | None:
        from torchvision import models

        return _make(name) if name in models.list_models() else None


def _make(name: str) -> nn.Module:
    """A model without weights, and without slow initialisation or downloading a backbone."""
    from torchvision import models

    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    return models.get_model(name, weights=None, **options)


@lru_cache(maxsize=32)
def _builder(home: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> str | None:
    """Builders of the module are tried without memory, which costs little; none of the models runs."""
    from torchvision import models

    for name in models.list_models(exclude="quantized_*"):
        if models.get_model_builder(name).__module__ == home:
            with Weightless(1_000_000):
                made = _make(name)
            if tuple((key, tuple(tensor.shape)) for key, tensor in made.state_dict().items()) == shapes:
                return name
    return None
