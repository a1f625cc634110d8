"""Recurrence: layers, cells in loops, states passed in and out, scans of state spaces, and signals in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .construct import Construct, Fn, param, through

X = (2, 5, 6)


def layer(kind: type[nn.RNNBase], out: int = 7, **options: Any) -> Callable[[], nn.Module]:
    return through(lambda m, x: m.rnn(x)[0], out=out, rnn=lambda: kind(12, 7, batch_first=True, **options))


def cells(make: Callable[[], nn.Module], *, pair: bool = False) -> Callable[[], nn.Module]:
    def run(m: Fn, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], m.cell.hidden_size)
        state: Any = (h, h) if pair else h
        seen = []
        for step in x.unbind(1):
            state = m.cell(step, state)
            seen.append(state[0] if pair else state)
        return torch.stack(seen, 1)

    return through(run, out=7, cell=make)


def passed(m: Fn, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The state comes from outside and goes back there: its size is interface."""
    y, h = m.rnn(torch.tanh(m.first(x)), h)
    return m.last(torch.relu(m.next(y))), h


def started(m: Fn, x: Tensor) -> Tensor:
    """The first state is a parameter."""
    h = m.start[:, None].expand(-1, x.shape[0], -1).contiguous()
    return m.rnn(x, h)[0]


def encoder_decoder(m: Fn, x: Tensor) -> Tensor:
    _, state = m.encoder(x)
    return m.decoder(x, state)[0]


def last_state(m: Fn, x: Tensor) -> Tensor:
    _, (h, _) = m.rnn(x)
    return torch.cat([h[-2], h[-1]], -1)


def packed(m: Fn, x: Tensor) -> Tensor:
    steps = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5] * x.shape[0]), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(m.rnn(steps)[0], batch_first=True)[0]


def two_paths(m: Fn, x: Tensor) -> Tensor:
    """Dual-path: over bands, then over time, each with a residual."""
    b, t, f, c = x.shape
    y = m.across(x.reshape(b * t, f, c))[0]
    x = x + m.back(y).view(b, t, f, c)
    y = m.along(x.permute(0, 2, 1, 3).reshape(b * f, t, c))[0]
    return x + m.forth(y).view(b, f, t, c).permute(0, 2, 1, 3)


class Scan(nn.Module):
    """A selective state space (Mamba), one step of a loop at a time."""

    def __init__(self, width: int = 12, inner: int = 10, states: int = 4, rank: int = 3) -> None:
        super().__init__()
        self.inner, self.states, self.rank = inner, states, rank
        self.enter, self.leave = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.select, self.step = nn.Linear(inner, rank + 2 * states, bias=False), nn.Linear(rank, inner)
        self.log_a, self.d = nn.Parameter(torch.rand(inner, states).log()), param(inner)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        x, z = self.enter(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :n].transpose(1, 2))
        dt, key, query = self.select(x).split([self.rank, self.states, self.states], -1)
        dt, a = F.softplus(self.step(dt)), -self.log_a.float().exp()
        decay = torch.exp(dt.unsqueeze(-1) * a)
        given = dt.unsqueeze(-1) * key.unsqueeze(2) * x.unsqueeze(-1)
        state, seen = x.new_zeros(b, self.inner, self.states), []
        for i in range(n):
            state = decay[:, i] * state + given[:, i]
            seen.append((state * query[:, i, None]).sum(-1))
        y = torch.stack(seen, 1) + x * self.d
        return self.leave(y * F.silu(z))


class Heads(nn.Module):
    """A state space with heads (Mamba-2): one decay per head, by cumulative sums over the steps."""

    def __init__(self, width: int = 12, heads: int = 3, dim: int = 4, states: int = 5) -> None:
        super().__init__()
        self.heads, self.dim, self.states = heads, dim, states
        self.enter = nn.Linear(width, heads * dim + 2 * states + heads)
        self.leave, self.a, self.bias = nn.Linear(heads * dim, width), param(heads), param(heads)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        x, key, query, dt = self.enter(x).split([self.heads * self.dim, self.states, self.states, self.heads], -1)
        x, dt = x.view(b, n, self.heads, self.dim), F.softplus(dt + self.bias)
        decay = (dt * -self.a.exp()).cumsum(1)
        weights = torch.exp(-(decay[:, :, None] - decay[:, None]).abs())
        scores = torch.einsum("bis,bjs->bij", query, key)[..., None] * weights * dt[:, None]
        return self.leave(torch.einsum("bijh,bjhd->bihd", scores, x).flatten(2))


