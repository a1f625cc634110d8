"""What an FX graph of a record asks when it runs: that its inputs, and the ways that forward chose, are those recorded.

A graph is one way through the Python code of `forward`. These functions stand in the graph as nodes, so that whatever
runs it (the module, an interpreter, a copy) is refused where the code might have gone another way.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import has_side_effect

from elastify._errors import ElastifyError

_AGAIN = "elastify.graph(model, example_inputs) with these inputs"
_QUESTIONS = {"truth": bool, "int": int, "index": int, "float": operator.pos}


@has_side_effect
def check_input(tensor: Tensor, name: str, shape: Sequence[int | None], dtype: torch.dtype) -> None:
    """Refuse an input of other sizes or another type than the recorded one; a size that is None may be any."""
    given = tensor.shape if isinstance(tensor, Tensor) else None
    fits = given is not None and len(given) == len(shape)
    if not fits or any(want not in (None, have) for want, have in zip(shape, given or (), strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ElastifyError(
            f"this graph was recorded with other sizes of {name}",
            where=name,
            why=f"it takes [{wanted}], it was given {list(given) if given is not None else type(tensor).__name__}",
            fix=_AGAIN,
        )
    if tensor.dtype != dtype:
        raise ElastifyError(
            f"this graph was recorded with another type of {name}",
            where=name,
            why=f"it takes {dtype}, it was given {tensor.dtype}",
            fix=_AGAIN,
        )


@has_side_effect
def check_same(one: Any, other: Any, name: str) -> None:
    """Refuse two tensors where one was given twice when the graph was recorded."""
    if one is not other:
        raise ElastifyError(
            f"this graph was recorded with one tensor given twice, as {name} too", where=name, fix=_AGAIN
        )


@has_side_effect
def check_value(given: Any, name: str, recorded: Any) -> None:
    """Refuse another value of an argument that is no tensor."""
    if type(given) is not type(recorded) or given != recorded:
        raise ElastifyError(
            f"this graph was recorded with {name}={recorded!r}", where=name, why=f"it was given {given!r}", fix=_AGAIN
        )


@has_side_effect
def check_way(question: str, sizes: Sequence[int], answer: bool | int, source: str) -> None:
    """Refuse sizes of which `forward` would go another way: it compared them, and got `answer` when it was recorded."""
    ask: Any = _QUESTIONS.get(question) or getattr(operator, question)
    if ask(*sizes) != answer:
        raise ElastifyError(
            "forward goes another way at these sizes than in the recorded run",
            where=source,
            why=f"{question}{tuple(sizes)} was {answer}",
            fix=_AGAIN,
        )


@has_side_effect
def cannot_run(why: str) -> None:
    """Refuse to run at all."""
    raise ElastifyError(
        "this graph can be read, but not run", why=why, fix="run the model itself; print(graph) and meta tell the rest"
    )
