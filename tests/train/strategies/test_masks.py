"""Gates of weights, units and blocks: what is trained, what is extracted, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, activate, cost, elastify, extract, space
from elastify.train import EdgePopup, GumbelMask, Supermask, sort_channels
from elastify.train._strategies.gate_config import expected_macs
from elastify.train._strategies.gates import gates_of
from tests.small_nets import Net
from tests.train.prepared import LABELS, X, check_added_parameters, cross_entropy, elastic_net, extras

TOKENS = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(3))


class Attention(nn.Module):
    """One residual attention layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.attn = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.attn(x, x, x)[0])


def residual_net() -> nn.Module:
    torch.manual_seed(0)
    return elastify(Net(), torch.randn(2, 6))


@pytest.mark.parametrize(
    "make",
    [
        lambda model: GumbelMask(model, weights="kaiming"),
        lambda model: GumbelMask(model, "unit", select=("*channels",), start=0.5),
        lambda model: Supermask(model, weights="signed"),
        lambda model: EdgePopup(model, freeze=False),
    ],
    ids=["weight", "unit", "supermask", "popup"],
)
def test_added_parameters(make, tmp_path: Path) -> None:
    check_added_parameters(make, tmp_path)


class TestWeights:
    @pytest.mark.parametrize("kind", [GumbelMask, Supermask, EdgePopup])
    def test_weights_are_frozen_and_gates_learn(self, kind: type) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(96, 6, generator=generator)
        labels = (x @ torch.randn(6, 4, generator=generator)).argmax(1)
        layers = [nn.Linear(a, b, bias=False) for a, b in ((6, 64), (64, 64), (64, 4))]
        model = elastify(nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]), x[:2])
        strategy = kind(model, weights="signed")
        optimizer = torch.optim.SGD(strategy.groups(lr=50.0), momentum=0.9)
        frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
        assert len(frozen) == 3
        for _ in range(100):
            optimizer.zero_grad()
            strategy.step(lambda: model(x), lambda outputs: F.cross_entropy(outputs, labels))
            optimizer.step()
        assert (strategy.extract()(x).argmax(1) == labels).double().mean() > 0.9
        for name, before in frozen.items():
            assert torch.equal(dict(model.named_parameters())[name], before), name

    def test_signed_constants(self) -> None:
        model = elastic_net()
        Supermask(model, weights="signed").prepare()
        assert len(model[0]._parameters["weight"].abs().unique()) == 1
        other = elastic_net()
        before = other[0].weight.detach().clone()
        GumbelMask(other).prepare()
        assert torch.equal(other[0].weight, before)  # every gate is open at 0, and the weights are kept

    def test_what_is_extracted_is_masked_by_the_threshold(self) -> None:
        model = elastic_net()
        strategy = GumbelMask(model)
        strategy.prepare()
        with torch.no_grad():
            model[3]._parameters["weight_elastic"].normal_()
            model[3]._parameters["weight_scale_elastic"].fill_(2.0)
        small = strategy.extract()
        full, logits = model[3]._parameters["weight"], model[3]._parameters["weight_elastic"]
        assert torch.equal(small[3].weight, 2 * full * (logits >= 0))
        assert not extras(small)
        torch.testing.assert_close(small(X), model(X))
        torch.testing.assert_close(extract(model, 0.5)(X), _activated(model, 0.5))

    def test_gradient_is_that_of_the_sampled_softmax(self) -> None:
        model = elastic_net().double()
        strategy = GumbelMask(model, tau=0.7, rescale=False, select=("8.*",))
        strategy.prepare()
        noise = {}

        def forward() -> Tensor:
            (gate,) = gates_of(model)
            noise["0"] = gate.noise
            assert torch.equal(model[8].weight, model[8].weight)  # one sample for all uses
            return model(X.double())

        strategy.step(forward, cross_entropy)
        logits = model[8]._parameters["weight_elastic"]
        inner = model[:8](X.double()).detach()
        weight = model[8]._parameters["weight"].detach()
        leaf = logits.detach().clone().requires_grad_()
        share = torch.stack([leaf + noise["0"], torch.zeros_like(leaf)]).div(0.7).softmax(0)[0]
        hard = (leaf + noise["0"] > 0).double()
        outputs = F.linear(inner, weight * (hard - share.detach() + share), model[8].bias)
        F.cross_entropy(outputs, LABELS).backward()
        torch.testing.assert_close(logits.grad, leaf.grad)

    def test_supermask_is_rescaled_and_popup_keeps_its_share(self) -> None:
        model = elastic_net()
        strategy = Supermask(model)
        strategy.prepare()
        with torch.no_grad():
            model[3]._parameters["weight_elastic"].view(-1)[:1000] = -1
        total = model[3].weight.numel()
        assert torch.allclose(
            model[3].weight.view(-1)[1000:], model[3]._parameters["weight"].view(-1)[1000:] * total / (total - 1000)
        )
        model = elastic_net()
        EdgePopup(model, keep=0.3).prepare()
        assert int(model[3].weight.count_nonzero()) == round(0.3 * total)