def retention(m: Fn, x: Tensor) -> Tensor:
    """RWKV-like: every channel decays by itself, shifted by one step."""
    before = F.pad(x, (0, 0, 1, -1))
    x = x * m.mix + before * (1 - m.mix)
    key, value = m.key(x).exp(), m.value(x)
    total, norm, seen = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]), []
    for k, v in zip(key.unbind(1), value.unbind(1), strict=True):
        total, norm = total * m.decay.sigmoid() + k * v, norm * m.decay.sigmoid() + k
        seen.append(total / norm)
    return torch.stack(seen, 1)


def spectrum(m: Fn, x: Tensor) -> Tensor:
    """A mask on the spectrum: STFT, channels made of bins, complex product, inverse."""
    window = torch.hann_window(8)
    z = torch.stft(x, 8, 4, window=window, return_complex=True)
    parts = torch.view_as_real(z).permute(0, 3, 1, 2)
    mask = m.leave(torch.relu(m.enter(parts))).permute(0, 2, 3, 1).contiguous()
    return torch.istft(z * torch.view_as_complex(mask), 8, 4, window=window, length=x.shape[-1])


def bands(m: Fn, x: Tensor) -> Tensor:
    """Bins cut into bands, each with a layer of its own, to one width."""
    parts = x.split(m.widths, -1)
    return torch.stack([net(part) for net, part in zip(m.nets, parts, strict=True)], 1)


def band_net() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        return m.last(torch.relu(bands(m, x)).flatten(1))

    nets = nn.ModuleList(nn.Linear(n, 8) for n in (1, 2, 3))
    return Fn(forward, nets=nets, widths=(1, 2, 3), last=nn.Linear(24, 3))


