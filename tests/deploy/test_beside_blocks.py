"""What lies beside the blocks goes with them: nothing is left in an extracted model that it cannot reach.

The oracle is not the library's own: every class takes the number of its blocks, so that the network that is left can be
built by its constructor, given the weights of the extracted one by name, and compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import activate, cost, elastify, extract, load, save, space
from elastify.testing import check_model

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
WIDTH, COUNT = 10, 4
Forward = Callable[[Any, Tensor], Tensor]
Parts = Callable[[int], dict[str, Any]]


class Block(nn.Module):
    """A branch, without the sum around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(self.norm(x))))


def many(make: Callable[[], nn.Module], count: int) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(count))


def scale() -> nn.Parameter:
    return nn.Parameter(torch.rand(WIDTH) + 0.5)


def scales(count: int) -> nn.ParameterList:
    return nn.ParameterList(scale() for _ in range(count))


class Net(nn.Module):
    """Two layers around a loop over so many blocks, and what lies beside them."""

    def __init__(self, body: Forward, parts: Parts, count: int = COUNT) -> None:
        super().__init__()
        self.stem, self.head, self.body = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3), [body]
        self.blocks = many(Block, count)
        for name, part in parts(count).items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body[0](self, self.stem(x)))


def folded(step: Callable[..., Tensor], items: Callable[[Any], Any]) -> Forward:
    """A loop: `x = step(x, *item)` for each item."""

    def body(m: Any, x: Tensor) -> Tensor:
        for item in items(m):
            x = step(x, *item)
        return x

    return body


def scaled(x: Tensor, block: Any, gamma: Tensor) -> Tensor:
    return x + gamma * block(x)


def normed(x: Tensor, block: Any, norm: Any) -> Tensor:
    return x + block(norm(x))


