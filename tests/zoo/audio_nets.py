"""Networks of sound in the shapes that the field uses, small and written from their descriptions.

Waves are [batch, channels, samples] or [batch, samples]; a separator returns [batch, sources, …]. Spectra are complex
tensors inside forward: their real and imaginary parts are channels of the networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Spectrum(nn.Module):
    """There and back between waves [..., samples] and complex spectra [..., bins, frames]."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        flat = wave.reshape(-1, wave.shape[-1])
        out = torch.stft(flat, self.n_fft, self.hop, window=self.window, return_complex=True)
        return out.reshape(*wave.shape[:-1], *out.shape[-2:])

    def back(self, spectrum: Tensor, samples: int) -> Tensor:
        flat = spectrum.reshape(-1, *spectrum.shape[-2:])
        wave = torch.istft(flat, self.n_fft, self.hop, window=self.window, length=samples)
        return wave.reshape(*spectrum.shape[:-2], samples)


class BiLSTM(nn.Module):
    """Recurrence in both directions over [B, C, T], brought back to C channels."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=True)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)


class Demucs(nn.Module):
    """Strided convolutions with gated 1x1 ones, a recurrent middle, and a mirrored decoder fed by cropped skips."""

    def __init__(self, sources: int = 3, audio: int = 2, channels: int = 12, depth: int = 3) -> None:
        super().__init__()
        self.sources, self.audio = sources, audio
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        width = audio
        for index in range(depth):
            out = channels * 2**index
            encode = [nn.Conv1d(width, out, 8, 4), nn.ReLU(), nn.Conv1d(out, 2 * out, 1), nn.GLU(dim=1)]
            self.encoder.append(nn.Sequential(*encode))
            last = [nn.ReLU()] if index else []
            up = nn.ConvTranspose1d(out, width if index else sources * audio, 8, 4)
            self.decoder.insert(0, nn.Sequential(nn.Conv1d(out, 2 * out, 3, padding=1), nn.GLU(dim=1), up, *last))
            width = out
        self.middle = BiLSTM(width, 2)

    def forward(self, mix: Tensor) -> Tensor:
        mono = mix.mean(dim=1, keepdim=True)
        mean, std = mono.mean(dim=-1, keepdim=True), mono.std(dim=-1, keepdim=True)
        x, skips = (mix - mean) / (1e-5 + std), []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.middle(x)
        for decode in self.decoder:
            skip = skips.pop()
            x = decode(x + _crop(skip, x.shape[-1]))
        x = x * std + mean
        return x.view(x.size(0), self.sources, self.audio, x.size(-1))


def _crop(x: Tensor, length: int) -> Tensor:
    """The middle of the last dimension."""
    extra = x.shape[-1] - length
    return x[..., extra // 2 : x.shape[-1] - (extra - extra // 2)] if extra else x


class DilatedBranch(nn.Module):
    """A residual branch of two dilated and gated bottlenecks, each scaled per channel."""

    def __init__(self, channels: int, compress: int = 4) -> None:
        super().__init__()
        hidden = channels // compress
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, hidden, 3, dilation=2**d, padding=2**d),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
                nn.Conv1d(hidden, 2 * channels, 1),
                nn.GroupNorm(1, 2 * channels),
                nn.GLU(1),
                LayerScale(channels),
            )
            for d in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale[:, None] * x


class Step(nn.Module):
    """One encoder or decoder step over time [B, C, T], or over the bins of a spectrum [B, C, Fr, T]."""

    def __init__(self, channels: int, out: int, *, spectral: bool, up: bool, last: bool = False) -> None:
        super().__init__()
        self.spectral, self.up, self.last = spectral, up, last
        wide = channels if up else out
        kernel, stride, pad = ((8, 1), (4, 1), (2, 0)) if spectral else (8, 4, 2)
        plain, turned = (nn.Conv2d, nn.ConvTranspose2d) if spectral else (nn.Conv1d, nn.ConvTranspose1d)
        self.conv = (turned if up else plain)(channels, out, kernel, stride, pad)
        self.norm = nn.Identity() if last else nn.GroupNorm(3, out)
        self.rewrite = plain(wide, 2 * wide, 3 if up else 1, padding=1 if up else 0)
        self.branch = DilatedBranch(wide)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            y = self.dilated(F.glu(self.rewrite(x + skip), dim=1))
            y = self.conv(y)
            return y if self.last else F.gelu(self.norm(y))
        y = self.dilated(F.gelu(self.norm(self.conv(x))))
        return F.glu(self.rewrite(y), dim=1)

    def dilated(self, y: Tensor) -> Tensor:
        if not self.spectral:
            return self.branch(y)
        batch, channels, bins, frames = y.shape
        y = self.branch(y.permute(0, 2, 1, 3).reshape(-1, channels, frames))
        return y.view(batch, bins, channels, frames).permute(0, 2, 1, 3)


class HybridDemucs(nn.Module):
    """A spectral and a temporal U-net whose branches meet in the middle; complex spectra are channels."""

    def __init__(self, sources: int = 2, audio: int = 2, channels: int = 12, n_fft: int = 128) -> None:
        super().__init__()
        self.sources, self.audio, self.channels = sources, audio, channels
        self.spectrum = Spectrum(n_fft, n_fft // 4)
        inner = 2 * channels
        self.frequencies = nn.Embedding(n_fft // 8, channels)
        self.down = nn.ModuleList([Step(2 * audio, channels, spectral=True, up=False)])
        self.down.append(Step(channels, inner, spectral=True, up=False))
        self.time_down = nn.ModuleList([Step(audio, channels, spectral=False, up=False)])
        self.time_down.append(Step(channels, inner, spectral=False, up=False))
        self.middle = nn.ModuleList(BiLSTM(inner, 1) for _ in range(2))
        self.up = nn.ModuleList([Step(inner, channels, spectral=True, up=True)])
        self.up.append(Step(channels, 2 * audio * sources, spectral=True, up=True, last=True))
        self.time_up = nn.ModuleList([Step(inner, channels, spectral=False, up=True)])
        self.time_up.append(Step(channels, audio * sources, spectral=False, up=True, last=True))

    def forward(self, mix: Tensor) -> Tensor:
        spectrum = self.spectrum(mix)[..., :-1, :]
        parts = torch.view_as_real(spectrum).permute(0, 1, 4, 2, 3)
        z = parts.reshape(parts.shape[0], -1, *parts.shape[-2:])
        mean, std = z.mean(dim=(1, 2, 3), keepdim=True), z.std(dim=(1, 2, 3), keepdim=True)
        z, x = (z - mean) / (1e-5 + std), mix
        skips, time_skips = [], []
        for index, (down, time_down) in enumerate(zip(self.down, self.time_down, strict=True)):
            z, x = down(z), time_down(x)
            if index == 0:
                places = torch.arange(z.shape[-2], device=z.device)
                z = z + 0.2 * self.frequencies(places).t()[None, :, :, None].expand_as(z)
            skips.append(z)
            time_skips.append(x)
        pooled = z.mean(dim=2)
        h = x + F.interpolate(pooled, size=x.shape[-1])
        for layer in self.middle:
            h = h + layer(h)
        z = z + F.interpolate(h, size=z.shape[-1])[:, :, None]
        x = h
        for up, time_up in zip(self.up, self.time_up, strict=True):
            z, x = up(z, skips.pop()), time_up(x, time_skips.pop())
        batch, _, bins, frames = z.shape
        z = z.view(batch, self.sources, -1, bins, frames) * std[:, None] + mean[:, None]
        z = z.view(batch, self.sources, self.audio, 2, bins, frames).permute(0, 1, 2, 4, 5, 3)
        whole = F.pad(torch.view_as_complex(z.contiguous()), (0, 0, 0, 1))
        waves = self.spectrum.back(whole, mix.shape[-1])
        return waves + x.view(batch, self.sources, self.audio, -1)


class OpenUnmix(nn.Module):
    """Magnitudes, scaled and shifted per bin; three recurrent layers with a skip around them; a mask per bin."""

    def __init__(self, hidden: int = 48, audio: int = 2, n_fft: int = 128, bins: int = 40) -> None:
        super().__init__()
        self.spectrum = Spectrum(n_fft, n_fft // 4)
        self.output_bins, self.bins, self.hidden = n_fft // 2 + 1, bins, hidden
        self.fc1, self.bn1 = nn.Linear(bins * audio, hidden, bias=False), nn.BatchNorm1d(hidden)
        self.lstm = nn.LSTM(hidden, hidden // 2, num_layers=3, bidirectional=True, dropout=0.4)
        self.fc2, self.bn2 = nn.Linear(2 * hidden, hidden, bias=False), nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, self.output_bins * audio, bias=False)
        self.bn3 = nn.BatchNorm1d(self.output_bins * audio)
        self.input_mean, self.input_scale = nn.Parameter(torch.zeros(bins)), nn.Parameter(torch.ones(bins))
        self.output_scale = nn.Parameter(torch.ones(self.output_bins))
        self.output_mean = nn.Parameter(torch.ones(self.output_bins))

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = self.spectrum(wave)
        mix = spectrum.abs().permute(3, 0, 1, 2)
        frames, batch, audio = mix.shape[:3]
        x = (mix[..., : self.bins] + self.input_mean) * self.input_scale
        x = self.bn1(self.fc1(x.reshape(-1, audio * self.bins)))
        x = torch.tanh(x.reshape(frames, batch, self.hidden))
        x = torch.cat([x, self.lstm(x)[0]], -1)
        x = F.relu(self.bn2(self.fc2(x.reshape(-1, x.shape[-1]))))
        x = self.bn3(self.fc3(x)).reshape(frames, batch, audio, self.output_bins)
        mask = F.relu(x * self.output_scale + self.output_mean).permute(1, 2, 3, 0)
        return self.spectrum.back(mask * spectrum, wave.shape[-1])


class GlobalNorm(nn.Module):
    """Normalised over channels and time at once."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(1, channels, 1)), nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2), keepdim=True)
        var = ((x - mean) ** 2).mean(dim=(1, 2), keepdim=True)
        return self.gain * (x - mean) / (var + 1e-8).sqrt() + self.bias


