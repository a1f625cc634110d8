"""Batch-norm statistics per subnet: measured right, used by activate and extract, the full network untouched."""

from __future__ import annotations

import copy
import warnings
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