def by_index(m: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(m.blocks):
        x = x + m.gammas[i] * block(x)
    return x


def by_length(m: Any, x: Tensor) -> Tensor:
    for i in range(len(m.gammas)):
        x = x + m.gammas[i] * m.blocks[i](x) / len(m.gammas)
    return x


def by_index_of_norms(m: Any, x: Tensor) -> Tensor:
    for i in range(len(m.norms)):
        x = x + m.blocks[i](m.norms[i](x))
    return x


def before_all_but_the_first(m: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(m.blocks):
        x = block(m.norms[i - 1](x) if i else x) + x
    return x


def own_slice(m: Any, x: Tensor) -> Tensor:
    for block, gamma in zip(m.blocks, m.gammas[: len(m.blocks)], strict=True):
        x = x + gamma * block(x)
    return x


def two_sums(m: Any, x: Tensor) -> Tensor:
    for block, other in zip(m.blocks, m.others, strict=True):
        x = x + block(x)
        x = x + other(x)
    return x


def keyed(m: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(m.blocks):
        x = x + m.gammas[f"g{i}"] * block(x)
    return x


def in_attributes(m: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(m.blocks):
        x = x + getattr(m, f"g{i}") * block(x)
    return x


def norms_in_attributes(m: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(m.blocks):
        x = x + block(getattr(m, f"n{i}")(x))
    return x


def norms(count: int) -> dict[str, Any]:
    return {"norms": many(lambda: nn.LayerNorm(WIDTH), count)}


def gammas(count: int) -> dict[str, Any]:
    return {"gammas": scales(count)}


def alternating(count: int) -> dict[str, Any]:
    pair = scale(), scale()
    return {"gammas": nn.ParameterList(pair[i % 2] for i in range(count))}


class Holder(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.inside = nn.ModuleDict({"gammas": scales(count), **norms(count)})


ANY: dict[str, tuple[Forward, Parts]] = {
    "a list of parameters": (folded(scaled, lambda m: zip(m.blocks, m.gammas, strict=True)), gammas),
    "the other way round": (
        folded(lambda x, g, b: x + g * b(x), lambda m: zip(m.gammas, m.blocks, strict=True)),
        gammas,
    ),
    "by index": (by_index, gammas),
    "as many times as there are parameters": (by_length, gammas),
    "a slice": (own_slice, gammas),
    "norms": (folded(normed, lambda m: zip(m.blocks, m.norms, strict=True)), norms),
    "norms by index": (by_index_of_norms, norms),
    "norms after the sum": (
        folded(lambda x, b, n: n(x + b(x)), lambda m: zip(m.blocks, m.norms, strict=True)),
        norms,
    ),
    "a second branch": (two_sums, lambda n: {"others": many(Block, n)}),
    "three lists": (
        folded(lambda x, b, n, g: x + g * b(n(x)), lambda m: zip(m.blocks, m.norms, m.gammas, strict=True)),
        lambda n: {**norms(n), **gammas(n)},
    ),
    "statistics": (
        folded(normed, lambda m: zip(m.blocks, m.norms, strict=True)),
        lambda n: {"norms": many(lambda: nn.BatchNorm1d(WIDTH), n)},
    ),
    "functions without weights": (
        folded(lambda x, b, a, g: x + g * a(b(x)), lambda m: zip(m.blocks, m.acts, m.gammas, strict=True)),
        lambda n: {"acts": many(nn.GELU, n), **gammas(n)},
    ),
    "the values of a dictionary": (
        folded(scaled, lambda m: zip(m.blocks, m.gammas.values(), strict=True)),
        lambda n: {"gammas": nn.ParameterDict({str(i): scale() for i in range(n)})},
    ),
    "lists in another module": (
        folded(
            lambda x, b, n, g: x + g * b(n(x)),
            lambda m: zip(m.blocks, m.holder.inside["norms"], m.holder.inside["gammas"], strict=True),
        ),
        lambda n: {"holder": Holder(n)},
    ),
    "pairs": (
        folded(lambda x, b, p: x + p[1](b(p[0](x))), lambda m: zip(m.blocks, m.pairs, strict=True)),
        lambda n: {"pairs": many(lambda: nn.ModuleList([nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)]), n)},
    ),
}
PREFIX: dict[str, tuple[Forward, Parts]] = {
    "keys": (keyed, lambda n: {"gammas": nn.ParameterDict({f"g{i}": scale() for i in range(n)})}),
    "attributes": (in_attributes, lambda n: {f"g{i}": scale() for i in range(n)}),
    "norms in attributes": (norms_in_attributes, lambda n: {f"n{i}": nn.LayerNorm(WIDTH) for i in range(n)}),
    "buffers": (in_attributes, lambda n: {f"g{i}": torch.rand(WIDTH) for i in range(n)}),
    "one fewer than blocks": (before_all_but_the_first, lambda n: norms(max(n - 1, 0))),
}


SHARED: dict[str, tuple[Forward, Parts]] = {
    "take turns": (folded(scaled, lambda m: zip(m.blocks, m.gammas, strict=False)), alternating),
    "the last once more": (
        lambda m, x: folded(scaled, lambda m: zip(m.blocks, m.gammas, strict=False))(m, x) * m.gammas[-1],
        gammas,
    ),
    "one for all": (
        lambda m, x: folded(scaled, lambda m: ((b, m.one) for b in m.blocks))(m, x),
        lambda n: {"one": scale()},
    ),
}


def elastic(case: tuple[Forward, Parts]) -> Any:
    torch.manual_seed(0)
    model = Net(*case)
    keys = {name: tensor.shape for name, tensor in model.state_dict().items()}
    elastify(model, X)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == keys
    return model.eval()


def check_all(model: Any, case: tuple[Forward, Parts], kept: tuple[int, ...], folder: Path) -> None:
    """The extracted network is the one that the constructor makes, and what the elastic one is meanwhile."""
    config = space(model).config({"blocks": kept})
    small: Any = extract(model.eval(), config)
    built = Net(*case, len(kept)).eval()
    if not isinstance(getattr(model, "gammas", None), nn.ParameterDict):  # keys stay what they are
        assert list(built.state_dict()) == list(small.state_dict())
    built.load_state_dict(dict(zip(built.state_dict(), small.state_dict().values(), strict=True)))
    torch.testing.assert_close(small(X), built(X))
    assert [type(m) for m in small.modules() if list(m.parameters(False))] == [
        type(m) for m in built.modules() if list(m.parameters(False))
    ]
    assert cost(model, config).params == sum(p.numel() for p in built.parameters())
    if kept == tuple(range(len(kept))):
        assert int(space(model).cost(space(model).encode([config])).params[0]) == cost(model, config).params
    save(small, folder)
    torch.testing.assert_close(load(folder, like=lambda: Net(*case))(X), small(X))
    for training in (False, True):
        with activate(model.train(training), config):
            ours = model(X)
            ours.sum().backward()
        torch.testing.assert_close(small.train(training)(X), ours)
        small.zero_grad()
        small(X).sum().backward()
        assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("name", ANY)
def test_any_selection(name: str, tmp_path: Path) -> None:
    model = elastic(ANY[name])
    (stage,) = space(model).stages
    assert (stage.name, stage.choices, stage.prefix) == ("blocks", (1, 2, 3, 4), "")
    for kept in ((0,), (0, 1, 2), (0, 2), (0, 2, 3), (0, 1, 2, 3)):
        check_all(model, ANY[name], kept, tmp_path)


@pytest.mark.parametrize("name", PREFIX)
def test_the_first_blocks(name: str, tmp_path: Path) -> None:
    model = elastic(PREFIX[name])
    (stage,) = space(model).stages
    assert (stage.name, stage.choices) == ("blocks", (1, 2, 3, 4))
    for count in range(4, 0, -1):
        check_all(model, PREFIX[name], tuple(range(count)), tmp_path)


def reaches_all(small: nn.Module) -> bool:
    small.train()(X).sum().backward()
    return all(parameter.grad is not None for parameter in small.parameters())


class Row(nn.Module):
    """Blocks side by side with a norm that all of them share, and a scale for each: a block of a longer row."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.norm, self.blocks, self.gammas = nn.LayerNorm(WIDTH), many(Block, count), scales(count)
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Any = 0
        for block, gamma in zip(self.blocks, self.gammas, strict=True):
            y = y + gamma * self.norm(block(x))
        return x + self.last(y)


def test_what_a_block_uses_by_itself_goes_with_no_block_inside_it(tmp_path: Path) -> None:
    def rows(m: Any, x: Tensor) -> Tensor:
        for row in m.rows:
            x = row(x)
        return x

    def made() -> nn.Module:
        return Net(rows, lambda n: {"rows": many(Row, n)}, count=3).eval()

    model = elastify(made(), X)
    beside = {f"rows.{i}.gammas.{j}": (f"rows.{i}.blocks.{j}",) for i in range(3) for j in (1, 2)}
    assert space(model).plan.alongside == beside
    for config in ({"rows.*.blocks": 1}, {"rows": 2, "rows.*.blocks": 2}, {"rows": 2, "rows.0.blocks": 1}):
        small = extract(model, config)
        for row in small.rows:
            assert len(row.blocks) == len(row.gammas)
            assert isinstance(row.norm, nn.LayerNorm)
            assert isinstance(row.last, nn.Linear)
        with activate(model, config):
            torch.testing.assert_close(model(X), small(X))
        save(small, tmp_path)
        torch.testing.assert_close(load(tmp_path, like=made)(X), small(X))


@pytest.mark.parametrize("name", SHARED)
def test_what_others_use_stays_while_they_do(name: str, tmp_path: Path) -> None:
    model = elastic(SHARED[name])
    for count in range(4, 0, -1):
        config = space(model).config({"blocks": count})
        small = extract(model, config)
        with activate(model, config):
            torch.testing.assert_close(model(X), small(X))
        assert reaches_all(small)
        assert cost(model, config).params == sum(p.numel() for p in small.parameters())
        save(small.eval(), tmp_path)
        torch.testing.assert_close(load(tmp_path, like=lambda: Net(*SHARED[name]))(X), small(X))


def test_entries_that_no_run_uses_are_not_ours_to_take() -> None:
    body = folded(scaled, lambda m: zip(m.blocks, m.gammas, strict=False))
    model = elastic((body, lambda n: {"gammas": scales(n + 2)}))
    small: Any = extract(model, space(model).config({"blocks": (0, 2)}))
    assert len(small.gammas) == 4
    assert [torch.equal(a, model.gammas[i]) for a, i in zip(small.gammas, (0, 2, 4, 5), strict=True)] == [True] * 4


def asked_for_at_once(m: Any, x: Tensor) -> Tensor:
    every = [m.gammas[i] for i in range(4)]
    for block, gamma in zip(m.blocks, every, strict=False):
        x = x + gamma * block(x)
    return x


def test_what_forward_asks_for_all_the_same_stays_and_the_space_says_so() -> None:
    model = elastic((asked_for_at_once, gammas))
    (stage,) = space(model).stages
    assert stage.choices == (1, 2, 3, 4)
    (line,) = space(model).plan.rigid
    assert line.blocks == ("gammas.1", "gammas.2", "gammas.3")
    told = " ".join(str(space(model)).split())
    assert "gammas.1 .. gammas.3: they stay without the blocks that use them: the smaller network does not run" in told
    assert "IndexError" in line.reason
    config = space(model).config({"blocks": 2})
    small: Any = extract(model, config)
    assert len(small.gammas) == 4
    assert cost(model, config).params == sum(p.numel() for p in small.parameters())
    with activate(model, config):
        torch.testing.assert_close(model(X), small(X))


def test_a_tensor_that_two_stages_use_goes_with_the_last_of_them() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        for block, gamma in zip(m.blocks, m.gammas, strict=False):
            x = x + gamma * block(x)
        x = m.between(x).relu()
        for other, gamma in zip(m.others, m.gammas, strict=False):
            x = x + gamma * other(x)
        return x

    parts = {"between": lambda: nn.Linear(WIDTH, WIDTH)}
    model = elastic((body, lambda n: {"others": many(Block, n), "between": parts["between"](), **gammas(n)}))
    assert [stage.name for stage in space(model).stages] == ["blocks", "others"]
    full = cost(model).params
    one = (full - cost(model, space(model).config({"blocks": 3})).params), WIDTH
    for blocks, others in ((3, 4), (4, 3), (3, 3), (1, 1), (1, 3)):
        config = space(model).config({"blocks": blocks, "others": others})
        small = extract(model, config)
        gone = 8 - blocks - others
        assert cost(model, config).params == full - gone * one[0] - (4 - max(blocks, others)) * one[1]
        assert cost(model, config).params == sum(p.numel() for p in small.parameters())
        assert reaches_all(small)
        with activate(model, config):
            torch.testing.assert_close(model.train()(X), small(X))


def test_axes_of_what_goes_along_do_not_count_while_it_is_gone() -> None:
    model = elastic(ANY["a second branch"])
    full, one = (space(model).config({"blocks": n, "others.3.hidden": 4}) for n in (4, 3))
    assert full.sizes["others.3.hidden"] == 4
    assert one.sizes["others.3.hidden"] == 12
    assert space(model).graph()["stage:blocks"]["tensor:others.1.up.weight"]["block"] == 1
    assert "blocks.0 .. blocks.3, with others.*" in str(space(model))
    assert "  with them goes others.2" in space(model).why("blocks")


@pytest.mark.parametrize(
    "name", ["three lists", "statistics", "pairs", "attributes", "take turns", "the last once more"]
)
def test_the_full_check(name: str) -> None:
    report = check_model(Net(*{**ANY, **PREFIX, **SHARED}[name]), X)
    assert report.stages == 1
    assert report.failures == []