def complex_net() -> nn.Module:
    """Complex weights and activations (a global filter)."""

    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.fft.rfft(torch.tanh(m.first(x)), dim=1) * m.filter
        return m.last(torch.relu(torch.fft.irfft(y, n=x.shape[1], dim=1)))

    made = torch.randn(3, 12, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    return Fn(forward, first=nn.Linear(6, 12), filter=nn.Parameter(made), last=nn.Linear(12, 3))


def complex_pairs_net() -> nn.Module:
    """The same with weights of real pairs."""

    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.fft.rfft(torch.tanh(m.first(x)), dim=1) * torch.view_as_complex(m.filter)
        return m.last(torch.relu(torch.fft.irfft(y, n=x.shape[1], dim=1)))

    return Fn(forward, first=nn.Linear(6, 12), filter=param(3, 12, 2), last=nn.Linear(12, 3))


def fft_channels(m: Fn, x: Tensor) -> Tensor:
    return torch.fft.fft(x, dim=-1).real


PATHS = {
    "across": lambda: nn.LSTM(12, 7, batch_first=True, bidirectional=True), "back": lambda: nn.Linear(14, 12),
    "along": lambda: nn.GRU(12, 7, batch_first=True), "forth": lambda: nn.Linear(7, 12),
}  # fmt: skip
INSIDE = {"first.weight[0]": "12", "rnn.weight_hh_l0[0]": "7", "rnn.weight_ih_l0[1]": "12", "next.weight[1]": "7"}

CONSTRUCTS = [
    Construct("LSTM", layer(nn.LSTM), X, INSIDE),
    Construct("GRU", layer(nn.GRU), X, INSIDE),
    Construct("RNN", layer(nn.RNN), X, INSIDE),
    Construct(
        "LSTM of two layers and directions",
        layer(nn.LSTM, 14, num_layers=2, bidirectional=True),
        X,
        {"rnn.weight_ih_l1[1]": "7", "next.weight[1]": "7"},
    ),
    Construct(
        "LSTM with projection",
        layer(nn.LSTM, 4, proj_size=4),
        X,
        {"rnn.weight_hr_l0[0]": "4", "rnn.weight_hr_l0[1]": "7"},
    ),
    Construct("packed sequences", through(packed, out=7, rnn=lambda: nn.LSTM(12, 7, batch_first=True)), X, INSIDE),
    Construct(
        "LSTM cell in a loop",
        cells(lambda: nn.LSTMCell(12, 7), pair=True),
        X,
        {"cell.weight_hh[0]": "7", "first.weight[0]": "12"},
    ),
    Construct("GRU cell in a loop", cells(lambda: nn.GRUCell(12, 7)), X, {"cell.weight_hh[0]": "7"}),
    Construct("RNN cell in a loop", cells(lambda: nn.RNNCell(12, 7)), X, {"cell.weight_hh[0]": "7"}),
    Construct(
        "states passed in and out",
        lambda: Fn(
            passed,
            first=nn.Linear(6, 12),
            rnn=nn.GRU(12, 7, batch_first=True),
            next=nn.Linear(7, 10),
            last=nn.Linear(10, 3),
        ),
        (X, (1, 2, 7)),
        {"first.weight[0]": "12", "next.weight[0]": "10"},
        {"rnn.weight_hh_l0[0]": "interface"},
    ),
    Construct(
        "a first state that is learned",
        through(started, out=7, rnn=lambda: nn.GRU(12, 7, batch_first=True), start=lambda: param(1, 7)),
        X,
        {"start[1]": "7", "rnn.weight_hh_l0[0]": "7"},
    ),
    Construct(
        "encoder and decoder",
        through(
            encoder_decoder,
            out=7,
            encoder=lambda: nn.LSTM(12, 7, batch_first=True),
            decoder=lambda: nn.LSTM(12, 7, batch_first=True),
        ),
        X,
        {"encoder.weight_hh_l0[0]": "7", "decoder.weight_hh_l0[0]": "7"},
    ),
    Construct(
        "last states of both directions",
        through(last_state, out=14, rnn=lambda: nn.LSTM(12, 7, batch_first=True, bidirectional=True)),
        X,
        {"next.weight[1]": "7"},
    ),
    Construct(
        "two paths",
        through(two_paths, **PATHS),
        (2, 4, 3, 6),
        {"first.weight[0]": "12", "across.weight_hh_l0[0]": "7", "along.weight_hh_l0[0]": "7"},
    ),
    Construct(
        "selective scan",
        through(lambda m, x: m.scan(x), scan=Scan),
        X,
        {
            "scan.enter.weight[0]": "10",
            "scan.log_a[0]": "10",
            "scan.log_a[1]": "4",
            "scan.select.weight[0]": "4, 3",
            "first.weight[0]": "12",
        },
    ),
    Construct(
        "state space with heads",
        through(lambda m, x: m.scan(x), scan=Heads),
        X,
        {"scan.a[0]": "3", "scan.leave.weight[1]": "3, 4"},
    ),
    Construct(
        "decay per channel",
        through(
            retention,
            mix=lambda: param(12),
            decay=lambda: param(12),
            key=lambda: nn.Linear(12, 12),
            value=lambda: nn.Linear(12, 12),
        ),
        X,
        {"decay[0]": "12", "first.weight[0]": "12"},
    ),
    Construct(
        "mask on a spectrum",
        lambda: Fn(spectrum, enter=nn.Conv2d(2, 8, 1), leave=nn.Conv2d(8, 2, 1)),
        (2, 32),
        {"enter.weight[0]": "8"},
        {"leave.weight[0]": "real and imaginary"},
    ),
    Construct("bands", band_net, (2, 6), {"nets.0.weight[0]": "8", "nets.2.weight[0]": "8"}, {"nets.2.weight[1]": ""}),
    Construct("complex filter", complex_net, X, {"first.weight[0]": "12", "filter[1]": "12"}, {"filter[0]": "Fourier"}),
    Construct(
        "complex filter of real pairs",
        complex_pairs_net,
        X,
        {"first.weight[0]": "12", "filter[1]": "12"},
        {"filter[2]": "real and imaginary"},
    ),
    Construct(
        "Fourier transform over channels",
        through(fft_channels),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "Fourier"},
    ),
]
