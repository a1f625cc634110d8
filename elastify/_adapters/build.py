"""A model by name, with random weights and without a network: a prefix for its library, and the name that it has there.

Each library is asked for its own list of names, so a wrong one is answered with the nearest that exist. Networks of
more than a billion parameters are built on the meta device: capture needs no weights, only the proofs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

import torch
from torch import nn

from elastify._adapters.library import LIBRARIES, Library
from elastify._errors import ElastifyError

LARGE = 1_000_000_000
"""Parameters above which only the shapes of a model are made."""


def makers() -> dict[str, Library]:
    """The libraries that make models by name, by the prefix that the command knows them under."""
    return {library.prefix: library for library in LIBRARIES.values() if library.prefix}


def known() -> str:
    """Their packages, for messages."""
    return ", ".join(library.package for library in makers().values())


def build(prefix: str, name: str) -> nn.Module:
    """The model that a library knows under a name, in eval mode.

    >>> build("torchvision", "resnet18").fc
    Linear(in_features=512, out_features=1000, bias=True)
    """
    library = makers().get(prefix)
    if library is None:
        raise ElastifyError(f"{prefix!r} is not a known library", fix=f"use one of {', '.join(makers())}")
    try:
        make = library.maker(name)
    except ImportError as error:
        raise ElastifyError(
            f"{prefix}:{name} needs a package that is not installed",
            why=str(error),
            fix=f"pip install {library.package}",
        ) from error
    return _without_weights_if_large(make).eval()


def _without_weights_if_large(make: Callable[[], nn.Module]) -> nn.Module:
    try:
        with torch.device("meta"):
            shapes = make()
    except (RuntimeError, NotImplementedError, ValueError, TypeError):  # its constructor looks at values
        return make()
    return shapes if sum(p.numel() for p in shapes.parameters()) > LARGE else make()


def check_name(prefix: str, name: str, names: Iterable[str]) -> None:
    """Refuse a name that a library does not know, with the nearest that it does."""
    known = list(names)
    if name in known:
        return
    words = name.lower().rpartition("/")[2].replace("_", "-").split("-")  # of a checkpoint of the hub, too
    starts = ["-".join(words[:end]) for end in range(len(words), 0, -1)]
    own = [n for start in starts[1:] for n in known if n.lower().replace("_", "-") == start]
    stem = name.lower()
    inside = sorted(
        (n for n in known if stem and stem in n.lower()), key=lambda n: (not n.lower().startswith(stem), len(n))
    )
    near = list(dict.fromkeys([*own, *get_close_matches(name, known, 4, 0.6), *inside]))[:5]
    raise ElastifyError(
        f"{prefix} has no model called {name!r}",
        why=f"it knows {len(known)} names" + (f"; the nearest are {', '.join(near)}" if near else ""),
        fix=f"{prefix}:{near[0]}" if near else "see the library's own list of models",
    )
