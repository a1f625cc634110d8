"""A model by name, with random weights and without a network: `timm:resnet18`, `hf:bert`, `torchvision:vit_b_16`.

Each library is asked for its own list of names, so a wrong one is answered with the nearest that exist. Networks of
more than a billion parameters are built on the meta device: capture needs no weights, only the proofs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from elastify._adapters.saved import weightless
from elastify._errors import ElastifyError

LARGE = 1_000_000_000
"""Parameters above which only the shapes of a model are made."""

# What a pretrained checkpoint of a model type is mostly used for comes first.
_TASKS = (
    "SPEECH_SEQ_2_SEQ",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "CAUSAL_LM",
    "CTC",
    "OBJECT_DETECTION",
    "UNIVERSAL_SEGMENTATION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "IMAGE_TEXT_TO_TEXT",
    "AUDIO_CLASSIFICATION",
)


def build(library: str, name: str) -> nn.Module:
    """The model that a library knows under a name, in eval mode.

    >>> build("torchvision", "resnet18").fc
    Linear(in_features=512, out_features=1000, bias=True)
    """
    if library not in LIBRARIES:
        raise ElastifyError(f"{library!r} is not a known library", fix=f"use one of {', '.join(LIBRARIES)}")
    try:
        make = LIBRARIES[library](name)
    except ImportError as error:
        extra = "transformers" if library == "hf" else "timm"
        raise ElastifyError(
            f"{library}:{name} needs a package that is not installed",
            why=str(error),
            fix=f'pip install "elastify[{extra}]"',
        ) from error
    return _without_weights_if_large(make).eval()


def _without_weights_if_large(make: Callable[[], nn.Module]) -> nn.Module:
    try:
        with torch.device("meta"):
            shapes = make()
    except (RuntimeError, NotImplementedError, ValueError, TypeError):  # its constructor looks at values
        return make()
    return shapes if sum(p.numel() for p in shapes.parameters()) > LARGE else make()


def _timm(name: str) -> Callable[[], nn.Module]:
    import timm

    architecture = name.partition(".")[0]
    _check("timm", architecture, timm.list_models())
    return lambda: timm.create_model(architecture, pretrained=False)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    from torchvision import models

    _check("torchvision", name, models.list_models())
    return lambda: models.get_model(name, **weightless(name))


def _transformers(name: str) -> Callable[[], nn.Module]:
    """`name` is a model type (`bert`: its main task head) or a class (`BertForSequenceClassification`)."""
    import transformers
    from transformers.models.auto import modeling_auto

    tables: dict[str, dict[str, Any]] = {k: v for k, v in vars(modeling_auto).items() if k.endswith("_MAPPING_NAMES")}
    types = tables.pop("CONFIG_MAPPING_NAMES")
    if name in types:
        order = (*(f"MODEL_FOR_{task}_MAPPING_NAMES" for task in _TASKS), "MODEL_MAPPING_NAMES")
        entry = next((tables[table][name] for table in order if name in tables.get(table, ())), None)
        if entry is None:
            raise ElastifyError(
                f"hf:{name} is a configuration without a model", fix="name a class, such as hf:BertModel"
            )
        name = entry if isinstance(entry, str) else entry[0]
    else:
        classes = {c for table in tables.values() for e in table.values() for c in ((e,) if isinstance(e, str) else e)}
        names = {*types, *(c for c in classes if c)}
        if not hasattr(getattr(transformers, name, None), "config_class"):
            _check("hf", name, names)
    kind = getattr(transformers, name)
    return lambda: kind(kind.config_class())


def _check(library: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name in known:
        return
    stem = name.lower()
    inside = sorted((n for n in known if stem and stem in n.lower()), key=len)
    near = list(dict.fromkeys([*get_close_matches(name, known, 4, 0.6), *inside]))[:5]
    raise ElastifyError(
        f"{library} has no model called {name!r}",
        why=f"it knows {len(known)} names" + (f"; the nearest are {', '.join(near)}" if near else ""),
        fix=f"{library}:{near[0]}" if near else "see the library's own list of models",
    )


LIBRARIES: dict[str, Callable[[str], Callable[[], nn.Module]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _transformers,
}
