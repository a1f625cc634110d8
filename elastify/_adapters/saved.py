"""How to build the full-size model that a saved folder came from, when the user does not hand it over.

`describe` notes, as plain data, which library model a full-size model is; `build_like` builds it again. Names from a
file are only ever looked up in the library's own registry, never imported.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def describe(model: Any) -> dict[str, Any] | None:
    """Plain data from which `build_like` can build a model of the same sizes; None for an unknown one."""
    package = type(model).__module__.partition(".")[0]
    if package == "timm":
        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
        classes = getattr(model, "num_classes", None)
        return {"kind": "timm", "name": name, "num_classes": classes} if name else None
    if package == "transformers" and hasattr(model, "config"):
        return {"kind": "transformers", "name": type(model).__name__, "config": _plain(model.config.to_dict())}
    if package == "torchvision":
        name = _torchvision_name(model)
        return {"kind": "torchvision", "name": name} if name else None
    return None


def build_like(spec: dict[str, Any]) -> nn.Module | None:
    """A full-size model after `describe`'s notes, weights arbitrary; None when they are missing or unknown."""
    source = spec.get("source")
    if not isinstance(source, dict):
        return None
    kind, name = source.get("kind"), source.get("name")
    if not isinstance(name, str):
        return None
    if kind == "timm":
        import timm

        options: dict[str, Any] = (
            {} if source.get("num_classes") is None else {"num_classes": int(source["num_classes"])}
        )
        return timm.create_model(name, pretrained=False, **options) if timm.is_model(name) else None
    if kind == "torchvision":
        from torchvision import models

        return models.get_model(name, **weightless(name)) if name in models.list_models() else None
    if kind == "transformers":
        return _transformers(name, source.get("config"))
    return None


def weightless(name: str) -> dict[str, Any]:
    """Options of a torchvision builder that keep it from slow initialisation and from downloading a backbone."""
    from torchvision import models

    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    return {"weights": None, **options}


def _plain(value: Any) -> Any:
    """JSON-able part of a configuration."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _transformers(name: str, config: Any) -> nn.Module | None:
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known = {
        entry
        for key, mapping in vars(modeling_auto).items()
        if key.endswith("_MAPPING_NAMES")
        for entries in mapping.values()
        for entry in ((entries,) if isinstance(entries, str) else entries)
    }
    if name not in known or not isinstance(config, dict) or config.get("model_type") not in CONFIG_MAPPING:
        return None
    made = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    return getattr(transformers, name)(made)


def _torchvision_name(model: nn.Module) -> str | None:
    """The builder that makes these very shapes."""
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
    return _builder(type(model).__module__, shapes)


@lru_cache(maxsize=32)
def _builder(home: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> str | None:
    """Builders of the module are tried without memory, which costs little; none of the models runs."""
    from torchvision import models

    for name in models.list_models(exclude="quantized_*"):
        if models.get_model_builder(name).__module__ == home:
            with _Shapes():
                made = models.get_model(name, **weightless(name))
            if tuple((key, tuple(tensor.shape)) for key, tensor in made.state_dict().items()) == shapes:
                return name
    return None


class _Shapes(TorchFunctionMode):
    """Weights are made on the meta device; numbers that a constructor computes with tensors are real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