class CumulativeNorm(nn.Module):
    """Normalised over channels and all the time so far."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(1, channels, 1)), nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        channels, frames = x.size(1), x.size(2)
        total, power = x.sum(1).cumsum(dim=1), x.pow(2).sum(1).cumsum(dim=1)
        count = torch.arange(1, frames + 1, dtype=x.dtype, device=x.device) * channels
        mean = total / count
        std = (power / count - mean.pow(2) + 1e-8).sqrt()
        return (x - mean.unsqueeze(1)) / std.unsqueeze(1) * self.gain + self.bias


class TemporalBlock(nn.Module):
    """A dilated depthwise convolution between two 1x1 ones; returns what is added to the path and to the mask."""

    def __init__(self, channels: int, hidden: int, skip: int, dilation: int, causal: bool) -> None:
        super().__init__()
        norm = CumulativeNorm if causal else GlobalNorm
        self.cut = 2 * dilation if causal else 0
        self.inner = nn.Sequential(nn.Conv1d(channels, hidden, 1), nn.PReLU(), norm(hidden))
        pad = 2 * dilation if causal else dilation
        self.depthwise = nn.Conv1d(hidden, hidden, 3, padding=pad, dilation=dilation, groups=hidden)
        self.after = nn.Sequential(nn.PReLU(), norm(hidden))
        self.residual, self.skip = nn.Conv1d(hidden, channels, 1), nn.Conv1d(hidden, skip, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.depthwise(self.inner(x))
        h = self.after(h[..., : -self.cut] if self.cut else h)
        return x + self.residual(h), self.skip(h)


class ConvTasNet(nn.Module):
    """A learned basis in place of a spectrum, masks from a stack of dilated blocks, a learned way back."""

    def __init__(
        self, sources: int = 2, basis: int = 32, width: int = 16, hidden: int = 24, causal: bool = False
    ) -> None:
        super().__init__()
        self.sources, self.basis = sources, basis
        self.encoder = nn.Conv1d(1, basis, 16, 8, bias=False)
        self.norm = CumulativeNorm(basis) if causal else GlobalNorm(basis)
        self.bottleneck = nn.Conv1d(basis, width, 1)
        self.blocks = nn.ModuleList(
            TemporalBlock(width, hidden, width + 4, 2**d, causal) for _ in range(2) for d in range(3)
        )
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(width + 4, sources * basis, 1), nn.Sigmoid())
        self.decoder = nn.ConvTranspose1d(basis, 1, 16, 8, bias=False)

    def forward(self, wave: Tensor) -> Tensor:
        codes = F.relu(self.encoder(wave.unsqueeze(1)))
        x, total = self.bottleneck(self.norm(codes)), 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        masks = self.mask(total).view(codes.shape[0], self.sources, self.basis, codes.shape[-1])
        masked = codes.unsqueeze(1) * masks
        out = self.decoder(masked.view(-1, self.basis, masked.shape[-1]))
        return out.view(codes.shape[0], self.sources, out.shape[-1])


class GridNorm(nn.Module):
    """Normalised over some dimensions of [B, C, T, F], with a gain and bias of their shape."""

    def __init__(self, shape: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.gamma, self.beta = nn.Parameter(torch.ones(*shape)), nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=self.dims, keepdim=True)
        std = torch.sqrt(x.var(dim=self.dims, unbiased=False, keepdim=True) + 1e-5)
        return (x - mean) / std * self.gamma + self.beta


class GridPath(nn.Module):
    """Windows of neighbouring bins (or frames) through a recurrent layer, and back by a transposed convolution."""

    def __init__(self, channels: int, hidden: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.norm = GridNorm((1, channels, 1, 1), (1,))
        self.rnn = nn.LSTM(channels * kernel, hidden, 1, batch_first=True, bidirectional=True)
        self.linear = nn.ConvTranspose1d(hidden * 2, channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, L, S]: along S, for each of L."""
        batch, channels, rows, steps = x.shape
        h = self.norm(x).transpose(1, 2).contiguous().view(batch * rows, channels, steps)
        h = F.unfold(h[..., None], (self.kernel, 1), stride=(self.stride, 1)).transpose(1, 2)
        h = self.linear(self.rnn(h)[0].transpose(1, 2))
        return x + h.view(batch, rows, channels, steps).transpose(1, 2)


