"""Operations on fake tensors whose results are given by their shapes alone.

Without numbers to compute, torch would unroll a GRU over every time step, in Python: seconds for a second of
audio; and it refuses an inverse Fourier transform, which looks at its window for zeros. All that a fake run needs is
the shapes of what comes out, and an error where those that go in disagree. The most frequent operations take a short
way for the sake of time: views and products go to torch's kernels for shapes at once, norms give what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

from elastify._analysis import names, operation
from elastify._capture.op_names import OpName

_states: dict[torch.device, tuple[torch.device, dict[str, Any]]] = {}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


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


def _batch_norm(op: str, data: Tensor, *given: Any, **named: Any) -> Tensor | None:
    """`torch.batch_norm(input, weight, bias, mean, variance, …)`: [batch, channels, …] as it was."""
    if named:
        return None
    vectors = [v for v in given[:4] if isinstance(v, Tensor)]
    if any(v.shape != data.shape[1:2] for v in vectors):
        raise RuntimeError(f"batch_norm of {data.shape[1]} channels has vectors of {[v.shape[0] for v in vectors]}")
    return _like(data) if all(v.dtype == data.dtype for v in vectors) else None


def _layer_norm(op: str, data: Tensor, shape: Any = (), *given: Any, **named: Any) -> Tensor | None:
    """`torch.layer_norm(input, normalized_shape, weight, bias, …)`: as it was."""
    vectors = [v for v in (*given[:2], *named.values()) if isinstance(v, Tensor)]
    kept = tuple(data.shape[data.ndim - len(shape) :])
    fits = kept == tuple(map(int, shape)) and all(tuple(v.shape) == kept and v.dtype == data.dtype for v in vectors)
    return _like(data) if fits else None


def _cat(op: str, parts: Any, dim: Any = 0, **other: Any) -> Tensor | None:
    """`torch.cat(tensors, dim)` of tensors of one type whose other sizes agree, each without gaps."""
    if other or not isinstance(parts, (tuple, list)) or not isinstance(dim, int):
        return None
    first = parts[0]
    if any(type(p) is not FakeTensor or p.ndim != first.ndim or p.dtype != first.dtype for p in parts):
        return None
    if not -first.ndim <= dim < first.ndim:
        return None  # torch says what is wrong
    place = int(dim) % first.ndim
    rest = {(*p.shape[:place], *p.shape[place + 1 :]) for p in parts}
    if len(rest) > 1 or not all(p.is_contiguous() and p.device == first.device for p in parts):
        return None
    total = sum(p.shape[place] for p in parts)
    return blank(first, (*first.shape[:place], total, *first.shape[place + 1 :]))


def _linear(op: str, data: Tensor, weight: Any, bias: Any = None, **other: Any) -> Tensor | None:
    """`torch.nn.functional.linear(input, weight, bias)`: [..., in] -> [..., out]."""
    vectors = [weight] if bias is None else [weight, bias]
    if other or any(type(v) is not FakeTensor or v.dtype != data.dtype or v.device != data.device for v in vectors):
        return None
    fits = data.ndim > 1 and weight.ndim == 2 and data.shape[-1] == weight.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        return None  # torch says what is wrong
    return blank(data, (*data.shape[:-1], weight.shape[0]))


def _conv(
    op: str,
    data: Tensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """`torch.conv2d(input, weight, bias, …)` and its kin: [batch, in, …] -> [batch, out, …], without gaps."""
    given = [data, weight] if bias is None else [data, weight, bias]
    if any(type(t) is not FakeTensor or t.dtype != data.dtype or t.device != data.device for t in given):
        return None
    if isinstance(padding, str) or data.ndim != weight.ndim or not (data.is_contiguous() and weight.is_contiguous()):
        return None
    (batch, channels, *sizes), (out, inside, *kernel) = data.shape, weight.shape
    if channels != inside * groups or out % groups or (bias is not None and tuple(bias.shape) != (out,)):
        return None  # torch says what is wrong
    each = (option if isinstance(option, (tuple, list)) else (option,) for option in (stride, padding, dilation))
    steps, margins, gaps = (tuple(option) * (len(sizes) if len(option) == 1 else 1) for option in each)
    if min(steps) < 1:
        return None
    ends = [
        (size + 2 * margin - gap * (width - 1) - 1) // step + 1
        for size, margin, gap, width, step in zip(sizes, margins, gaps, kernel, steps, strict=True)
    ]
    return blank(data, (batch, out, *map(int, ends))) if min(ends) > 0 else None


def _unary(op: str, data: Tensor, *other: Any, **named: Any) -> Tensor | None:
    """A function of each number by itself; one that is to write into a tensor there is, is left to torch."""
    return None if other or named.get("inplace") or "out" in named else _like(data)


def _binary(op: str, one: Tensor, other: Any = None, *more: Any, **named: Any) -> Tensor | None:
    """Arithmetic with a number, or of two tensors of one type of which one is stretched to the shape of the other."""
    if more or named or type(one) is not FakeTensor:
        return None
    if type(other) is FakeTensor:
        data, small = (one, other) if one.ndim >= other.ndim and one.numel() >= other.numel() else (other, one)
        if small.dtype != data.dtype or small.device != data.device or not small.is_contiguous():
            return None
        end = data.shape[data.ndim - small.ndim :] if data.ndim >= small.ndim else ()
        if len(end) < small.ndim or not all(n in (1, size) for size, n in zip(end, small.shape, strict=True)):
            return None  # both are stretched, or torch says what is wrong
        return _like(data)
    return _like(one) if isinstance(other, (int, float)) else None


def _like(data: Tensor) -> Tensor | None:
    """An empty tensor of the same kind; None where the kernel would change the type or the order in memory."""
    return blank(data, data.shape) if data.is_contiguous() and data.is_floating_point() else None


def blank(data: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty tensor without gaps, of the type and on the device of another."""
    with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
        empty = torch.empty(shape, dtype=data.dtype, device="meta")
    return fake_tensor(data.fake_mode, empty, data.fake_device)  # type: ignore[attr-defined]


