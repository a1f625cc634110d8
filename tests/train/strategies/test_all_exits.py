"""Exits: one run of the blocks serves all depths, in training and in inference."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from elastify import ElastifyError, activate, elastify, extract, space
from elastify.train import AllExits, Losses, exit_early, fit
from tests.small_nets import Block, Net

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


class Stages(nn.Module):
    """Two stages, in-place operations before, between and after the blocks, and one norm used in many places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.first = nn.Sequential(*(Block(16, 20) for _ in range(2)))
        self.second = nn.ModuleList(Block(16, 20) for _ in range(3))
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = self.act(self.first(x))
        for block in self.second:
            x = block(x)
            x *= 0.9
        return self.head(self.norm(self.act(x)))


class Scaled(Net):
    """What it gives to its blocks depends on their number."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) / len(self.blocks)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Skipping(Net):
    """The head takes what the stem gave, too, beside the blocks."""

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x + first.tanh())


class Tied(Net):
    """Weights that are made before the blocks and used again after them, by no module."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.normalize(self.head.weight, dim=-1)
        x = self.stem(x)
        x = x + F.linear(x, weight).softmax(-1) @ weight
        for block in self.blocks:
            x = block(x)
        return F.linear(x, weight)


class InPlace(Net):
    """Blocks change what they get, which is behind a dropout: that returns another tensor in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.stem(x))
        for block in self.blocks:
            x = block(x * 1.0)
            x += 1.0
        return self.head(x)


class Cut(Net):
    """No gradient goes from block to block."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x.detach())
        return self.head(x)


class Twice(nn.Module):
    """A block that returns its result twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Block(16, 20)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (self.inner(pair[0]),) * 2


class Pairs(Net):
    """Blocks pass the same tensor on in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Twice() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        pair = (self.stem(x),) * 2
        for block in self.blocks:
            pair = block(pair)
        return self.head(pair[0] + pair[1])


