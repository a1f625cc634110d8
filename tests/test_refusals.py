"""The public functions on small networks: what they refuse, how they say it, and that nothing is changed by it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, activate, cost, elastify, extract, space

from .small_nets import Net, Odd, X, plain


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return elastify(Net(), X)


def raising(m: Odd, x: Tensor) -> Tensor:
    raise RuntimeError("no luck")


def shy(m: Odd, x: Tensor) -> Tensor:
    if torch.overrides._get_current_function_mode_stack():
        raise RuntimeError("not while someone looks")
    return plain(m, x)


def poisoned() -> Odd:
    model = Odd(plain)
    model.b.weight.data[0, 0] = float("nan")
    return model


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], tuple[str, ...]]] = {
    "no example inputs for an unknown class": (
        lambda: Odd(plain),
        {},
        ("elastify needs example inputs for Odd", "elastify(model, torch.randn(2, 3, 224, 224))"),
    ),
    "inputs of a wrong shape": (
        lambda: Odd(plain),
        {"example_inputs": torch.randn(2, 5)},
        ("does not run on the example inputs", "where: a, ", "small_nets.py:", "2x5 and 6x10", "float32[2, 5]"),
    ),
    "too many inputs": (
        lambda: Odd(plain),
        {"example_inputs": (X, X)},
        ("do not fit forward", "Odd.forward(x", "too many positional"),
    ),
    "inputs under a wrong name": (
        lambda: Odd(plain),
        {"example_kwargs": {"y": X}},
        ("do not fit forward", "missing a required argument: 'x'"),
    ),
    "inputs that are no tensors": (
        lambda: Odd(plain),
        {"example_inputs": "text"},
        ("example inputs are a str", "a tensor"),
    ),
    "a forward that raises": (
        lambda: Odd(raising),
        {"example_inputs": X},
        ("does not run on the example inputs", "RuntimeError: no luck"),
    ),
    "a model that cannot be captured": (
        lambda: Odd(shy),
        {"example_inputs": X},
        ("the model cannot be captured", "not while someone looks"),
    ),
    "nothing elastic": (
        lambda: nn.Linear(6, 3),
        {"example_inputs": X},
        ("nothing in this Linear is elastic", "the model's interface: output"),
    ),
    "no parameters": (
        lambda: nn.ReLU(),
        {"example_inputs": X},
        ("nothing in this ReLU is elastic", "it has no parameter"),
    ),
    "everything frozen": (
        lambda: Odd(plain),
        {"example_inputs": X, "freeze": ["*"]},
        ("nothing in this Odd is elastic", "frozen by the pattern"),
    ),
    "NaN weights": (
        poisoned,
        {"example_inputs": X},
        ("parameter b.weight has values that are NaN or infinite", "verify=False"),
    ),
    "parameters that do not exist yet": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)),
        {"example_inputs": X},
        ("not initialised yet", "0.weight", "run it once"),
    ),
    "a freeze pattern that fits nothing": (
        lambda: Odd(plain),
        {"example_inputs": X, "freeze": ["nope"]},
        ("freeze pattern 'nope' fits no axis", "hidden"),
    ),
    "a choices pattern that fits nothing": (
        lambda: Odd(plain),
        {"example_inputs": X, "choices": {"nope": [1]}},
        ("choices pattern 'nope' fits no axis", "hidden"),
    ),
    "a size that is no size": (
        lambda: Odd(plain),
        {"example_inputs": X, "choices": {"hidden": [11]}},
        ("11 is not a possible size", "the axis has 10 units", "use 1 to 10"),
    ),
    "a ratio above one": (
        lambda: Odd(plain),
        {"example_inputs": X, "choices": {"hidden": [1.5]}},
        ("1.5 is not a possible ratio", "share"),
    ),
    "a min_ratio of nothing": (
        lambda: Odd(plain),
        {"example_inputs": X, "min_ratio": 0},
        ("min_ratio must be above 0 and at most 1, not 0",),
    ),
    "a multiple of nothing": (
        lambda: Odd(plain),
        {"example_inputs": X, "multiple_of": 0},
        ("multiple_of must be a whole number of at least 1",),
    ),
}


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a failed call must leave as it was."""
    return {
        path: (
            type(module),
            module.training,
            sorted(vars(module)),
            {k: repr(v) for k, v in vars(module).items() if isinstance(v, (int, float, str, tuple, list))},
            [len(hooks) for key, hooks in sorted(vars(module).items()) if key.endswith("_hooks")],
            {k: (id(p), p._version, p.requires_grad) for k, p in module._parameters.items() if p is not None},
            {k: (id(b), b._version) for k, b in module._buffers.items() if b is not None},
        )
        for path, module in model.named_modules()
    }