class TestUnits:
    def test_a_smaller_model_that_computes_the_same(self) -> None:
        model = elastic_net()
        strategy = GumbelMask(model, "unit")
        strategy.prepare()
        strategy.step(lambda: model(X), cross_entropy)
        names = extras(model)
        with torch.no_grad():
            for name in names:
                dict(model.named_parameters())[name].normal_(generator=torch.Generator().manual_seed(0))
        expected = model(X)
        counts = [int((dict(model.named_parameters())[name] >= 0).sum()) for name in names]
        small = strategy.extract()
        assert [small[0].out_channels, small[3].out_channels] == counts
        assert counts < [16, 32]
        torch.testing.assert_close(small(X), expected)
        torch.testing.assert_close(model(X), expected)  # sorted, and the same

    def test_heads(self) -> None:
        torch.manual_seed(0)
        model = elastify(Attention(), TOKENS[:2])
        strategy = GumbelMask(model, "unit", select=("*heads",))
        strategy.prepare()
        strategy.step(lambda: model(TOKENS), lambda outputs: outputs.square().mean())
        (name,) = extras(model)
        dict(model.named_parameters())[name].data.copy_(torch.tensor([1.0, -1.0, 2.0, -3.0]))
        expected = model(TOKENS)
        small = strategy.extract()
        assert small.attn.num_heads == 2
        torch.testing.assert_close(small(TOKENS), expected)

    def test_a_look_at_the_result_does_not_disturb_training(self) -> None:
        def train(look: bool) -> dict[str, Tensor]:
            model = elastic_net()
            strategy = GumbelMask(model, "unit", freeze=False)
            optimizer = torch.optim.SGD(strategy.groups(lr=5.0), lr=0.1, momentum=0.9)
            for _ in range(4):
                optimizer.zero_grad()
                strategy.step(lambda: model(X), cross_entropy)
                if look:
                    small = strategy.extract()
                    assert small[3].out_channels == strategy.config().sizes["3.channels"]
                    torch.testing.assert_close(small(X), model(X))
                optimizer.step()
            return model.state_dict()

        looked = train(look=True)
        for name, tensor in train(look=False).items():
            assert torch.equal(looked[name], tensor), name

    def test_few_open_units_fill_the_smallest_size(self) -> None:
        model = elastic_net()
        strategy = GumbelMask(model, "unit")
        strategy.prepare()
        with torch.no_grad():
            model[8]._parameters[next(n for n in model[8]._parameters if n.endswith("_elastic"))][2:] = -1
        expected = model(X)
        small = strategy.extract()
        assert small[3].out_channels == space(model).min.sizes["3.channels"] > 2
        torch.testing.assert_close(small(X), expected)

    def test_the_first_step_proves_the_gates(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))
        model = elastify(net, torch.randn(2, 6))
        strategy = GumbelMask(model, "unit", select=("*",))
        strategy.prepare()
        before = model(TOKENS[:, 0])
        with pytest.raises(ElastifyError, match="is not the same as leaving out") as caught:
            strategy.step(lambda: model(TOKENS[:, 0]), torch.mean)
        assert space(model).axes[0].name in str(caught.value)
        assert torch.equal(model(TOKENS[:, 0]), before)
        assert model.training

    @pytest.mark.parametrize("seed", range(8))
    def test_gates_are_proven_where_only_the_loss_runs_the_model(self, seed: int) -> None:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
        x, labels = torch.randn(32, 6), torch.arange(32) % 3
        model = elastify(net, x[:2])
        names = {axis.members[0][0]: axis.name for axis in space(model).axes}
        first, second = names["0.weight"], names["2.weight"]
        for select in (second, (first, second)):
            twin = copy.deepcopy(model)
            strategy = GumbelMask(twin, "unit", select=select)
            strategy.prepare()

            def loss(_: None, twin: nn.Module = twin) -> Tensor:
                return F.cross_entropy(twin(x), labels)

            if select == second:
                assert strategy.step(lambda: None, loss).max is not None
            else:
                with pytest.raises(ElastifyError, match=f"closing gates of {first} is not the same"):
                    strategy.step(lambda: None, loss)

    def test_blocks_that_cannot_go_alone_have_no_gates(self) -> None:
        class Collecting(nn.ModuleList):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                found = [x := x + block(x) for block in self]
                return x + found[1]

        model = elastify(Collecting(nn.Linear(6, 6) for _ in range(4)), torch.randn(2, 6))
        assert space(model).stages[0].choices == (2, 3, 4)
        with pytest.raises(ElastifyError, match="there is no block to gate"):
            GumbelMask(model, "block").prepare()

    def test_sorting_keeps_gates_with_their_units(self) -> None:
        model = elastic_net()
        GumbelMask(model, "unit").prepare()
        with torch.no_grad():
            for name in extras(model):
                dict(model.named_parameters())[name].normal_()
        expected = model(X)
        sort_channels(model)
        torch.testing.assert_close(model(X), expected)

    def test_towards_a_budget(self) -> None:
        model = elastic_net()
        strategy = GumbelMask(model, "unit", start=2.0, budget_macs=0.4 * cost(model).macs, penalty=10.0)
        optimizer = torch.optim.SGD(strategy.groups(lr=2.0), momentum=0.9)
        for _ in range(60):
            optimizer.zero_grad()
            strategy.step(lambda: model(X), lambda outputs: 0 * outputs.sum())
            optimizer.step()
        config = strategy.config()
        assert cost(model, config).macs < 0.75 * cost(model).macs
        assert expected_macs(model).item() < 0.45 * cost(model).macs

    def test_expected_macs_have_the_exact_gradient(self) -> None:
        model = elastic_net()
        GumbelMask(model, "unit").prepare()
        macs = expected_macs(model)
        macs.backward()
        half = space(model).config(0.5)
        assert macs.item() == cost(model, half).macs
        larger = half.sizes | {"3.channels": 17}
        logits = next(g for g in gates_of(model) if g.logits.numel() == 32).logits
        slope = cost(model, space(model).config(larger)).macs - cost(model, half).macs
        torch.testing.assert_close(logits.grad, torch.full((32,), slope / 4.0))


