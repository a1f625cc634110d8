"""Attention in all its spellings: how queries, keys and values are cut, shared, mixed and scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .construct import Construct, Fn, param, through

X = (2, 5, 6)
HEADS = "heads 4, head_dim 6"
FUSED = {"qkv.weight[0]": HEADS, "proj.weight[1]": HEADS, "stem.weight[0]": "12"}
SPLIT = {"q.weight[0]": HEADS, "k.weight[0]": HEADS, "v.weight[0]": HEADS, "proj.weight[1]": HEADS}


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[b, heads, n, d] each -> [b, n, heads * d]."""
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def fused(cut: Callable[..., Any], **numbers: Any) -> Callable[[], nn.Module]:
    """One matrix makes queries, keys and values; `cut(net, qkv)` takes them apart."""

    def forward(m: Fn, x: Tensor) -> Tensor:
        return m.proj(attend(*cut(m, m.qkv(torch.tanh(m.stem(x))))))

    def make() -> nn.Module:
        parts = {"stem": nn.Linear(6, 12), "qkv": nn.Linear(12, 72), "proj": nn.Linear(24, 3)}
        return Fn(forward, **{"heads": 4, "head_dim": 6, **numbers}, **parts)

    return make


def heads(m: Fn, x: Tensor) -> Tensor:
    return x.unflatten(-1, (m.heads, -1)).transpose(1, 2)


def by_reshape(m: Fn, qkv: Tensor) -> Any:
    b, n, _ = qkv.shape
    return qkv.reshape(b, n, 3, m.heads, m.head_dim).permute(2, 0, 3, 1, 4).unbind(0)


def by_view_and_index(m: Fn, qkv: Tensor) -> Any:
    b, n, c = qkv.shape
    qkv = qkv.view(b, n, 3, m.heads, c // m.heads // 3).permute(2, 0, 3, 1, 4)
    return qkv[0], qkv[1], qkv[2]


def by_select(m: Fn, qkv: Tensor) -> Any:
    b, n, _ = qkv.shape
    qkv = qkv.view(b, n, 3, m.heads, -1)
    return (qkv.select(2, i).transpose(1, 2) for i in range(3))


def by_chunk(m: Fn, qkv: Tensor) -> Any:
    return (heads(m, x) for x in qkv.chunk(3, -1))


def by_split(m: Fn, qkv: Tensor) -> Any:
    return (heads(m, x) for x in qkv.split(m.heads * m.head_dim, -1))


def by_split_of_width(m: Fn, qkv: Tensor) -> Any:
    return (heads(m, x) for x in qkv.split(m.width, dim=2))


def by_slices(m: Fn, qkv: Tensor) -> Any:
    c = m.heads * m.head_dim
    return heads(m, qkv[..., :c]), heads(m, qkv[..., c : 2 * c]), heads(m, qkv[..., 2 * c :])


def by_interleaving(m: Fn, qkv: Tensor) -> Any:
    b, n, _ = qkv.shape
    return qkv.view(b, n, m.heads, 3 * m.head_dim).transpose(1, 2).chunk(3, -1)


def by_interleaved_parts(m: Fn, qkv: Tensor) -> Any:
    b, n, _ = qkv.shape
    return qkv.view(b, n, m.heads, 3, m.head_dim).transpose(1, 2).unbind(3)


def by_innermost_triples(m: Fn, qkv: Tensor) -> Any:
    b, n, _ = qkv.shape
    return qkv.view(b, n, m.heads, m.head_dim, 3).transpose(1, 2).unbind(-1)


def by_swapped_order(m: Fn, qkv: Tensor) -> Any:
    """Head dimension outside, heads inside."""
    b, n, _ = qkv.shape
    return qkv.view(b, n, 3, m.head_dim, m.heads).permute(2, 0, 4, 1, 3).unbind(0)


class Separate(nn.Module):
    """Separate matrices; keys and values may have fewer heads; `change` sees all three as [b, heads, n, d]."""

    def __init__(self, kv: int = 4, *, change: Callable[..., Any] | None = None, **parts: Any) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.change = 4, kv, 6, [change]
        self.q, self.k, self.v = nn.Linear(6, 24), nn.Linear(6, kv * 6), nn.Linear(6, kv * 6)
        self.proj = nn.Linear(24, 3)
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def cut(self, x: Tensor, number: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], number, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.cut(self.q(x), self.heads),
            self.cut(self.k(x), self.kv_heads),
            self.cut(self.v(x), self.kv_heads),
        )
        change = self.change[0]
        return self.proj(change(self, q, k, v) if change else attend(q, k, v))


def repeated(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    times = m.heads // m.kv_heads
    return attend(q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1))


