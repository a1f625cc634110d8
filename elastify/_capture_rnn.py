"""Recurrent layers on fake tensors: shapes in one step.

Without numbers to compute, torch would unroll a GRU over every time step, in Python: seconds for a second of
audio. All that a fake run needs is the shapes of what comes out, and an error where those that go in disagree.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """Empty outputs of `torch.lstm(input, hx, weights, …)` and its kin; None for packed sequences."""
    if len(args) != 9 or not isinstance(args[2], (list, tuple)):
        return None
    data, state, weights, biases, layers, _, _, bidirectional, _ = args
    states = tuple(state) if op == "lstm" else (state,)
    hidden, cell = int(states[0].shape[-1]), int(states[-1].shape[-1])  # they differ where a projection follows
    directions = 2 if bidirectional else 1
    shapes: list[tuple[int, ...]] = []
    for layer in range(int(layers)):
        width = hidden * directions if layer else int(data.shape[-1])
        rows = GATES[op] * cell
        one = [(rows, width), (rows, hidden), *[(rows,)] * (2 if biases else 0), *[(hidden, cell)] * (hidden != cell)]
        shapes += one * directions
    given = [tuple(weight.shape) for weight in weights]
    if given != shapes:
        raise RuntimeError(f"{op} expects weights of the shapes {shapes}, but they have {given}")
    return data.new_empty((*data.shape[:-1], hidden * directions)), *(s.new_empty(s.shape) for s in states)
