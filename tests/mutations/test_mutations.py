"""The proof of the proofs: every wrong coupling that is planted here is caught by elastify's verification.

A mutant breaks the library while `elastify` runs. It counts as caught when verification says that it took something
out (a warning), and nothing wrong is left: what remains elastic, if anything does, passes a permutation test and
runs at random sizes that are written here, without the library's own verification.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from elastify import ElastifyError, activate, extract, space
from elastify._ir.layout import axes_of, indices
from elastify._proofs.units import redraw
from tests.every_axis import every_axis

from .mutants import EQUIVALENT, MUTANTS, Mutant
from .nets import NETS

CAUGHT = ("verification took", "head.weight and embed.weight are one tensor")


def run(net: str) -> tuple[nn.Module | None, nn.Module, list[str]]:
    """The network after elastify (None where it refused), the network before, and what was said."""
    torch.manual_seed(0)
    model = NETS[net].make()
    plain = copy.deepcopy(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            every_axis(model, NETS[net].example(), min_ratio=0.1)
        except ElastifyError as error:
            return None, plain, [*(str(w.message) for w in caught), error.what]
    return model, plain, [str(w.message) for w in caught]


@pytest.mark.parametrize("name", NETS)
def test_without_a_mutation_the_expected_axes_are_elastic(name: str) -> None:
    model, plain, texts = run(name)
    if not NETS[name].axes:
        assert model is None
        assert texts[0].startswith("nothing in this")
        return
    assert model is not None
    assert texts == []
    found = space(model)
    assert tuple(sorted(axis.size for axis in found.axes)) == NETS[name].axes
    assert tuple(len(stage.blocks) for stage in found.stages) == NETS[name].stages
    assert found.plan.rigid == ()
    assert wrong_units(model, plain, name) == []
    assert wrong_sizes(model, name) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.net}: {m.name}")
def test_verification_catches(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    model, plain, texts = run(mutant.net)
    monkeypatch.undo()
    refuted = space(model).plan.rigid if model is not None else ()  # blocks that verification found to be needed
    assert refuted or any(text.startswith(CAUGHT) for text in texts), texts
    if model is not None:
        assert wrong_units(model, plain, mutant.net) == []
        assert wrong_sizes(model, mutant.net) == []


def test_there_are_enough_mutants_and_each_has_a_name_of_its_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 25
    assert not set(names) & set(EQUIVALENT)


def wrong_units(model: nn.Module, plain: nn.Module, net: str) -> list[str]:
    """Elastic axes in which the original network is not symmetric: one at a time, every swap of neighbours."""
    found, plan = [], model.__dict__["_elastify"].plan
    base = copy.deepcopy(plain).double().eval()
    redraw(base, 5)
    x = NETS[net].example()
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        expected = base(x)
        for axis in plan.axes:
            order = torch.arange(axis.size).roll(1).numpy()
            moved = copy.deepcopy(base)
            tensors = {**dict(moved.named_parameters()), **dict(moved.named_buffers())}
            for name, layouts in plan.tensors.items():
                for dim, layout in enumerate(layouts):
                    if any(part.id == axis.id for part in axes_of(layout)):
                        at = torch.from_numpy(indices(layout, {axis.id: order}))
                        tensors[name].copy_(tensors[name].index_select(dim, at))
            if not torch.allclose(moved(x), expected, rtol=1e-6, atol=1e-9):
                found.append(axis.name)
    return found


def wrong_sizes(model: nn.Module, net: str) -> list[str]:
    """Configurations that do not run, or run differently extracted."""
    found, x, where = [], NETS[net].example(), space(model)
    full = model.eval()(x)
    for config in (where.min, *(where.sample(seed) for seed in range(10, 16))):
        try:
            with torch.no_grad(), activate(model, config):
                active = model(x)
            with torch.no_grad():
                small = extract(model, config)(x)
        except (RuntimeError, ValueError) as error:
            found.append(f"{config}: {error}")
            activate(model, None)
            continue
        if active.shape != full.shape:
            found.append(f"{config}: the output has another shape")
        elif active.shape != small.shape or not torch.allclose(active, small, rtol=1e-4, atol=1e-5):
            found.append(f"{config}: activated and extracted differ")
    return found