def bits(model: nn.Module) -> list[Tensor]:
    lazy = nn.parameter.is_lazy
    return [t.clone() for t in (*model.parameters(), *model.buffers()) if not lazy(t)]


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_why_and_leaves_the_model_as_it_was(case: str) -> None:
    make, arguments, texts = REFUSED[case]
    model = make()
    before, values = snapshot(model), bits(model)
    with pytest.raises(ElastifyError) as caught:
        elastify(model, **arguments)
    for text in texts:
        assert text in str(caught.value)
    assert snapshot(model) == before
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(values, bits(model), strict=True))


def test_after_a_refusal_the_same_model_can_be_made_elastic() -> None:
    model = Odd(plain)
    with pytest.raises(ElastifyError):
        elastify(model, X, freeze=["nope"])
    assert len(space(elastify(model, X)).axes) == 1


def test_an_error_of_the_library_itself_also_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("elastify._elastify.prove_sizes", broken)
    model = Net()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        elastify(model, X)
    assert snapshot(model) == before


def test_an_elastic_model_is_not_made_elastic_again(net: Net) -> None:
    before = snapshot(net)
    with pytest.raises(ElastifyError, match="already elastic"):
        elastify(net, X)
    assert snapshot(net) == before


@pytest.mark.parametrize("thing", [torch.relu, None, "model"])
def test_only_modules_can_be_elastic(thing: Any) -> None:
    with pytest.raises(ElastifyError, match=r"elastify takes a torch.nn.Module, not a"):
        elastify(thing, X)


@pytest.mark.parametrize("use", [space, extract, cost, lambda m: activate(m, 0.5)])
def test_a_plain_model_has_no_subnets(use: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(ElastifyError, match="this Net is not elastic") as caught:
        use(Net())
    assert "elastify(model, example_inputs)" in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "texts"),
    [
        ({"width": 999}, ("999 is not a legal size", "width", "legal: 4..16")),
        ({"width": 0}, ("0 is not a legal size", "legal: 4..16")),
        ({"blocks": 9}, ("9 is not a legal", "blocks")),
        ({"nope": 4}, ("'nope' matches no axis and no stage", "print(space(model)) lists them")),
        (1.5, ("1.5 is not a ratio", "above 0 and at most 1")),
        ("half", ("'half' is not a ratio",)),
    ],
)
def test_impossible_wishes_name_what_is_possible(net: Net, wish: Any, texts: tuple[str, ...]) -> None:
    with pytest.raises(ElastifyError) as caught:
        activate(net, wish)
    for text in texts:
        assert text in str(caught.value)
    assert net.stem.weight.shape == (16, 6)


def test_sizes_between_two_choices_are_listed() -> None:
    model = elastify(Odd(plain), X, choices={"hidden": [4, 7]})
    with pytest.raises(ElastifyError, match="5 is not a legal size") as caught:
        activate(model, {"hidden": 5})
    assert "legal: 4, 7, 10" in str(caught.value)


def test_a_configuration_of_another_model_is_refused(net: Net) -> None:
    other = elastify(Net(12), X)
    for use in (activate, extract, cost):
        with pytest.raises(ElastifyError, match="belongs to another model"):
            use(net, space(other).max)


def test_a_broken_constraint_names_the_legal_choices() -> None:
    def grouped(m: Odd, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        assert y.shape[1] % 5 == 0
        return m.b(y)

    model = elastify(Odd(grouped, 20), X)
    assert "(hidden % 5) == 0" in str(space(model))
    with pytest.raises(ElastifyError, match="7 is not a legal size") as caught:
        activate(model, {"hidden": 7})
    assert "legal: 5..20 step 5" in str(caught.value)
    assert space(model).config(0.4).sizes["hidden"] == 10


@pytest.mark.parametrize("bound", [0.5, 4.5, float("inf")])
def test_sizes_may_be_compared_with_floats(bound: float) -> None:
    def wide(m: Odd, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        return m.b(y) if y.shape[1] > bound * 1.0 or bound > 9 else m.b(y) * 2

    model = elastify(Odd(wide), X)
    assert space(model).min.sizes["hidden"] == (5 if bound == 4.5 else 3)


def test_a_pickle_of_a_whole_model_by_an_older_version_says_what_to_do() -> None:
    with pytest.raises(ElastifyError, match="made by an older elastify") as error:
        pickle.loads(b"celastify._rewrite\n_revive\n.")  # noqa: S301 - the first bytes of such a file
    assert "state_dict" in str(error.value)