def fake_tensor(mode: FakeTensorMode, empty: Tensor, device: torch.device) -> Tensor:
    """`FakeTensor(mode, empty, device)`, whose state is worked out once per device: that is most of its time."""
    known = _states.get(device)
    if known is None:
        first = FakeTensor(mode, empty, device)
        state = {name: value for name, value in vars(first).items() if value is not mode}
        _states[device] = first.fake_device, state
        return first
    where, state = known
    made = Tensor._make_subclass(  # type: ignore[attr-defined]
        FakeTensor, empty, empty.requires_grad, dispatch_device=True, device_for_backend_keys=where
    )
    if not mode._allow_unsafe_data_ptr_access:
        torch._C._set_throw_on_mutable_data_ptr(made)
    vars(made).update(state, fake_mode=mode)
    return made


_Make = Callable[..., Any]
_NEEDED: dict[str, _Make] = {**dict.fromkeys(GATES, _recurrent), "istft": _istft}
# Which have a short way, for the sake of time: facts about torch's kernels, not about the operations.
_QUICK: dict[str, _Make] = {
    **dict.fromkeys(names(lambda op: op.unary), _unary),
    **dict.fromkeys("add sub mul div".split(), _binary),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "cat": _cat,
    "linear": _linear,
    **dict.fromkeys("conv1d conv2d conv3d".split(), _conv),
}
_DIRECT = frozenset("matmul bmm max_pool2d softmax embedding".split())


def is_view(op: str) -> bool:
    """Whether a result may share its memory with the first tensor."""
    return bool(operation(op).view) or op == "contiguous"


def result(name: OpName, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`func(*args, **kwargs)` on fake tensors, the shortest way."""
    first = args[0] if args else None
    if isinstance(first, (tuple, list)) and first:
        first = first[0]
    out = None
    if type(first) is FakeTensor and not name.inplace:
        if name.op in _NEEDED:
            out = _NEEDED[name.op](name.op, *args, **kwargs)
        elif first.constant is None and by_shape_alone():  # torch computes with numbers that are known
            if name.op in _QUICK:
                out = _QUICK[name.op](name.op, *args, **kwargs)
            elif name.op in _DIRECT or is_view(name.op):
                out = _directly(func, args, kwargs)
    return func(*args, **kwargs) if out is None else out


def by_shape_alone() -> bool:
    """Whether nothing but shapes and types goes into a result: no autocast chooses types, no gradient is wanted."""
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))


def _directly(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation on fake tensors from torch's own kernel for shapes; None where that has none.

    A fake tensor takes several times as long, because each operation goes through Python: to find its device, and
    strides that a kernel of that device might choose. For these operations both are known.
    """
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
        fake_tensor(mode, item, device) if isinstance(item, Tensor) and type(item) is not FakeTensor else item
        for item in (made if isinstance(made, (tuple, list)) else (made,))
    ]
    return type(made)(wrapped) if isinstance(made, (tuple, list)) else wrapped[0]
