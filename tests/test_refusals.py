"""The public functions on small networks: what they refuse, how they say it, and that nothing is changed by it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, activate, cost, elastify, extract, save, search, space
from elastify import plain as plain_again
from elastify.train import Sandwich, finetune, fit, recalibrate

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


# -- mistakes in using an elastic model, or in making one ------------------------------------------------------------


def elastic() -> nn.Sequential:
    return elastify(nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), X)


def active() -> nn.Sequential:
    model = elastic()
    activate(model, 0.5)
    return model


class Looks(nn.Module):
    """A table of words whose gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(20, 16, sparse=True), nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.table(ids).mean(1))))


def with_numpy(m: Odd, x: Tensor) -> Tensor:
    return m.b(torch.from_numpy(np.tanh(m.a(x).detach().numpy())))


def trained(model: nn.Module, inputs: Any = X, **options: Any) -> Any:
    data = options.pop("data", [(inputs, torch.zeros(len(inputs), dtype=torch.long))] * 2)
    return fit(model, data, F.cross_entropy, strategy=Sandwich(model), steps=1, progress=False, **options)


def searched(**options: Any) -> Any:
    return search(elastic(), **{"budget_macs": "50%", "n_trials": 2, "progress": False, **options})


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3)), {nn.Linear})


IDS = torch.zeros(4, 5, dtype=torch.long)
MISTAKES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "a scripted model": (
        lambda: elastify(torch.jit.script(Net().stem), X),
        ("a scripted or traced model cannot be elastic", "no Python any more", "torch.jit.script(extract"),
    ),
    "a traced model": (
        lambda: elastify(torch.jit.trace(nn.Sequential(nn.Linear(6, 3)), X), X),
        ("a scripted or traced model", "where: Sequential"),
    ),
    "a quantised model": (
        lambda: elastify(quantised(), X),
        ("a quantised model cannot be elastic", "where: 0", "packed integers", "quantise extract(model, config)"),
    ),
    "numpy in forward": (
        lambda: elastify(Odd(with_numpy), X),
        ("nothing in this Odd is elastic", "tensors that torch has not made of others (of numpy, say)"),
    ),
    "export of an active subnet": (
        lambda: torch.export.export(active(), (X,), strict=False),
        ("an active subnet cannot be exported", "torch.export.export(extract(model), ...)"),
    ),
    "scripting an elastic model": (
        lambda: torch.jit.script(elastic()),
        ("an elastic model cannot be scripted", "torch.jit.script(extract(model, config))"),
    ),
    "sparse gradients": (
        lambda: trained(elastify(Looks(), IDS), IDS),
        ("a subnet has no sparse gradients", "where: table", "model.table.sparse = False"),
    ),
    "LBFGS": (
        lambda: trained(elastic(), optimizer=torch.optim.LBFGS),
        ("fit cannot use LBFGS", "asks for the loss again", "torch.optim.AdamW"),
    ),
    "an optimizer by name": (lambda: trained(elastic(), optimizer="adam"), ("optimizer is a str", "AdamW(parameters")),
    "no data": (lambda: trained(elastic(), data=[]), ("the data have no batches",)),
    "data that are read up": (lambda: trained(elastic(), data=iter([])), ("the data have no batches", "only once")),
    "data that are no data": (lambda: trained(elastic(), data=3), ("data are a int", "a list of (inputs, targets)")),
    "one unit of everything": (
        lambda: activate(elastic(), {"*": 1}),
        ("1 is not a legal size", "where: hidden", "legal: 8..32; or 1.0, which is all of it"),
    ),
    "a size out of range": (lambda: activate(elastic(), {"hidden": 64}), ("64 is not a legal size", "legal: 8..32")),
    "a misspelt axis": (
        lambda: activate(elastic(), {"hiden": 0.5}),
        ("'hiden' matches no axis and no stage", "such as hidden"),
    ),
    "a misspelt axis to freeze": (
        lambda: elastify(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3)), X, freeze="hiden"),
        ("freeze pattern 'hiden' fits no axis", "are called hidden"),
    ),
    "a list as a configuration": (
        lambda: activate(elastic(), [0.5]),
        ("[0.5] is not a ratio", "a float above 0", 'such as {"*.hidden": 0.5, "blocks": 4}; or a SubnetConfig'),
    ),
    "a word as a configuration": (lambda: extract(elastic(), "small"), ("'small' is not a ratio", "a SubnetConfig")),
    "a word as a size": (lambda: cost(elastic(), {"hidden": "50%"}), ("'50%' is not a ratio", "where: hidden")),
    "choices that are no lists": (
        lambda: elastify(Net(), X, choices={"width": 8}),  # type: ignore[dict-item]
        ("choices={'width': 8} is no mapping to lists", "[64, 128, 0.75]"),
    ),
    "a batch by number": (
        lambda: elastify(Net(), X, batch=0),  # type: ignore[arg-type]
        ("batch is a int", 'batch={"mask": None, "h0": 1}'),
    ),
    "a share as a budget": (
        lambda: searched(budget_macs=0.5),
        ("budget 0.5 is below one", "it is a number, not a share", '"50%"'),
    ),
    "a share in words": (lambda: searched(budget_macs="0.25"), ("budget '0.25' is below one", '"25%"')),
    "a budget with an unknown word": (lambda: searched(budget_macs="5 percent"), ("unknown suffix 'percent'", "1.2G")),
    "a score of -inf": (
        lambda: searched(evaluate=lambda m: float("-inf")),
        ("evaluate failed", "it returned -inf", "-1e9 for one that must not win"),
    ),
    "a score of nan": (lambda: searched(evaluate=lambda m: float("nan")), ("evaluate failed", "it returned nan")),
    "no score": (lambda: searched(evaluate=lambda m: None), ("it returned None, which is not a number",)),
    "a score for each picture": (
        lambda: searched(evaluate=lambda m: m(X)),
        ("it returned a Tensor of shape [2, 3], which is not a number",),
    ),
    "a score for each picture, of the full model": (
        lambda: searched(budget_macs="100%", evaluate=lambda m: m(X)),
        ("evaluate failed", "it returned a Tensor of shape [2, 3], which is not a number"),
    ),
    "a score in words": (lambda: searched(evaluate=lambda m: "0.5"), ("it returned '0.5', which is not a number",)),
    "a score instead of a function": (lambda: searched(evaluate=0.5), ("evaluate is a float",)),
}


