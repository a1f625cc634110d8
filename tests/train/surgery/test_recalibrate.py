"""Batch-norm statistics per subnet: measured right, used by activate and extract, the full network untouched."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from elastify import ElastifyError, activate, elastify, extract, space
from elastify._rewrite.activate import all_statistics
from elastify.train import FullPlusRandom, ProgressiveShrinking, Sandwich, Sorted, fit, recalibrate
from tests.on_ranks import on_two

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(256, 1, 8, 8, generator=GENERATOR) + torch.linspace(-2, 2, 256)[:, None, None, None]
Y = (X.mean((1, 2, 3)) > 0).long() + 2 * (X[:, 0, :4].mean((1, 2)) > X[:, 0, 4:].mean((1, 2))).long()
BATCHES = [(X[i : i + 64], Y[i : i + 64]) for i in range(0, 256, 64)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12)
        self.body, self.body_norm = nn.Conv2d(12, 24, 3), nn.BatchNorm2d(24, momentum=0.3)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.body_norm(self.body(x)).relu()
        return self.head(self.drop(x.mean((2, 3))))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = elastify(Net(), torch.randn(2, 1, 8, 8))
    data = DataLoader(TensorDataset(X, Y), 32, shuffle=True)
    fit(model, data, F.cross_entropy, epochs=12, optimizer=lambda p: torch.optim.Adam(p, 0.01), progress=False)
    return model.eval()


@pytest.fixture
def model(trained: nn.Module) -> nn.Module:
    return copy.deepcopy(trained)


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return (model(X).argmax(1) == Y).double().mean().item()


def test_averages_are_those_of_the_batches(model: nn.Module) -> None:
    assert recalibrate(model, BATCHES, 0.5) == 2
    small = extract(model, 0.5)
    with torch.no_grad():
        means = torch.stack([small.stem(x).mean((0, 2, 3)) for x, _ in BATCHES]).mean(0)
        variances = torch.stack([small.stem(x).transpose(0, 1).flatten(1).var(1) for x, _ in BATCHES]).mean(0)
    torch.testing.assert_close(small.norm.running_mean, means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(small.norm.running_var, variances, rtol=1e-5, atol=1e-6)
    assert small.norm.num_batches_tracked == 4


def test_the_full_network_is_untouched(model: nn.Module) -> None:
    before, output = buffers(model), model(X)
    modes = [module.training for module in model.modules()]
    recalibrate(model, BATCHES, 0.5)
    after = buffers(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(model(X), output)
    assert [module.training for module in model.modules()] == modes
    assert (model.norm.momentum, model.body_norm.momentum) == (0.1, 0.3)


def test_activated_equals_extracted_and_scores_better(model: nn.Module) -> None:
    with activate(model, 0.5):
        before, naive = accuracy(model), model(X)
    recalibrate(model, BATCHES, 0.5)
    with activate(model, 0.5):
        after, measured = accuracy(model), model(X)
    torch.testing.assert_close(extract(model, 0.5)(X), measured, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(naive, measured)
    assert after > before
    with activate(model, 0.75):
        assert not torch.allclose(model(X), measured)  # other configurations have statistics of their own


def test_measured_again_is_the_same(model: nn.Module) -> None:
    recalibrate(model, BATCHES, 0.5)
    first = extract(model, 0.5).state_dict()
    recalibrate(model, BATCHES, 0.5)
    second = extract(model, 0.5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_active_subnet_is_the_default(model: nn.Module) -> None:
    with activate(model, 0.5):
        recalibrate(model, BATCHES)
        inside = model(X)
    twin = copy.deepcopy(model)
    recalibrate(twin, BATCHES, 0.5)
    assert torch.equal(extract(twin, 0.5)(X), extract(model, 0.5)(X))
    torch.testing.assert_close(extract(twin, 0.5)(X), inside, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("batches", "forward"),
    [
        ([x for x, _ in BATCHES], None),
        ([{"x": x} for x, _ in BATCHES], None),
        ([(x, y, 0) for x, y in BATCHES], lambda model, batch: model(batch[0])),
    ],
)
def test_batches_of_every_shape(model: nn.Module, batches: list, forward) -> None:
    twin = copy.deepcopy(model)
    recalibrate(twin, BATCHES, 0.5)
    recalibrate(model, batches, 0.5, forward)
    assert torch.equal(extract(model, 0.5)(X), extract(twin, 0.5)(X))


def test_full_network_on_request_only(model: nn.Module) -> None:
    before = buffers(model)
    with pytest.raises(
        ElastifyError, match="the full network keeps the batch-norm statistics that it learnt"
    ) as caught:
        recalibrate(model, BATCHES)
    assert "update_full=True" in str(caught.value)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert recalibrate(model, BATCHES, update_full=True) == 2
    assert model.norm.num_batches_tracked == 4
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])


def test_plain_models(model: nn.Module) -> None:
    small = extract(model, 0.5)
    assert recalibrate(small, BATCHES) == 2
    recalibrate(model, BATCHES, 0.5)
    assert torch.equal(small(X), extract(model, 0.5)(X))
    with pytest.raises(ElastifyError, match="this Net is not elastic: it has no configurations"):
        recalibrate(small, BATCHES, 0.5)


def test_a_model_without_statistics() -> None:
    assert recalibrate(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), [torch.randn(2, 2)]) == 0


@pytest.mark.parametrize("stored", [False, True])
def test_errors_leave_everything_as_it_was(model: nn.Module, stored: bool) -> None:
    if stored:
        recalibrate(model, BATCHES, 0.5)
    before, output = buffers(model), extract(model, 0.5)(X)

    def broken():
        yield BATCHES[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        recalibrate(model, broken(), 0.5)
    with pytest.raises(ElastifyError, match="nothing to recalibrate with"):
        recalibrate(model, [], 0.5)
    with pytest.raises(OSError, match="disk gone"):
        recalibrate(model, broken(), update_full=True)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(extract(model, 0.5)(X), output)
    assert not any(module.training for module in model.modules())
    assert model.norm.momentum == 0.1


def stored(model: nn.Module) -> dict[int, Tensor]:
    """The running means of the first norm that subnets have for themselves, by their width."""
    return {
        statistics["norm.running_mean"].numel(): statistics["norm.running_mean"].clone()
        for _, _, statistics in all_statistics(model)
    }


def test_switchable_statistics_are_trained_and_resumed(model: nn.Module, tmp_path: Path) -> None:
    """Each of a finite set of sizes has its own; they move in its passes, and checkpoints have them."""
    sizes = [space(model).config({"*": share}) for share in (0.5, 1.0)]
    twin = copy.deepcopy(model)

    def trained(model: nn.Module, steps: int, **options: object) -> dict[int, Tensor]:
        strategy = Sorted(model, sizes, draws=2, weights="even", seed=1)
        sgd = partial(torch.optim.SGD, lr=0.01)
        with pytest.warns(UserWarning, match="running statistics of its norms stay behind"):
            fit(
                model,
                BATCHES,
                F.cross_entropy,
                strategy=strategy,
                steps=steps,
                optimizer=sgd,
                progress=False,
                **options,
            )
        return stored(model)

    recalibrate(model, BATCHES, 0.5)
    (before,) = stored(model).values()
    recalibrate(twin, BATCHES, 0.5)
    whole = trained(model, 6)
    assert not torch.equal(whole[6], before)
    trained(twin, 3, checkpoint=tmp_path)
    fresh = elastify(Net(), torch.randn(2, 1, 8, 8))
    assert torch.equal(trained(fresh, 6, checkpoint=tmp_path)[6], whole[6])


def test_a_size_that_a_hook_measures(model: nn.Module, tmp_path: Path) -> None:
    def measure(*_: object) -> None:
        recalibrate(model, BATCHES, 0.5)

    strategy = FullPlusRandom(model, [0.75])
    run = fit(
        model,
        BATCHES,
        F.cross_entropy,
        strategy=strategy,
        steps=2,
        checkpoint=tmp_path,
        on_step=measure,
        progress=False,
    )
    assert run.steps == 2
    assert set(stored(model)) == {6}
    recalibrate(model, BATCHES, 0.75)
    fit(model, BATCHES, F.cross_entropy, strategy=strategy, steps=2, checkpoint=tmp_path, progress=False)
    assert set(stored(model)) == {6}  # a finished run is what its checkpoint says


def test_a_warning_where_the_full_network_is_seldom_run(model: nn.Module) -> None:
    with pytest.warns(UserWarning, match="recalibrate\\(model, batches, update_full=True\\)"):
        ProgressiveShrinking(model).prepare()
    strict = ProgressiveShrinking(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):  # where warnings are errors it is never prepared by half
            with pytest.raises(UserWarning, match="stay behind"):
                strict.prepare()
        Sorted(elastify(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(2, 4))).prepare()
        Sandwich(model).prepare()


def test_the_warning_comes_once_for_a_strategy(model: nn.Module) -> None:
    strategy = Sorted(model)
    with pytest.warns(UserWarning, match="stay behind"):
        strategy.prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strategy.prepare()


# -- norms of one's own ------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """Gives buffers of any name to batch_norm, beside a constant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("slope", torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return (
            F.leaky_relu(F.batch_norm(x, self.center, self.spread, training=self.training, momentum=0.03)) * self.slope
        )


class ByHand(nn.Module):
    """Writes in place, and puts another tensor there; counts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("eps", torch.tensor(1e-5))

    def forward(self, x: Tensor) -> Tensor:
        center, spread = self.center, self.spread
        if self.training:
            center, spread = x.mean(0), x.var(0)
            with torch.no_grad():
                self.center.lerp_(center, 0.2)
                self.spread = 0.7 * self.spread + 0.3 * spread
                self.steps += 1
        return (x - center) / (spread + self.eps).sqrt()


class Cumulative(ByHand):
    """A plain average with its own count."""

    def forward(self, x: Tensor) -> Tensor:
        center, spread = self.center, self.spread
        if self.training:
            center, spread = x.mean(0), x.var(0)
            with torch.no_grad():
                self.steps += 1
                self.center += (center - self.center) / self.steps
                self.spread += (spread - self.spread) / self.steps
        return (x - center) / (spread + self.eps).sqrt()


class Derived(nn.BatchNorm1d):
    """A class made of a norm of torch that cannot do without its momentum."""

    def forward(self, x: Tensor) -> Tensor:
        center, spread = self.running_mean, self.running_var
        if self.training:
            center, spread = x.mean(0), x.var(0)
            with torch.no_grad():
                self.running_mean.lerp_(center, self.momentum)
                self.running_var.lerp_(spread, self.momentum)
        return (x - center) / (spread + self.eps).sqrt()


class Between(nn.Module):
    """A norm of one's own between two layers, and one of torch after it."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.own, self.b = nn.Linear(6, 32), norm(32), nn.Linear(32, 24)
        self.norm, self.drop, self.c = nn.BatchNorm1d(24), nn.Dropout(0.5), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.drop(self.norm(self.b(self.own(self.a(x)).relu())).relu()))