class TestBlocks:
    def test_extraction_leaves_closed_blocks_out(self) -> None:
        model = residual_net()
        x = torch.randn(5, 6)
        strategy = GumbelMask(model, "block")
        strategy.prepare()
        assert extras(model) == [f"blocks.{i}.gate_elastic" for i in (1, 2, 3)]
        strategy.step(lambda: model(x), lambda outputs: outputs.square().mean())
        assert all(model.blocks[i].gate_elastic.grad is not None for i in (1, 2, 3))
        with torch.no_grad():
            model.blocks[2].gate_elastic.fill_(-1)
        expected = model(x)
        twin = copy.deepcopy(model)
        twin.blocks[2].gate_elastic.data.fill_(1)
        assert not torch.equal(twin(x), expected)
        small = strategy.extract()
        assert strategy.config().depths["blocks"] == (0, 1, 3)
        assert len(small.blocks) == 3
        assert not any(module._forward_hooks for module in small.modules())
        torch.testing.assert_close(small(x), expected)

    def test_too_few_open_blocks_are_refused(self) -> None:
        torch.manual_seed(0)
        model = elastify(Net(), torch.randn(2, 6), min_ratio=0.5)
        strategy = GumbelMask(model, "block", start=-1.0)
        with pytest.raises(ElastifyError, match=r"blocks \[0\] cannot be kept"):
            strategy.extract()

    def test_budget(self) -> None:
        model = residual_net()
        strategy = GumbelMask(model, "block", start=1.0, budget_macs="1")
        strategy.prepare()
        macs = expected_macs(model)
        assert cost(model, {"blocks": 1}).macs < macs < cost(model).macs
        strategy.step(lambda: model(torch.randn(5, 6)), lambda outputs: 0 * outputs.sum())
        assert all(model.blocks[i].gate_elastic.grad > 0 for i in (1, 2, 3))