class GridBlock(nn.Module):
    """Along frequency, along time, then attention between whole frames: [B, C, T, F] -> the same."""

    def __init__(self, channels: int, hidden: int, heads: int, inner: int, bins: int) -> None:
        super().__init__()
        self.heads = heads
        self.intra = GridPath(channels, hidden, 4, 1)
        self.inter = GridPath(channels, hidden, 4, 1)
        each = channels // heads

        def project(width: int, out: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(width, out, 1), nn.PReLU(), GridNorm((1, out, 1, bins), (1, 3)))

        self.queries = nn.ModuleList(project(channels, inner) for _ in range(heads))
        self.keys = nn.ModuleList(project(channels, inner) for _ in range(heads))
        self.values = nn.ModuleList(project(channels, each) for _ in range(heads))
        self.project = project(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.intra(x)
        x = self.inter(x.transpose(2, 3)).transpose(2, 3)
        q = torch.cat([part(x) for part in self.queries], dim=0).transpose(1, 2).flatten(start_dim=2)
        k = torch.cat([part(x) for part in self.keys], dim=0).transpose(1, 2).flatten(start_dim=2)
        v = torch.cat([part(x) for part in self.values], dim=0).transpose(1, 2)
        shape = v.shape
        weights = F.softmax(torch.matmul(q, k.transpose(1, 2)) / q.shape[-1] ** 0.5, dim=2)
        v = torch.matmul(weights, v.flatten(start_dim=2)).reshape(shape).transpose(1, 2)
        frames, bins = x.shape[2:]
        v = v.view(self.heads, x.shape[0], v.shape[1], frames, bins).transpose(0, 1)
        return x + self.project(v.reshape(x.shape[0], -1, frames, bins))


class TFGridNet(nn.Module):
    """Blocks on the grid of times and frequencies of a spectrum, whose parts are mapped to those of each source."""

    def __init__(self, sources: int = 2, channels: int = 16, hidden: int = 12, depth: int = 3, n_fft: int = 32) -> None:
        super().__init__()
        self.sources = sources
        self.spectrum = Spectrum(n_fft, n_fft // 2)
        self.conv = nn.Sequential(nn.Conv2d(2, channels, 3, padding=1), nn.GroupNorm(1, channels))
        self.blocks = nn.ModuleList(GridBlock(channels, hidden, 4, 6, n_fft // 2 + 1) for _ in range(depth))
        self.deconv = nn.ConvTranspose2d(channels, sources * 2, 3, padding=1)

    def forward(self, wave: Tensor) -> Tensor:
        scale = wave.std(dim=1, keepdim=True)
        spectrum = self.spectrum(wave / scale).transpose(1, 2)
        x = self.conv(torch.stack([spectrum.real, spectrum.imag], dim=1))
        for block in self.blocks:
            x = block(x)
        x = self.deconv(x)
        x = x.view(x.shape[0], self.sources, 2, *x.shape[2:])
        parts = torch.complex(x[:, :, 0], x[:, :, 1]).transpose(2, 3)
        return self.spectrum.back(parts, wave.shape[-1]) * scale.unsqueeze(1)


class RootNorm(nn.Module):
    """Vectors of length sqrt(dim), times a gain."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.scale * self.gamma


class Rotary(nn.Module):
    """Pairs of neighbouring features turned by the place."""

    freqs: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 10000 ** (-torch.arange(0, dim, 2).float() / dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)
        angles = (places[:, None] * self.freqs).repeat_interleave(2, dim=-1)
        pairs = x.unflatten(-1, (-1, 2))
        turned = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
        return x * angles.cos() + turned * angles.sin()


class GatedAttention(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int, rotary: Rotary) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norm = RootNorm(dim)
        self.to_qkv = nn.Linear(dim, heads * head_dim * 3, bias=False)
        self.to_gates = nn.Linear(dim, heads)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v)
        out = out * self.to_gates(x).sigmoid().transpose(1, 2).unsqueeze(-1)
        return self.to_out(out.transpose(1, 2).flatten(2))


class RoFormer(nn.Module):
    """Layers of attention and a feed-forward network, each with a residual path; normalised at the end."""

    def __init__(self, dim: int, depth: int, heads: int, head_dim: int, rotary: Rotary) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            feed = nn.Sequential(RootNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
            self.layers.append(nn.ModuleList([GatedAttention(dim, heads, head_dim, rotary), feed]))
        self.norm = RootNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        for attention, feed in self.layers:
            x = attention(x) + x
            x = feed(x) + x
        return self.norm(x)


class BandSplitRoFormer(nn.Module):
    """Bands of a spectrum as tokens; attention over time and over bands in turn; a complex mask per band."""

    def __init__(self, dim: int = 24, depth: int = 3, heads: int = 4, head_dim: int = 6, audio: int = 2) -> None:
        super().__init__()
        self.spectrum = Spectrum(64, 16)
        self.bands = (2, 2, 3, 4, 6, 16)
        self.widths = tuple(2 * audio * bins for bins in self.bands)
        self.split = nn.ModuleList(nn.Sequential(RootNorm(width), nn.Linear(width, dim)) for width in self.widths)
        time, band = Rotary(head_dim), Rotary(head_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([RoFormer(dim, 1, heads, head_dim, time), RoFormer(dim, 1, heads, head_dim, band)])
            for _ in range(depth)
        )
        self.norm = RootNorm(dim)
        self.masks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim, 2 * dim), nn.Tanh(), nn.Linear(2 * dim, 2 * dim), nn.Tanh(),
                nn.Linear(2 * dim, 2 * width), nn.GLU(dim=-1),
            )
            for width in self.widths
        )  # fmt: skip

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = self.spectrum(wave)
        batch, audio, bins, frames = spectrum.shape
        parts = torch.view_as_real(spectrum).permute(0, 3, 2, 1, 4).reshape(batch, frames, -1)
        bands = parts.split(self.widths, dim=-1)
        x = torch.stack([split(band) for split, band in zip(self.split, bands, strict=True)], dim=-2)
        for time, band in self.layers:
            shape = x.shape
            y = x.transpose(1, 2).reshape(-1, frames, shape[-1])
            x = time(y).view(batch, -1, frames, shape[-1]).transpose(1, 2)
            x = band(x.reshape(-1, *shape[-2:])).view(shape)
        x = self.norm(x)
        mask = torch.cat([estimate(part) for estimate, part in zip(self.masks, x.unbind(dim=-2), strict=True)], dim=-1)
        mask = torch.view_as_complex(mask.reshape(batch, frames, bins, audio, 2)).permute(0, 3, 2, 1)
        return self.spectrum.back(spectrum * mask, wave.shape[-1])


class FrequencyBlock(nn.Module):
    """Convolutions over time and frequency, then a bottleneck along the frequencies of each channel, added."""

    def __init__(self, channels: int, bins: int, layers: int = 2, shrink: int = 4) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
                for _ in range(layers)
            )
        )
        self.bottleneck = nn.Sequential(
            nn.Linear(bins, bins // shrink, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Linear(bins // shrink, bins, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)
        return x + self.bottleneck(x)


class MDXNet(nn.Module):
    """A U-net of such blocks over a complex spectrum as channels, with skips that multiply."""

    def __init__(self, audio: int = 2, channels: int = 12, growth: int = 6, levels: int = 2, n_fft: int = 128) -> None:
        super().__init__()
        self.spectrum = Spectrum(n_fft, n_fft // 4)
        width, bins = channels, n_fft // 2
        self.first = nn.Sequential(nn.Conv2d(2 * audio, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.encode, self.down = nn.ModuleList(), nn.ModuleList()
        self.decode, self.up = nn.ModuleList(), nn.ModuleList()
        for _ in range(levels):
            self.encode.append(FrequencyBlock(width, bins))
            self.decode.insert(0, FrequencyBlock(width, bins))
            wider = width + growth
            self.down.append(nn.Sequential(nn.Conv2d(width, wider, 2, 2), nn.BatchNorm2d(wider), nn.ReLU()))
            up = nn.Sequential(nn.ConvTranspose2d(wider, width, 2, 2), nn.BatchNorm2d(width), nn.ReLU())
            self.up.insert(0, up)
            width, bins = wider, bins // 2
        self.middle = FrequencyBlock(width, bins)
        self.last = nn.Conv2d(channels, 2 * audio, 1)

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = self.spectrum(wave)[..., :-1, :]
        batch, audio, bins, frames = spectrum.shape
        parts = torch.view_as_real(spectrum).permute(0, 1, 4, 3, 2)
        x, skips = self.first(parts.reshape(batch, audio * 2, frames, bins)), []
        for encode, down in zip(self.encode, self.down, strict=True):
            x = encode(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, decode in zip(self.up, self.decode, strict=True):
            x = decode(up(x) * skips.pop())
        x = self.last(x).reshape(batch, audio, 2, frames, bins).permute(0, 1, 4, 3, 2)
        whole = F.pad(torch.view_as_complex(x.contiguous()), (0, 0, 0, 1))
        return self.spectrum.back(whole, wave.shape[-1])
