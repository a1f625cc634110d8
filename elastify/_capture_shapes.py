"""Operations on fake tensors whose results are given by their shapes alone.

Without numbers to compute, torch would unroll a GRU over every time step, in Python: seconds for a second of
audio; and it refuses an inverse Fourier transform, which looks at its window for zeros. All that a fake run needs is
the shapes of what comes out, and an error where those that go in disagree. Views and products go to torch's kernels for
shapes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def by_shape(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Empty results of an operation of this table; None for others, and for forms that torch can run itself."""
    make = _MAKERS.get(op)
    return make(op, *args, **kwargs) if make is not None else None


def _recurrent(op: str, *args: Any) -> tuple[Tensor, ...] | None:
    """`torch.lstm(input, hx, weights, …)` and its kin; packed sequences are left to torch."""
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


def _istft(
    op: str,
    spectrum: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """`torch.istft`: [..., bins, frames] -> [..., samples]."""
    *lead, bins, frames = spectrum.shape
    if bins != (n_fft if onesided is False or return_complex else n_fft // 2 + 1):
        raise RuntimeError(f"istft with n_fft={n_fft} does not take {bins} bins")
    if window is not None and window.shape != (win_length or n_fft,):
        raise RuntimeError(f"istft expects a window of {win_length or n_fft}, not {list(window.shape)}")
    hop = n_fft // 4 if hop_length is None else hop_length
    samples = n_fft + hop * (frames - 1) - (2 * (n_fft // 2) if center else 0) if length is None else length
    return spectrum.new_empty(
        (*lead, int(samples)), dtype=spectrum.dtype if return_complex else spectrum.dtype.to_real()
    )


_MAKERS: dict[str, Callable[..., Any]] = {**dict.fromkeys(GATES, _recurrent), "istft": _istft}


_DIRECT = frozenset(
    """view reshape flatten unflatten permute transpose movedim T mT contiguous getitem select narrow split chunk unbind
    unsqueeze squeeze expand expand_as matmul bmm linear""".split()
)


def directly(op: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation on fake tensors from torch's own kernel for shapes; None where that has none.

    A fake tensor takes several times as long, because each operation goes through Python: to find its device, and
    strides that a kernel of that device might choose. For these operations both are known.
    """
    if op not in _DIRECT:
        return None
    found = [item for item in chain(args, kwargs.values()) if isinstance(item, Tensor)]
    inside = [item for arg in args if isinstance(arg, tuple) for item in arg if isinstance(item, Tensor)]
    if not found or any(type(tensor) is not FakeTensor for tensor in (*found, *inside)):
        return None
    try:
        return viewed(found[0], lambda _: func(*args, **kwargs))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None  # the long way says what is wrong


def viewed(tensor: Tensor, make: Callable[[Tensor], Any]) -> Any:
    """`make(tensor)`; of a fake tensor without the way through Python that each operation on it takes."""
    if type(tensor) is not FakeTensor:
        return make(tensor)
    mode, device = tensor.fake_mode, tensor.device
    with in_kernel_invocation_manager(mode):
        made = make(tensor)
    wrapped = [
        FakeTensor(mode, item, device) if isinstance(item, Tensor) and type(item) is not FakeTensor else item
        for item in (made if isinstance(made, (tuple, list)) else (made,))
    ]
    return type(made)(wrapped) if isinstance(made, (tuple, list)) else wrapped[0]