class TestBeforeAnythingChanges:
    @pytest.mark.parametrize(
        ("make", "what"),
        [
            (lambda model: GumbelMask(model, "block", weights="kaiming"), "there is no block to gate"),
            (lambda model: GumbelMask(model, "unit", select="hiden", weights="kaiming"), "'hiden' matches no name"),
            (lambda model: Supermask(model, select=("0.*", "head.*"), weights="signed"), r"'head\.\*' matches no name"),
            (lambda model: EdgePopup(model, select=(), weights="signed"), "there is no weight to gate"),
        ],
        ids=["block", "unit", "supermask", "popup"],
    )
    def test_a_bad_argument_leaves_the_model_as_it_was(self, make, what: str) -> None:
        model = elastic_net()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ElastifyError, match=what):
            make(model).prepare()
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        GumbelMask(model).prepare()
        assert extras(model)

    def test_a_string_is_one_glob(self) -> None:
        for make in (GumbelMask, Supermask, EdgePopup):
            model = elastic_net()
            make(model, select="3.*").prepare()
            assert {name.split(".")[0] for name in extras(model)} == {"3"}
        model = elastic_net()
        GumbelMask(model, "unit", select="3.channels").prepare()
        assert [gate.logits.numel() for gate in gates_of(model)] == [32]
        with pytest.raises(ElastifyError, match="matches no name") as caught:
            GumbelMask(elastic_net(), "unit", select="3.chanels").prepare()
        assert "3.channels" in str(caught.value)

    def test_one_strategy_per_model(self) -> None:
        model = elastic_net()
        GumbelMask(model, "unit", select="*channels", weights="signed").prepare()
        names = extras(model)
        before = model[0]._parameters["weight"].clone()
        for other in (EdgePopup(model, weights="kaiming"), GumbelMask(model, weights="kaiming")):
            with pytest.raises(ElastifyError, match="another strategy has prepared this model"):
                other.prepare()
            with pytest.raises(ElastifyError, match="another strategy has prepared this model"):
                other.step(lambda: model(X), cross_entropy)
        with pytest.raises(ElastifyError, match="another strategy") as caught:
            GumbelMask(copy.deepcopy(model), "unit", select="*channels", weights="signed", tau=0.5).prepare()
        assert "a GumbelMask with tau=1.0" in str(caught.value)
        again = GumbelMask(model, "unit", select="*channels", weights="signed", seed=4, budget_macs="50%")
        again.step(lambda: model(X), cross_entropy)
        assert extras(model) == names
        assert torch.equal(model[0]._parameters["weight"], before)


def test_options_of_groups() -> None:
    strategy = GumbelMask(elastic_net(), freeze=False)
    groups = strategy.groups(lr=1.0, scale_lr=0.5, weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.1] * 3
    assert [group.get("lr") for group in groups] == [1.0, 0.5, None]
    torch.optim.SGD(groups, lr=0.1)


def _activated(model: nn.Module, config: object) -> Tensor:
    with activate(model, config):
        return model(X)


def test_refusals() -> None:
    model = elastic_net()
    with pytest.raises(ElastifyError, match="granularity='layer'"):
        GumbelMask(model, "layer")
    with pytest.raises(ElastifyError, match="masked weights save no MACs"):
        GumbelMask(model, budget_macs=100)
    for budget, what in (("banana", "banana"), (0.5, '(?s)0.5 is below one.*"50%"'), ("0%", "below one MAC")):
        with pytest.raises(ElastifyError, match=what):
            GumbelMask(model, "unit", budget_macs=budget)
    for wrong in ({"tau": 0.0}, {"tau": float("nan")}, {"penalty": -1.0}):
        with pytest.raises(ElastifyError, match=r"tau=.*, penalty="):
            GumbelMask(model, **wrong)
    with pytest.raises(ElastifyError, match="weights='random'"):
        Supermask(model, weights="random")
    with pytest.raises(ElastifyError, match=r"keep=0 is not a share"):
        EdgePopup(model, keep=0)
    with pytest.raises(ElastifyError, match="has not been prepared"):
        GumbelMask(model).step(lambda: model(X), cross_entropy)
    with pytest.raises(ElastifyError, match="there is no block to gate"):
        GumbelMask(model, "block").prepare()


def test_one_glob_in_any_form_is_the_same_strategy() -> None:
    model = elastic_net()
    GumbelMask(model, select="*").prepare()
    added = extras(model)
    for same in (["*"], ("*",)):
        GumbelMask(model, select=same).prepare()
    assert extras(model) == added