ROWS = torch.randn(96, 6, generator=GENERATOR) * 3 + 1
PARTS = [ROWS[:32], ROWS[32:64], ROWS[64:]]
OWN = [Given, ByHand, Cumulative, Derived]


def between(norm: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return elastify(Between(norm), ROWS[:4]).eval()


def averages(model: nn.Module, norm: str) -> list[Tensor]:
    """What the norm of a plain model ought to hold after PARTS."""
    seen: list[Tensor] = []
    with torch.no_grad():
        for part in PARTS:
            x = model.a(part)
            if norm == "norm":
                x = model.b(model.own.train()(x).relu())
            seen.append(x)
    return [torch.stack([x.mean(0) for x in seen]).mean(0), torch.stack([x.var(0) for x in seen]).mean(0)]


@pytest.mark.parametrize("norm", OWN)
def test_norms_of_ones_own_are_measured(norm: type[nn.Module]) -> None:
    model = between(norm)
    before = buffers(model)
    assert recalibrate(model, PARTS, 0.5) == 2
    small = extract(model, 0.5).eval()
    for name in ("own", "norm"):
        found = [buffer for buffer in getattr(small, name).buffers() if buffer.dim()]
        for value, expected in zip(found, averages(copy.deepcopy(small), name), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    assert int(getattr(small.own, "steps", torch.tensor(3))) == 3
    with activate(model, 0.5):
        torch.testing.assert_close(model(ROWS), small(ROWS), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert recalibrate(model, PARTS, update_full=True) == 2
    assert not torch.equal(next(model.own.buffers()), before[next(iter(before))])


class Largest(ByHand):
    def forward(self, x: Tensor) -> Tensor:
        spread = self.spread
        if self.training:
            spread = x.abs().amax(0)
            with torch.no_grad():
                self.spread.copy_(torch.maximum(self.spread, spread))
        return x / spread


class Counting(ByHand):
    """Corrects for its beginning with a number that is no buffer."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("norm", "why"), [(Largest, "from entry to entry"), (Counting, "counts in a Python attribute")]
)
def test_what_is_no_average_is_refused_by_name(norm: type[nn.Module], why: str) -> None:
    model = between(norm)
    before, output = buffers(model), extract(model, 0.5)(ROWS)
    for options in ({"config": 0.5}, {"update_full": True}):
        with pytest.raises(ElastifyError, match="no moving averages") as caught:
            recalibrate(model, PARTS, **options)
        assert "where: own." in str(caught.value)
        assert why in str(caught.value)
        assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
        assert torch.equal(extract(model, 0.5)(ROWS), output)


class Seldom(nn.Module):
    """Two branches, of which a batch may take one."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.first, self.second, self.b = nn.Linear(6, 32), norm(32), norm(32), nn.Linear(32, 3)

    def forward(self, x: Tensor, which: str = "both") -> Tensor:
        x = self.a(x)
        parts = {"first": self.first, "second": self.second}
        return self.b(sum(norm(x) for name, norm in parts.items() if which in (name, "both")))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, Given])
def test_what_no_batch_reaches_stays(norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = elastify(Seldom(norm), ROWS[:4])
    for own in (model.first, model.second):
        next(own.buffers()).normal_()
    assert recalibrate(model, [{"x": x, "which": "first"} for x in PARTS], 0.5) == 1
    small = extract(model, 0.5)
    kept = next(small.second.buffers())
    assert torch.equal(kept, next(model.second.buffers())[: len(kept)])
    assert not torch.equal(next(small.first.buffers()), next(model.first.buffers())[: len(kept)])
    both = [{"x": x, "which": which} for x, which in zip(PARTS, ("first", "second", "second"), strict=True)]
    assert recalibrate(model, both, 0.5) == 2
    small = extract(model, 0.5)
    means = torch.stack([small.a(x).mean(0) for x in PARTS[1:]]).mean(0)
    torch.testing.assert_close(next(small.second.buffers()), means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(next(small.first.buffers()), small.a(PARTS[0]).mean(0), rtol=1e-4, atol=1e-5)


def test_instance_norms_keep_statistics_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 16, 3), nn.InstanceNorm1d(16, track_running_stats=True), nn.Conv1d(16, 2, 1))
    x = torch.randn(8, 3, 12, generator=GENERATOR)
    model = elastify(model, x).eval()
    assert recalibrate(model, [x, x + 1], 0.5) == 1
    small = extract(model, 0.5)
    means = torch.stack([small[0](part).mean((0, 2)) for part in (x, x + 1)]).mean(0)
    torch.testing.assert_close(small[1].running_mean, means, rtol=1e-4, atol=1e-5)


# -- on two ranks ------------------------------------------------------------------------------------------------------


def measured(rank: int, folder: Path) -> list[list[float]]:
    found = []
    for norm in (nn.BatchNorm1d, Given, ByHand):
        model = between(norm)
        mine = PARTS[:2] if rank == 0 else PARTS[2:]
        recalibrate(model, mine, 0.5)
        recalibrate(model, mine if rank == 0 else [], update_full=True)
        small = extract(model, 0.5)
        recalibrate(small, mine)
        found += [
            buffer.flatten().tolist() for part in (model, extract(model, 0.5), small) for buffer in part.buffers()
        ]
    return found


def test_ranks_measure_what_one_process_does(tmp_path: Path) -> None:
    first, second = on_two(measured, tmp_path / "ranks")
    assert first == second
    expected: list[list[float]] = []
    for norm in (nn.BatchNorm1d, Given, ByHand):
        model = between(norm)
        recalibrate(model, PARTS, 0.5)
        recalibrate(model, PARTS[:2], update_full=True)
        small = extract(model, 0.5)
        recalibrate(small, PARTS)
        expected += [b.flatten().tolist() for part in (model, extract(model, 0.5), small) for b in part.buffers()]
    for found, wanted in zip(first, expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def refused(rank: int, folder: Path) -> list[object]:
    model = between(nn.BatchNorm1d)
    before = extract(model, 0.5)(ROWS)

    def broken() -> Iterator[Tensor]:
        yield PARTS[0]
        raise OSError("disk gone")

    def said(batches: Iterable[Tensor], config: float) -> str:
        with pytest.raises((ElastifyError, OSError)) as caught:
            recalibrate(model, batches, config)
        return str(caught.value)

    found = [said(broken() if rank else PARTS, 0.5), said([], 0.5), said(PARTS, 0.5 if rank else 0.75)]
    return [*found, torch.equal(extract(model, 0.5)(ROWS), before)]


def test_an_error_on_one_rank_is_one_on_both(tmp_path: Path) -> None:
    first, second = on_two(refused, tmp_path / "ranks")
    assert "another rank could not measure" in first[0]
    assert "OSError: disk gone" in first[0]
    assert second[0] == "disk gone"
    for found in (first, second):
        assert "there is no batch" in found[1]
        assert "different subnets to measure" in found[2]
        assert found[3]