def expanded(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, d = k.shape
    k, v = (x[:, :, None].expand(b, h, m.groups, n, d).reshape(b, h * m.groups, n, d) for x in (k, v))
    return attend(q, k, v)


def folded(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries of one group are further places of its key."""
    b, h, n, d = q.shape
    q = q.reshape(b, m.kv_heads, h // m.kv_heads, n, d)
    weights = torch.einsum("bkgnd,bkmd->bkgnm", q, k).softmax(-1)
    out = torch.einsum("bkgnm,bkmd->bkgnd", weights, v)
    return out.reshape(b, h, n, d).transpose(1, 2).reshape(b, n, h * d)


def grouped_kernel(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


def single(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head of keys and values for all queries, by broadcasting."""
    return attend(q, k, v)


def talking(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores = m.before(scores.permute(0, 2, 3, 1)).softmax(-2)
    scores = m.after(scores).permute(0, 3, 1, 2)
    return (scores @ v).transpose(1, 2).flatten(2)


def talking_convs(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (m.after(m.before(q @ k.transpose(-2, -1)).softmax(-1)) @ v).transpose(1, 2).flatten(2)


def scaled(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Cosine attention with a learned temperature per head."""
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * m.temperature.exp()
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def normed(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(m.q_norm(q), m.k_norm(k), v)


def head_scales(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    x = (q @ k.transpose(-2, -1)).softmax(-1) @ v
    return torch.einsum("bhnd,h->bnhd", x, m.head_scale).flatten(2)


def channels(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """C x C inside every head: head_dim attends to head_dim."""
    weights = (F.normalize(q, dim=-2).transpose(-2, -1) @ F.normalize(k, dim=-2) * m.temperature).softmax(-1)
    return (v @ weights.transpose(-2, -1)).transpose(1, 2).flatten(2)


def linear(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = q.softmax(-1), k.softmax(-2)
    return (q @ (k.transpose(-2, -1) @ v)).transpose(1, 2).flatten(2)


def lepe(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A depthwise convolution over all channels of the values."""
    flat = v.transpose(-2, -1).flatten(1, 2)
    return attend(q, k, v) + m.local(flat).transpose(1, 2)


def lepe_per_head(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A depthwise convolution on head_dim, the same for all heads, and pooled keys."""
    b, h, n, d = v.shape
    local = m.local(v.transpose(-2, -1).reshape(b * h, d, n)).view(b, h, d, n).transpose(-2, -1)
    pooled = [F.avg_pool1d(x.flatten(0, 1).transpose(1, 2), 2).transpose(1, 2).view(b, h, -1, d) for x in (k, v)]
    return attend(q, *pooled) + local.transpose(1, 2).flatten(2)


def by_batched_heads(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads folded into the batch."""
    b, _, n, d = q.shape
    q, k, v = (x.reshape(b * m.heads, n, d) for x in (q, k, v))
    x = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return x.view(b, m.heads, n, d).transpose(1, 2).reshape(b, n, m.heads * m.head_dim)


class Latent(nn.Module):
    """Keys and values are made of a small latent; a part of the keys is shared by all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.plain, self.rope, self.value = 4, 6, 2, 5
        self.q = nn.Linear(6, 4 * 8)
        self.down, self.norm = nn.Linear(6, 7 + 2), nn.LayerNorm(7)
        self.latent = 7
        self.up, self.proj = nn.Linear(7, 4 * (6 + 5)), nn.Linear(4 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.plain + self.rope).transpose(1, 2)
        q_plain, q_rope = q.split([self.plain, self.rope], -1)
        latent, k_rope = self.down(x).split([self.latent, self.rope], -1)
        kv = self.up(self.norm(latent)).view(b, n, self.heads, self.plain + self.value).transpose(1, 2)
        k_plain, v = kv.split([self.plain, self.value], -1)
        k_rope = k_rope.view(b, 1, n, self.rope).expand(-1, self.heads, -1, -1)
        q, k = torch.cat([q_plain, q_rope.cos()], -1), torch.cat([k_plain, k_rope.cos()], -1)
        x = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, self.heads * self.value))


def module() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(m.stem(x))
        return m.head(y + m.attn(y, y, y, need_weights=False)[0])

    return Fn(
        forward, stem=nn.Linear(6, 24), attn=nn.MultiheadAttention(24, 4, batch_first=True), head=nn.Linear(24, 3)
    )


def cross_module() -> nn.Module:
    def forward(m: Fn, x: Tensor, y: Tensor) -> Tensor:
        out, weights = m.attn(torch.tanh(m.stem(x)), y, y)
        return m.head(out) + weights.sum(-1, keepdim=True)

    return Fn(
        forward,
        stem=nn.Linear(6, 24),
        attn=nn.MultiheadAttention(24, 4, kdim=7, vdim=7, batch_first=True),
        head=nn.Linear(24, 3),
    )


def gram(m: Fn, x: Tensor) -> Tensor:
    """C x C attention over channels, without heads."""
    weights = (x.transpose(1, 2) @ x).softmax(-1)
    return x + (weights @ x.transpose(1, 2)).transpose(1, 2)


def gram_features(m: Fn, x: Tensor) -> Tensor:
    """A Gram matrix read by a linear layer: every pair of channels is a feature."""
    return (x.transpose(1, 2) @ x).flatten(1)


CONSTRUCTS = [
    Construct("qkv by reshape", fused(by_reshape), X, FUSED, smallest=0.2),
    Construct("qkv by view and index", fused(by_view_and_index), X, FUSED),
    Construct("qkv by select", fused(by_select), X, FUSED),
    Construct("qkv by chunk", fused(by_chunk), X, FUSED),
    Construct("qkv by split", fused(by_split), X, FUSED),
    Construct("qkv by split of an attribute", fused(by_split_of_width, width=24), X, FUSED),
    Construct("qkv by slices", fused(by_slices), X, {"qkv.weight[0]": "heads 4, head_dim 6, head_dim 6"}),
    Construct("qkv interleaved by chunk", fused(by_interleaving), X, FUSED),
    Construct("qkv interleaved by unbind", fused(by_interleaved_parts), X, FUSED),
    Construct("qkv in innermost triples", fused(by_innermost_triples), X, FUSED),
    Construct("qkv with heads inside", fused(by_swapped_order), X, {"qkv.weight[0]": "head_dim 6, heads 4"}),
    Construct("separate matrices", Separate, X, SPLIT),
    Construct(
        "grouped queries by repeat",
        lambda: Separate(2, change=repeated),
        X,
        {"k.weight[0]": "heads 2, head_dim 6", "q.weight[0]": "2, 2, head_dim 6"},
    ),
    Construct(
        "grouped queries by expand",
        lambda: Separate(2, change=expanded, groups=2),
        X,
        {"k.weight[0]": "heads 2, head_dim 6", "q.weight[0]": "2, 2, head_dim 6"},
    ),
    Construct("grouped queries folded", lambda: Separate(2, change=folded), X, {"k.weight[0]": "heads 2, head_dim 6"}),
    Construct(
        "grouped queries in the kernel",
        lambda: Separate(2, change=grouped_kernel),
        X,
        {"k.weight[0]": "heads 2, head_dim 6", "proj.weight[1]": "2, 2, head_dim 6"},
    ),
    Construct(
        "multi-query", lambda: Separate(1, change=single), X, {"q.weight[0]": HEADS, "k.weight[0]": "head_dim 6"}
    ),
    Construct(
        "talking heads by linear layers",
        lambda: Separate(change=talking, before=nn.Linear(4, 4), after=nn.Linear(4, 4)),
        X,
        {**SPLIT, "before.weight[0]": "4", "before.weight[1]": "heads 4"},
    ),
    Construct(
        "talking heads by convolutions",
        lambda: Separate(change=talking_convs, before=nn.Conv2d(4, 4, 1), after=nn.Conv2d(4, 4, 1)),
        X,
        {**SPLIT, "after.weight[0]": "heads 4", "after.weight[1]": "4"},
    ),
    Construct(
        "temperature per head",
        lambda: Separate(change=scaled, temperature=param(4, 1, 1)),
        X,
        {**SPLIT, "temperature[0]": "heads 4"},
    ),
    Construct(
        "norms of queries and keys",
        lambda: Separate(change=normed, q_norm=nn.LayerNorm(6), k_norm=nn.RMSNorm(6)),
        X,
        {**SPLIT, "q_norm.weight[0]": "head_dim 6"},
    ),
    Construct(
        "scale per head", lambda: Separate(change=head_scales, head_scale=param(4)), X, {"head_scale[0]": "heads 4"}
    ),
    Construct("channel attention in heads", lambda: Separate(change=channels, temperature=param(4, 1, 1)), X, SPLIT),
    Construct("linear attention", lambda: Separate(change=linear), X, SPLIT),
    Construct(
        "depthwise convolution of values",
        lambda: Separate(change=lepe, local=nn.Conv1d(24, 24, 3, padding=1, groups=24)),
        X,
        {**SPLIT, "local.weight[0]": HEADS},
    ),
    Construct(
        "depthwise convolution and pooling of head_dim",
        lambda: Separate(change=lepe_per_head, local=nn.Conv1d(6, 6, 3, padding=1, groups=6)),
        (2, 8, 6),
        {"q.weight[0]": "heads 4, 6", "v.weight[0]": "heads 4, 6", "local.weight[0]": "6"},
    ),
    Construct("heads in the batch", lambda: Separate(change=by_batched_heads), X, SPLIT),
    Construct(
        "latent attention",
        Latent,
        X,
        {
            "q.weight[0]": "heads 4, head_dim 6, head_dim 2",
            "down.weight[0]": "head_dim 2, 7",
            "up.weight[0]": "heads 4, head_dim 6, head_dim 5",
            "proj.weight[1]": "heads 4, head_dim 5",
        },
    ),
    Construct("nn.MultiheadAttention", module, X, {"attn.in_proj_weight[0]": HEADS, "attn.out_proj.weight[1]": HEADS}),
    Construct(
        "nn.MultiheadAttention to another width",
        cross_module,
        (X, (2, 4, 7)),
        {"attn.q_proj_weight[0]": HEADS, "attn.v_proj_weight[0]": HEADS},
    ),
    Construct("attention among channels", through(gram), X, {"first.weight[0]": "12"}),
    Construct("gram matrix", through(gram_features, out=144), X, {"first.weight[0]": "12", "next.weight[1]": "12"}),
]
