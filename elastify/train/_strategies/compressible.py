"""Compressible subspaces: the place on a line of weights is also how far the network is compressed.

A level alpha in [0, 1] stands for a width, a share of kept weights or a number of bits; 0 is the smallest network, 1
the most accurate. With `line`, weights are (1 - alpha) w0 + alpha w1 with both ends trained, so that each level has
weights of its own; without, all levels share one set (the "point"). A step runs one pass per level.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from elastify import _verbs
from elastify._errors import ElastifyError
from elastify._space import SubnetConfig
from elastify.train._strategies.choices import freeze_globs, is_prepared, note_prepared
from elastify.train._strategies.levels import LEAST, compress, compressed, narrowed, set_level, squared_cosine
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Compressible(Strategy):
    """One network for every level of width, sparsity or bits (Nunez et al., LCS, arXiv 2110.04252).

    >>> import torch
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = Compressible(model, "sparsity", dense=())
    >>> strategy.prepare()  # before the optimizer: it adds 0.weight_elastic, 0.bias_elastic, ...
    >>> losses = strategy.step(lambda: model(torch.randn(8, 4)), torch.Tensor.mean)
    >>> int(strategy.extract(0.25)[0].weight.count_nonzero())
    16

    `compress`: "width" keeps .25 + .75 alpha of the units of every axis (of heads, not of what is in them); "sparsity"
    keeps alpha (.025 at least) of each weight, the largest entries; "bits" has 3 to 8 bits a weight, affine, and with
    `activations` as many for what its layer takes in, between the least and largest value of the batch [our choice].
    `params`: "norms" makes lines of those of norm layers, "all" of every one (None: norms for width, else all, as
    published). `dense`: globs of weights that stay whole (None: the first and last). `beta` weighs cos^2 between the
    ends of the lines, once a step [how often is left open]. A step of "width" trains alphas 0, 1 and `n_random` others;
    other kinds one, an end with probability `ends`. In the first `warmup` steps (paper: 80 %) sparsity grows; a point
    is dense; activations stay whole. Extracted models round activations, too, and `save` refuses them for it.
    Batch norms need `recalibrate` at each level: convert them with `replace_norms` before `elastify`.
    """

    compress: str = "width"
    line: bool = True
    params: str | None = None
    beta: float = 1.0
    n_random: int = 2
    ends: float = 0.5
    warmup: int = 0
    dense: str | tuple[str, ...] | None = None
    activations: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze_globs(self, "dense")
        for value, known in ((self.compress, tuple(LEAST)), (self.params, (None, "norms", "all"))):
            if value not in known:
                raise ElastifyError(f"no such choice: {value!r}", where="Compressible", fix=f"one of {known}")
        if self.activations and self.compress != "bits":
            raise ElastifyError("only bits can compress activations", where="Compressible", fix='compress="bits"')
        if self.n_random < 0 or self.warmup < 0 or not (self.beta >= 0 and 0 <= self.ends <= 1):
            raise ElastifyError("beta, n_random and warmup must be at least 0, ends from 0 to 1", where="Compressible")

    def prepare(self) -> None:
        """Add the other ends of the lines, once; the full network stays as it is ("bits": in 8 bits)."""
        what = (self.params or ("norms" if self.compress == "width" else "all")) if self.line else None
        if not is_prepared(self) and compress(self.model, self.compress, what, self.dense, self.seed, self.activations):
            note_prepared(self)

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of the losses at the drawn levels; arguments as for `Sandwich.step`, but no `distill`."""
        self._labels_only(distill)
        self._check_prepared(is_prepared(self) or (self.compress == "width" and not self.line))
        alphas, values, done = self._draw(), [], self._number()
        for alpha in alphas:
            try:
                growing = 1 - (1 - alpha) * done / self.warmup if self.line and done < self.warmup else alpha
                set_level(self.model, alpha, growing, inputs=done >= self.warmup)
                values.append(self._pass(self.config(alpha), forward, loss, backward))
            finally:
                set_level(self.model, 1.0, 1.0)
        if self.beta and (ends := [each.ends() for each in compressed(self.model) if each.line]):
            backward(self.beta * squared_cosine(ends))
        self._count()
        others = dict(zip(alphas, floats(values), strict=True))
        return Losses(others.pop(1.0, None), others.pop(LEAST[self.compress], None), tuple(others.values()))

    def at(self, alpha: float) -> SubnetConfig:
        """Move the model to a level: the values of its weights and the active configuration."""
        config = self.config(alpha)
        self.prepare()
        set_level(self.model, alpha, alpha)
        return _verbs.activate(self.model, config).config

    def extract(self, alpha: float) -> nn.Module:
        """A plain model of one level, to which this model moves."""
        return _verbs.extract(self.model, self.at(alpha))

    def config(self, alpha: float) -> SubnetConfig:
        """The configuration of a level: the full network but for "width"."""
        if not 0 <= alpha <= 1:
            raise ElastifyError(f"alpha={alpha} is not in [0, 1]", where="Compressible")
        return narrowed(_verbs.space(self.model), 0.25 + 0.75 * alpha if self.compress == "width" else 1.0)

    def _draw(self) -> list[float]:
        draw, least = self._generator.uniform, LEAST[self.compress]
        if self.compress == "width":
            return [1.0, 0.0, *draw(size=self.n_random).tolist()]
        if self.line and draw() < self.ends:
            return [1.0 if draw() < 0.5 else least]
        if self.compress == "sparsity" and not self.line and self._number() < self.warmup:
            return [1.0]
        return [int(self._generator.integers(1, 7)) / 6 if self.compress == "bits" else draw(least, 1)]
