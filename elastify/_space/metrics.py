"""Kinds of cost: a metric is a name, and a value for each row of sizes.

Those here are counted, never measured. A row of `METRICS` says what one counted call of the record adds (its products,
as layouts) and what an element of a stored tensor adds; `closed_form` sums that up for all configurations at once. A
new kind of cost is a row here and a field of `Cost`: budgets, studies, tables and the command take their names from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from elastify._analysis import MacTerm


@dataclass(frozen=True, slots=True)
class Metric:
    """What is added up. `title` stands above a column, `unit` behind a number.

    `of_call(products, output)` is what one call adds, given its multiplications and the size of its result;
    `of_element(dtype, is_parameter)` what each element of a parameter or buffer adds.
    """

    title: str
    unit: str
    of_call: Callable[[Sequence[MacTerm], MacTerm], Sequence[MacTerm]] = lambda products, output: ()
    of_element: Callable[[str, bool], int] = lambda dtype, is_parameter: 0


def itemsize(dtype: str) -> int:
    """Bytes of one element of a dtype, by its name.

    >>> itemsize("bfloat16"), itemsize("int64"), itemsize("bool")
    (2, 8, 1)
    """
    digits = dtype.removeprefix("torch.").split("_")[0]
    bits = int("".join(character for character in digits if character.isdigit()) or 8)
    return max(1, bits // 8)


METRICS: dict[str, Metric] = {
    "macs": Metric("MACs", " MACs", of_call=lambda products, output: products),
    "params": Metric("parameters", " parameters", of_element=lambda dtype, is_parameter: int(is_parameter)),
    "bytes": Metric("bytes", "B", of_element=lambda dtype, is_parameter: itemsize(dtype)),
    "activations": Metric("activations", " activations", of_call=lambda products, output: [output]),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost per sample: multiply-accumulates, parameters, bytes of parameters and buffers, and output elements of
    the counted ops. Integers for one configuration, int64 arrays for many."""

    macs: Any
    params: Any
    bytes: Any
    activations: Any

    def __repr__(self) -> str:
        if isinstance(self.macs, np.ndarray):
            return f"Cost({self.macs.size} configurations)"
        return f"Cost({', '.join(f'{human(n)}{METRICS[name].unit}' for name, n in self.items())})"

    def __getitem__(self, index: Any) -> Cost:
        """Row `index` of a cost of many configurations."""
        picked = (value[index] for _, value in self.items())
        return Cost(*(int(value) if np.ndim(value) == 0 else value for value in picked))

    def items(self) -> list[tuple[str, Any]]:
        """Names of the metrics with their values."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def human(number: float) -> str:
    """A count with three digits and k, M, G or T.

    >>> human(1254321098), human(512), human(2_500_000)
    ('1.25G', '512', '2.5M')
    """
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{unit}" if number < 999.5 * scale else f"{number / scale:.0f}{unit}"
    return f"{number:g}"