@pytest.mark.parametrize("case", MISTAKES)
@pytest.mark.filterwarnings("ignore")
def test_a_mistake_is_told_with_what_to_do(case: str) -> None:
    make, texts = MISTAKES[case]
    with pytest.raises(ElastifyError) as caught:
        make()
    for text in texts:
        assert text in str(caught.value)


def test_a_subnet_that_was_not_exported_runs_as_before() -> None:
    model = active()
    before = model(X)
    with pytest.raises(ElastifyError):
        torch.export.export(model, (X,), strict=False)
    assert torch.equal(model(X), before)
    small = torch.export.export(extract(model), (X,), strict=False).module()
    assert torch.allclose(small(X), before, atol=1e-6)


def test_none_is_the_network_as_it_runs_now() -> None:
    model = elastic()
    full, half = cost(model), cost(model, 0.5)
    assert full == cost(model, space(model).max) != half
    with activate(model, 0.5):
        assert cost(model) == half
        assert cost(model, [None, 1.0])[0] == half
        assert extract(model)[0].weight.shape == (16, 6)
        with activate(model):
            assert cost(model) == full
    assert cost(model) == full
    assert extract(model)[0].weight.shape == (32, 6)


# -- arguments of a wrong kind, and numbers of other libraries ---------------------------------------------------------

NAN, INF = float("nan"), float("inf")
DATA = [(X, torch.zeros(len(X), dtype=torch.long))] * 2


def tuned(**options: Any) -> Any:
    options = {"budget_macs": "50%", "steps": 1, "progress": False, **options}
    return finetune(elastic(), options.pop("data", DATA), options.pop("loss", F.cross_entropy), **options)


def scored(**options: Any) -> Any:
    return searched(**{"evaluate": lambda m: 1.0, **options})


def plainly(**options: Any) -> Any:
    options = {"steps": 1, "progress": False, **options}
    model, data, loss = options.pop("model", None), options.pop("data", DATA), options.pop("loss", F.cross_entropy)
    return fit(elastic() if model is None else model, data, loss, **options)


def remade(**options: Any) -> Any:
    return elastify(nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3)), X, verify=False, **options)


