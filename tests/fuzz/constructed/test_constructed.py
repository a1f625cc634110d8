"""A few dozen networks by their constructors, and proof that this oracle can fail; `tools/fuzz.py` runs thousands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from elastify._plan import planner
from elastify._rewrite.buffers import Part
from elastify._rewrite.setters import Setters
from elastify._rewrite.slices import Slice
from tools import fuzz

from . import oracle, specs
from .nodes import KINDS, Node, build, placed, tensors
from .oracle import judge
from .specs import Spec
from .units import Units, cut

SEEDS, CHUNK = range(40), 10


@pytest.mark.slow
@pytest.mark.parametrize("first", SEEDS[::CHUNK])
def test_subnets_are_what_the_constructor_makes(first: int) -> None:
    found = [judge(seed) for seed in range(first, first + CHUNK)]
    assert [verdict for verdict in found if verdict.kind == "wrong"] == []
    assert sum(verdict.kind == "refused" for verdict in found) <= 1


def test_every_part_occurs() -> None:
    used = {node.kind for seed in range(300) for node in specs.make(seed)[0].root.all()}
    assert KINDS.keys() - used == set()


@pytest.mark.parametrize("seed", range(20))
def test_every_tensor_has_a_layout_of_its_size(seed: int) -> None:
    spec, model = specs.make(seed)
    own = oracle._tensors(model)
    known = {name: (text, numbers) for name, _, text, numbers, _ in tensors(spec.root, model)}
    caches = {name for name in own if name.endswith(".bias") and name not in known and "inner" in name}
    assert own.keys() - caches == known.keys()
    for name, (text, numbers) in known.items():
        units = {local: specs.read(expression, spec.units({})) for local, expression in numbers.items()}
        assert torch.equal(cut(own[name], text, units), own[name])  # and it asserts the sizes


def test_units_are_counted_as_they_are_written() -> None:
    heads, dim = Units.first(2, 3), Units.first(1, 4)
    rows = torch.arange(24)
    assert cut(rows[:12], "heads*dim", {"heads": heads, "dim": dim}).tolist() == [0, 4]
    assert cut(rows, "2*heads*dim", {"heads": heads, "dim": dim}).tolist() == [0, 4, 12, 16]
    assert cut(rows, "heads*(dim + dim)", {"heads": heads, "dim": dim}).tolist() == [0, 4, 8, 12]
    assert cut(rows[:7], "heads + dim", {"heads": heads, "dim": dim}).tolist() == [0, 1, 3]
    assert cut(rows.view(4, 6), "dim, 2*heads", {"heads": heads, "dim": dim}).tolist() == [[0, 1, 3, 4]]


# the oracle can fail: the library is broken, in ways that its own check takes for right


@dataclass(frozen=True)
class Planted:
    """What is broken, in a network of one part, and what must be said."""

    kind: str
    options: dict[str, Any]
    numbers: dict[str, int]
    patch: Callable[[pytest.MonkeyPatch], None]
    said: str
    given: str = "LinearStem"
    inputs: str = "x"
    sizes: dict[str, int] = field(default_factory=dict)


def numbers_stay(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(Setters, "apply", lambda self, sizes, left_out=(): None)


def other_units(mp: pytest.MonkeyPatch) -> None:
    """Matrices are cut from the other end than vectors."""
    crop = Slice._crop
    mp.setattr(Slice, "_crop", lambda self, tensor: crop(self, tensor.flip(0) if tensor.dim() == 2 else tensor))


def writes_are_lost(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(Part, "put_back", lambda self, *, silently: None)


def statistics_are_shared(mp: pytest.MonkeyPatch) -> None:
    find = planner.written_buffers

    def shared(*args: Any) -> tuple[frozenset[str], frozenset[str]]:
        statistics, written = find(*args)
        return frozenset(), statistics | written

    mp.setattr(planner, "written_buffers", shared)


def gradients_leak(mp: pytest.MonkeyPatch) -> None:
    """What is left out of a matrix gets a gradient, too."""
    call = Slice.__call__
    mp.setattr(Slice, "__call__", lambda self, t: call(self, t) + 0 * t.sum() + (t.sum() - t.sum().detach()))


PLANTED = {
    "numbers stay": Planted("Scores", {"style": "attribute"}, {"keys": 8}, numbers_stay, "activated at the example"),
    "other units": Planted("Plain", {"act": "tanh", "bias": True}, {"out": 8}, other_units, "activated at the example"),
    "writes are lost": Planted(
        "HeadAverage", {"style": "flat"}, {"heads": 3, "dim": 5}, writes_are_lost, "buffer inner.1.ema of the full"
    ),
    "statistics are shared": Planted(
        "OwnBatchNorm", {"style": "functional", "dims": ()}, {}, statistics_are_shared, "buffer inner.1.m of the full",
        "VectorStem", "vector",
    ),
    "gradients leak": Planted("Plain", {"act": "tanh", "bias": True}, {"out": 8}, gradients_leak, "gradient of"),
}  # fmt: skip


def spec_of(planted: Planted) -> Spec:
    """A stem, the part, a head."""
    local = {"width": "width", **{name: name for name in planted.numbers}}
    nodes = [Node(planted.given, {"out": "width"}), Node(planted.kind, local, planted.options)]
    head = Node("Head", {"width": local.get("out", "width")}, {"dims": specs.PLACES[KINDS[planted.given].gives]})
    root = placed(Node("Net", {}, {}, (*nodes, head)))
    return Spec(root, {"width": 6, **planted.numbers}, planted.inputs, masked=False, resizes=True)


def verdict_on(planted: Planted, mp: pytest.MonkeyPatch) -> Any:
    spec = spec_of(planted)

    def made(seed: int) -> tuple[Spec, nn.Module]:
        model = build(spec.root, spec.units({})).double()
        with torch.no_grad():
            specs.draw(model, seed)
        return spec, model

    mp.setattr(oracle, "make", made)
    return judge(2, configurations=4)


@pytest.mark.parametrize("name", PLANTED)
def test_the_oracle_can_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = verdict_on(PLANTED[name], monkeypatch)
    assert (right.kind, right.text) == ("passed", "")
    assert right.axes
    PLANTED[name].patch(monkeypatch)
    wrong = verdict_on(PLANTED[name], monkeypatch)
    assert wrong.kind == "wrong"
    assert PLANTED[name].said in wrong.text


def test_one_that_is_wrong_ends_with_code_1() -> None:
    nets = [{"seed": i, "kind": "passed", "smallest": 0.5, "axes": 3, "stages": 0} for i in range(30)]
    assert fuzz.report(nets, "constructor") == 0
    assert fuzz.report([*nets, {"seed": 30, "kind": "wrong"}], "constructor") == 1