class Kept(torch.autograd.Function):
    """The first three units; counts the graphs that wait for their backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        Following.alive += 1
        Following.most = max(Following.most, Following.alive)
        return x[:, :3].clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        Following.alive -= 1
        return F.pad(gradient, (0, 5))


class Following(nn.Linear):
    alive = most = 0

    def __init__(self) -> None:
        super().__init__(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return Kept.apply(super().forward(x))


def loss(outputs: Tensor) -> Tensor:
    return F.cross_entropy(outputs, torch.arange(len(outputs)) % 3)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_mean_of_subnets(model: nn.Module, strategy: AllExits, x: Tensor, stage: str, exits: list[int]) -> None:
    total = 0.0
    for blocks in exits:
        with activate(model, {stage: blocks}):
            value = loss(model(x)) / len(exits)
            value.backward()
        total += value.item()
    expected = gradients(model)
    losses = strategy.step(lambda: model(x), loss)
    assert losses.total == pytest.approx(total, rel=1e-10)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def made() -> dict[type, nn.Module]:
    torch.manual_seed(0)
    return {
        kind: elastify(kind().double(), X.double())
        for kind in (Net, Stages, Scaled, Skipping, Tied, InPlace, Cut, Pairs)
    }


@pytest.fixture
def stages(made: dict[type, nn.Module]) -> nn.Module:
    return copy.deepcopy(made[Stages])


@pytest.fixture
def net(made: dict[type, nn.Module]) -> nn.Module:
    return copy.deepcopy(made[Net])


def counted(model: nn.Module) -> Counter[str]:
    """Calls of the forwards of all modules, by path."""
    calls: Counter[str] = Counter()
    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *args, path=path: calls.update([path]))
    return calls


class TestAllExits:
    @pytest.mark.parametrize(("stage", "exits"), [("first", [1, 2]), ("second", [1, 2, 3])])
    def test_the_mean_of_the_subnets_with_operations_in_place(
        self, stages: nn.Module, stage: str, exits: list[int]
    ) -> None:
        assert {s.name for s in space(stages).stages} == {"first", "second"}
        assert_mean_of_subnets(stages, AllExits(stages, stage=stage), X.double(), stage, exits)

    def test_chosen_exits(self, net: nn.Module) -> None:
        assert_mean_of_subnets(net, AllExits(net, exits=[2]), X.double(), "blocks", [2, 4])

    @pytest.mark.parametrize(
        ("kind", "cut"),
        [(Net, True), (Stages, True), (Skipping, False), (Tied, False), (InPlace, True), (Pairs, True)],
    )
    def test_what_follows_uses_the_blocks_alone_or_more(
        self, made: dict[type, nn.Module], kind: type, cut: bool
    ) -> None:
        model = copy.deepcopy(made[kind])
        strategy, stage = AllExits(model), max(space(model).stages, key=lambda s: len(s.blocks))
        for _ in range(2):  # the first step looks at the model's habits
            assert_mean_of_subnets(model, strategy, X.double(), stage.name, list(stage.choices))
        assert strategy._once["habits"].cut is cut

    def test_the_full_network_alone(self, made: dict[type, nn.Module]) -> None:
        for kind in (Net, Skipping):
            model = copy.deepcopy(made[kind])
            assert_mean_of_subnets(model, AllExits(model, exits=[4]), X.double(), "blocks", [4])

    def test_only_the_outputs_of_exits_are_compared(self, net: nn.Module) -> None:
        calls: list[int] = []

        def changing(outputs: Tensor) -> Tensor:
            calls.append(0)
            return loss(outputs) + len(calls) + torch.rand(())

        assert AllExits(net).step(lambda: net(X.double()), changing).max > len(calls) - 4

    def test_what_follows_is_in_memory_once(self) -> None:
        model = elastify(nn.Sequential(nn.Sequential(*(Block(8, 8) for _ in range(3))), Following()), torch.randn(2, 8))
        x = torch.randn(4, 8)
        strategy = AllExits(model)
        strategy.step(lambda: model(x), loss)  # the first one looks at the model's habits
        Following.alive = Following.most = 0
        strategy.step(lambda: model(x), loss)
        assert (Following.alive, Following.most) == (0, 1)

    def test_blocks_run_once_and_what_follows_once_per_exit(self, stages: nn.Module) -> None:
        strategy = AllExits(stages)
        strategy.step(lambda: stages(X.double()), loss)  # the first one also compares
        calls = counted(stages)
        strategy.step(lambda: stages(X.double()), loss)
        # a module that hands out what it returned is called, the layers of a block then are not
        assert calls["head"] == 3
        assert {calls[f"{s}.{i}.up"] for s, n in (("first", 2), ("second", 3)) for i in range(n)} == {1}

    def test_batch_norm_learns_from_the_full_network_only(self) -> None:
        torch.manual_seed(0)

        class Normed(nn.BatchNorm1d):
            def forward(self, x: Tensor) -> Tensor:
                return x + super().forward(x).tanh()

        blocks = nn.Sequential(*(Normed(6) for _ in range(3)))
        net = nn.Sequential(blocks, nn.BatchNorm1d(6), nn.Linear(6, 3)).train()
        plain = copy.deepcopy(net)
        model = elastify(net, X)
        AllExits(model).step(lambda: model(X), loss)
        plain(X)
        for name, buffer in plain.named_buffers():
            assert torch.equal(dict(model.named_buffers())[name], buffer), name

    def test_resumes_to_the_same_losses(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        stages = elastify(nn.Sequential(Net(), nn.Dropout(0.3)), X, verify=False)
        data = [(X, torch.arange(8) % 3)] * 6

        def run(model: nn.Module, stop: int, **kwargs: object) -> list[Losses]:
            options = {"epochs": 1, "progress": False, "on_step": lambda step, losses: step == stop}
            return list(fit(model, data, F.cross_entropy, strategy=AllExits(model), **options, **kwargs).losses)

        whole = run(copy.deepcopy(stages), 6)
        assert len(run(copy.deepcopy(stages), 2, checkpoint=tmp_path)) == 2
        assert run(copy.deepcopy(stages), 6, checkpoint=tmp_path) == whole

    def test_frozen_blocks(self, net: nn.Module) -> None:
        for name, parameter in net.named_parameters():
            parameter.requires_grad_("head" in name)
        assert_mean_of_subnets(net, AllExits(net), X.double(), "blocks", [1, 2, 3, 4])

    def test_a_language_model_learns_at_all_depths(self) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=2,
        )  # fmt: skip
        tokens = torch.arange(24).reshape(2, 12) % 5
        model = elastify(LlamaForCausalLM(config), example_kwargs={"input_ids": tokens}, verify=False, min_ratio=0.1)
        batch = {"input_ids": tokens, "labels": tokens}
        before = [p.detach().clone() for p in model.parameters()]
        history = fit(model, [batch] * 30, lambda outputs, b: outputs.loss, strategy=AllExits(model), epochs=1,
                      optimizer=lambda p: torch.optim.AdamW(p, 3e-3), progress=False)  # fmt: skip
        first, last = history.losses[0], history.losses[-1]
        assert len(first.random) == 1
        assert last.max < 0.8 * first.max
        assert last.min < 0.8 * first.min
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        with torch.no_grad():
            small = extract(model, {space(model).stages[0].name: 1})(**batch).loss.item()
        assert small < 0.8 * first.min

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpoints(self, reentrant: bool) -> None:
        class Saving(Net):
            def forward(self, x: Tensor) -> Tensor:
                x = self.stem(x)
                for block in self.blocks:
                    x = checkpoint(block, x, use_reentrant=reentrant) if self.training else block(x)
                return self.head(x)

        model = elastify(Saving().double(), X.double()).train()
        if not reentrant:
            assert_mean_of_subnets(model, AllExits(model), X.double(), "blocks", [1, 2, 3, 4])
            return
        with pytest.raises(ElastifyError, match="a block runs without gradients"):
            AllExits(model).step(lambda: model(X.double()), loss)

    def test_refusals(self, made: dict[type, nn.Module], net: nn.Module) -> None:
        scaled = copy.deepcopy(made[Scaled])
        with pytest.raises(ElastifyError, match="is not the full network up to there"):
            AllExits(scaled).step(lambda: scaled(X.double()), loss)
        cut = copy.deepcopy(made[Cut])
        with pytest.raises(ElastifyError, match="a gradient was lost"):
            AllExits(cut).step(lambda: cut(X.double()), loss)
        with pytest.raises(ElastifyError, match="no stage is called 'layers'"):
            AllExits(net, stage="layers")
        with pytest.raises(ElastifyError, match="there is no exit after 9 blocks"):
            AllExits(net, exits=[9])
        flat = elastify(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), X)
        with pytest.raises(ElastifyError, match="no blocks that can be left out"):
            AllExits(flat)
        other = copy.deepcopy(net)
        with pytest.raises(ElastifyError, match="only 0 of 4 blocks"):
            AllExits(net).step(lambda: other(X.double()), loss)


class TestExitEarly:
    def test_gives_what_the_subnet_gives(self, stages: nn.Module) -> None:
        stages.eval()
        x = X.double()
        sure = [extract(stages, {"second": blocks})(x).softmax(-1).amax(-1).min().item() for blocks in (1, 2, 3)]
        for threshold in (0.0, *sorted(sure), 1.0):
            found = exit_early(stages, x, threshold)
            expected = next((n for n, value in enumerate(sure, 1) if value >= threshold), 3)
            assert found.blocks == expected
            torch.testing.assert_close(found.outputs, extract(stages, {"second": expected})(x))
            assert found.confidence == pytest.approx(sure[expected - 1])
        assert not exit_early(stages, x, 1.0).outputs.requires_grad

    def test_each_block_runs_once(self, stages: nn.Module) -> None:
        stages.eval()
        calls = counted(stages)
        assert exit_early(stages, X.double(), 1.0, exits=[1, 2]).blocks == 3
        assert calls["head"] == 3
        assert {calls[f"second.{i}.up"] for i in range(3)} == {calls["first.0.up"]} == {1}

    def test_goes_on_until_the_whole_batch_is_sure(self, net: nn.Module) -> None:
        net.eval()
        batch = X.double()
        alone = [exit_early(net, batch[i : i + 1], 0.45).blocks for i in range(len(batch))]
        assert len(set(alone)) > 1
        assert exit_early(net, batch, 0.45).blocks >= max(n for n in alone if n < 4)
        found = exit_early(net, (batch,), 0.6, confidence=lambda y: y.softmax(-1).amax(-1).mean())
        assert found.blocks <= exit_early(net, {"x": batch}, 0.6).blocks

    def test_the_active_subnet_ends_early(self, net: nn.Module) -> None:
        net.eval()
        with activate(net, {"*": 0.5}) as config:
            assert exit_early(net, X.double(), 1.0).blocks == len(config.depths["blocks"]) == 2
            found = exit_early(net, X.double(), 0.0)
            assert net.stem.weight.shape[0] == config.sizes["width"]
        torch.testing.assert_close(found.outputs, extract(net, {"*": 0.5, "blocks": 1})(X.double()))

    def test_refusals(self, net: nn.Module) -> None:
        with pytest.raises(ElastifyError, match="in training mode"):
            exit_early(net.train(), X.double())
        with pytest.raises(ElastifyError, match="not a tensor of logits"):
            exit_early(_tuple_model(), X)


def _tuple_model() -> nn.Module:
    class Pair(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = super().forward(x)
            return y, y

    return elastify(Pair(), X).eval()