WHOLE: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "widths": (lambda v: space(elastic()).grid(v, 1), ["a", NAN, INF, 2.5, -1, 0, None, [1], True, 1e9]),
    "depths": (lambda v: space(elastic()).grid(1, v), ["a", NAN, 2.5, 0, None]),
    "n": (lambda v: space(elastic()).nested(v), ["a", NAN, 2.5, 0, None, [2]]),
    "rng": (lambda v: space(elastic()).sample(v), ["x", NAN, 2.5, -1, [1], True, object(), torch.Generator()]),
    "n_trials": (lambda v: scored(n_trials=v), ["2", NAN, INF, 2.5, 0, -1, None, [1], True]),
    "population": (lambda v: scored(population=v), ["8", NAN, 8.5, 1, None]),
    "seed": (lambda v: scored(seed=v), ["0", NAN, 0.5, None]),
    "accumulate": (lambda v: plainly(accumulate=v), ["2", NAN, 2.5, 0, None]),
    "checkpoint_every": (lambda v: plainly(checkpoint_every=v), ["2", NAN, 2.5, 0, True]),
    "checkpoint_keep": (lambda v: plainly(checkpoint_keep=v), ["2", 1.5, -1, None]),
    "few": (lambda v: tuned(few=v), ["8", NAN, 2.5, 0, None]),
}
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "seed of fit": (lambda: plainly(seed=-1), "seed=-1 is not a whole number of at least 0"),
    "steps in words": (lambda: plainly(steps="3"), "steps='3' is not a number above 0"),
    "half a step": (lambda: plainly(steps=2.5), "steps=2.5 is not a whole number"),
    "endless epochs": (lambda: plainly(epochs=INF), "epochs=inf is not a whole number"),
    "minutes that are none": (lambda: plainly(minutes=NAN), "minutes=nan is not a number above 0"),
    "negative MACs": (lambda: plainly(macs=-1), "macs=-1 is not a number above 0"),
    "a clip in words": (lambda: plainly(clip="1"), "clip='1' is not a limit for a norm"),
    "a loss by name": (lambda: plainly(loss="mse"), "loss is a str, not a function"),
    "a forward_fn": (lambda: plainly(forward_fn=3), "forward_fn is a int, not a function"),
    "a distill": (lambda: plainly(distill=True, strategy=None), "distil"),
    "a hook": (lambda: plainly(on_step="print"), "on_step is a str, not a function"),
    "one of the hooks": (lambda: plainly(on_step=[print, None]), "on_step is a NoneType, not a function"),
    "a device": (lambda: plainly(device="gpu"), "device='gpu' is not a device"),
    "a device by float": (lambda: plainly(device=NAN), "device=nan is not a device"),
    "a model by name": (lambda: plainly(model="net"), "the model is a str"),
    "data in one tensor": (lambda: plainly(data=X), "data are a Tensor"),
    "a timeout in words": (lambda: scored(timeout="1h"), "timeout='1h' is not a number of seconds"),
    "a negative timeout": (lambda: scored(timeout=-1), "timeout=-1 is not a number of seconds"),
    "a study by number": (lambda: scored(study=3), "it is a int"),
    "no budgets": (lambda: searched(budget_macs=[]), "lists of budgets go pairwise"),
    "budgets from a generator": (lambda: searched(budget_macs=(x for x in ["50%"])), "is not a number"),
    "a budget of nan": (lambda: searched(budget_macs=NAN), "budget nan is not finite"),
    "a negative budget": (lambda: searched(budget_macs="-50%"), "is negative"),
    "a tuned loss": (lambda: tuned(loss="mse"), "loss is a str, not a function"),
    "a tuned score": (lambda: tuned(evaluate=1), "evaluate is a int, not a function"),
    "tuned data": (lambda: tuned(data=3), "data are a int"),
    "batches by number": (lambda: recalibrate(elastic(), 3), "batches are a int"),
    "batches in one tensor": (lambda: recalibrate(elastic(), X), "batches are a Tensor"),
    "a forward": (lambda: recalibrate(elastic(), [X], 0.5, 3), "forward is a int, not a function"),
    "a norm by name": (lambda: recalibrate("net", [X]), "the model is a str"),
    "a pattern to freeze": (lambda: remade(freeze=3), "freeze has 3, which is no pattern"),
    "patterns to freeze": (lambda: remade(freeze=["0", None]), "freeze has None, which is no pattern"),
    "a plain name": (lambda: plain_again("net"), "this str is no torch.nn.Module"),
    "a saved name": (lambda: save("net", "folder"), "the model is a str"),
    "sizes in a list": (lambda: space(elastic()).repair([1]), "does not map names to sizes"),
    "a size of nan": (lambda: space(elastic()).repair({"hidden": NAN}), "nan is not a size"),
    "a config of nan": (lambda: activate(elastic(), NAN), "nan is not a ratio"),
    "a cost of text": (lambda: cost(elastic(), ["half"]), "'half' is not a ratio"),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_whole_number_is_refused_by_name(name: str) -> None:
    use, wrong = WHOLE[name]
    for value in wrong:
        with pytest.raises(ElastifyError) as caught:
            use(value)
        assert f"{name}={value!r} is not a whole number" in str(caught.value)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore")
def test_an_argument_of_a_wrong_kind_is_refused(case: str) -> None:
    make, text = WRONG[case]
    with pytest.raises(ElastifyError) as caught:
        make()
    assert text in str(caught.value)


def test_fine_tuning_refuses_unknown_arguments_before_anything_is_changed() -> None:
    model = elastic()
    before = bits(model)
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepz'"):
        finetune(model, DATA, F.cross_entropy, budget_macs="50%", steps=1, stepz=3)
    assert all(map(torch.equal, before, bits(model)))


@pytest.mark.parametrize("two", [2, np.int64(2), np.uint8(2), torch.tensor(2), np.array(2)])
def test_whole_numbers_of_other_libraries(two: Any) -> None:
    where = space(elastic())
    assert where.grid(two, two) == where.grid(2, 2)
    assert where.nested(two) == where.nested(2)
    assert where.sample(two) == where.sample(2)
    assert len(scored(n_trials=two, population=two, seed=two, timeout=two).history) == 2
    assert plainly(steps=two, epochs=two, accumulate=two, seed=two, clip=two).steps == 2


def test_a_budget_above_all_numbers_is_no_limit() -> None:
    with pytest.warns(UserWarning, match="the full model is within the budget"):
        assert search(elastic(), "1e400").config == space(elastic()).max
