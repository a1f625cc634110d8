"""timm: the pretrained configuration says the input size; the model itself may have been built for another.

Models describe themselves by numbers: how wide the classifier's input is, how many channels each of the features has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elastify._adapters.build import check_name
from elastify._adapters.library import Inputs, Library
from elastify._adapters.noise import noise
from elastify._ir import Attr


class Timm(Library, package="timm"):
    prefix = "timm"

    def inputs(self, model: nn.Module) -> Inputs | None:
        config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
        if not isinstance(config, dict) or len(config.get("input_size") or ()) != 3:
            return None
        channels, *size = (int(n) for n in config["input_size"])
        built = getattr(getattr(model, "patch_embed", None), "img_size", None)
        if isinstance(built, (tuple, list)) and len(built) == 2:
            size = [int(n) for n in built]
        first = config.get("first_conv") or ""
        stem = dict(model.named_modules()).get(first if isinstance(first, str) else first[0])
        told = getattr(model, "in_chans", None)  # a stem may see pixels already folded into channels
        channels = told if isinstance(told, int) else int(getattr(stem, "in_channels", channels))
        return (noise(2, channels, *size),), {}

    def attention_by_hand(self, module: nn.Module) -> Iterable[tuple[Any, str, Any]]:
        """Every attention has a flag of its own."""
        return [(module, "fused_attn", False)] if vars(module).get("fused_attn") is True else ()

    def sums(self, model: Any) -> dict[Attr, tuple[str, ...]]:
        """How wide the input of the classifier is."""
        found = model.get_classifier() if hasattr(model, "get_classifier") else None
        found = found[0] if isinstance(found, tuple) else found  # one for each head, of the same input
        paths = {id(module): path for path, module in model.named_modules()}
        inside = found.modules() if isinstance(found, nn.Module) else ()
        parts = [module for module in inside if isinstance(module, (nn.Linear, nn.Conv2d))]
        weights = tuple(f"{paths[id(part)]}.weight" for part in parts if id(part) in paths)
        return {Attr("", name): weights for name in ("num_features", "head_hidden_size") if weights}

    def measurable(self, model: nn.Module) -> dict[Attr, int]:
        """How many channels the features of a model have."""
        info = getattr(model, "feature_info", None)
        entries = info if isinstance(info, list) and hasattr(model, "forward_intermediates") else []
        return {
            Attr("", "feature_info", (i, "num_chs")): entry["num_chs"]
            for i, entry in enumerate(entries)
            if isinstance(entry, dict) and isinstance(entry.get("num_chs"), int)
        }

    def measured(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Attr, int]:
        """As the features themselves have it."""
        try:
            with torch.no_grad():
                found = model.forward_intermediates(*args, **kwargs, intermediates_only=True)
        except (RuntimeError, AssertionError, ValueError, TypeError, LookupError, AttributeError):
            return {}
        told = self.measurable(model)
        pairs = zip(told, found, strict=True) if len(told) == len(found) else ()
        return {attr: int(feature.shape[1]) for attr, feature in pairs if isinstance(feature, Tensor)}

    def maker(self, name: str) -> Callable[[], nn.Module]:
        import timm

        architecture = name.partition(".")[0]
        check_name(self.prefix, architecture, timm.list_models())
        return lambda: timm.create_model(architecture, pretrained=False)

    def notes(self, model: nn.Module) -> dict[str, Any] | None:
        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
        return {"name": name, "num_classes": getattr(model, "num_classes", None)} if name else None

    def build_like(self, name: str, notes: Mapping[str, Any]) -> nn.Module | None:
        import timm

        classes = notes.get("num_classes")
        options: dict[str, Any] = {} if classes is None else {"num_classes": int(classes)}
        return timm.create_model(name, pretrained=False, **options) if timm.is_model(name) else None
