"""The public functions on small networks: what they do."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import elastify as package
from elastify import ElastifyError, SubnetConfig, activate, cost, elastify, extract, space

from .small_nets import Block, Net, Odd, X, plain


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return elastify(Net(), X)


def test_the_package_exports_what_the_design_lists() -> None:
    listed = "elastify space cost activate extract search save load SubnetConfig ElastifyError".split()
    assert set(listed) <= set(package.__all__)
    assert all(callable(getattr(package, name)) for name in listed)


def test_elastify_changes_the_object_in_place_and_not_its_function() -> None:
    torch.manual_seed(0)
    model = Net()
    twin, keys, parameters = copy.deepcopy(model), list(model.state_dict()), list(model.parameters())
    assert elastify(model, X) is model
    assert isinstance(model, Net)
    assert isinstance(model.stem, nn.Linear)
    assert type(model.stem).__name__ == "Linear"
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(X), twin(X), rtol=0, atol=0)


def test_the_space_of_a_residual_network(net: Net) -> None:
    found = space(net)
    assert {axis.name: axis.size for axis in found.axes} == {
        "width": 16,
        **{f"blocks.{i}.hidden": 20 for i in range(4)},
    }
    assert [(stage.name, stage.choices) for stage in found.stages] == [("blocks", (1, 2, 3, 4))]
    assert found.verified
    assert "blocks" in str(found)
    assert "the model's interface" in str(found)


def test_activate_as_a_call_stays_and_as_a_block_ends(net: Net) -> None:
    activate(net, 0.5)
    assert net.stem.weight.shape == (8, 6)
    with activate(net, {"width": 4, "blocks": 2}) as config:
        assert config.sizes["width"] == 4
        assert net.stem.weight.shape == (4, 6)
    assert net.stem.weight.shape == (8, 6)
    activate(net, None)
    assert net.stem.weight.shape == (16, 6)


def test_the_block_ends_when_the_body_raises(net: Net) -> None:
    with pytest.raises(ZeroDivisionError), activate(net, 0.5):
        raise ZeroDivisionError
    assert net.stem.weight.shape == (16, 6)


@pytest.mark.parametrize("seed", range(5))
def test_activated_and_extracted_agree(net: Net, seed: int) -> None:
    config = space(net).sample(seed)
    small = extract(net, config)
    with torch.no_grad(), activate(net, config):
        torch.testing.assert_close(net(X), small(X))
    assert type(small) is Net
    assert len(small.blocks) == len(config.depths["blocks"])
    assert sum(p.numel() for p in small.parameters()) == cost(net, config).params
    assert {type(module) for module in small.modules()} == {Net, Block, nn.Linear, nn.LayerNorm, nn.ModuleList}


def test_extract_without_a_configuration_takes_the_active_subnet(net: Net) -> None:
    with activate(net, {"width": 4}):
        small = extract(net)
    assert small.stem.weight.shape == (4, 6)
    assert small.stem.out_features == 4
    assert small.stem.weight.untyped_storage().data_ptr() != net.stem.weight.untyped_storage().data_ptr()


def test_costs_of_one_of_many_and_of_encoded_configurations_agree(net: Net) -> None:
    configs = [space(net).sample(seed) for seed in range(4)]
    many, encoded = cost(net, configs), cost(net, space(net).encode(configs))
    for i, config in enumerate(configs):
        one = cost(net, config)
        assert (one.macs, one.params) == (many.macs[i], many.params[i]) == (encoded.macs[i], encoded.params[i])
    assert isinstance(many.macs, np.ndarray)
    assert cost(net).params == sum(p.numel() for p in Net().parameters())
    assert cost(net).macs == 16 * 6 + 16 * 3 + 4 * 2 * 16 * 20  # per sample: the batch is divided out


def test_a_configuration_is_a_value(net: Net) -> None:
    config = space(net).config({"*.hidden": 0.5, "blocks": 2})
    assert config == SubnetConfig.from_json(config.to_json())
    assert hash(config) == hash(space(net).config({"*.hidden": 0.5, "blocks": 2}))
    assert config.sizes["blocks.1.hidden"] == 10


def test_a_deep_copy_is_elastic_on_its_own(net: Net) -> None:
    twin = copy.deepcopy(net)
    with activate(twin, 0.5):
        assert net.stem.weight.shape == (16, 6)
        assert twin.stem.weight.shape == (8, 6)


def test_options_narrow_the_space() -> None:
    model = elastify(
        Net(), X, freeze="blocks.0.hidden", choices={"width": [4, 0.5]}, min_ratio={"*": 0.5}, multiple_of=5
    )
    found = {axis.name: axis.choices for axis in space(model).axes}
    assert "blocks.0.hidden" not in found
    assert found["width"] == (4, 8, 16)
    assert found["blocks.1.hidden"] == (10, 15, 20)


def test_depth_can_be_switched_off() -> None:
    assert space(elastify(Net(), X, depth=False)).stages == ()


def test_outputs_move_on_request() -> None:
    model = elastify(Odd(plain), X, keep_outputs=False)
    assert sorted(axis.size for axis in space(model).axes) == [3, 10]
    with activate(model, 0.5):
        assert model(X).shape == (2, 2)


def test_without_verification_nothing_is_claimed() -> None:
    assert not space(elastify(Net(), X, verify=False)).verified


def test_a_model_without_weights_is_captured_but_not_verified() -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.warns(UserWarning, match="has no weights .* units are not"):
        elastify(model, torch.empty(2, 6, device="meta"))
    assert not space(model).verified
    assert len(space(model).axes) == 5


def test_keyword_inputs_and_dicts_mean_the_same() -> None:
    for inputs, kwargs in ((None, {"x": X}), ({"x": X}, None), ((X,), None), ([X], None)):
        assert len(space(elastify(Net(), inputs, example_kwargs=kwargs)).axes) == 5


def test_a_batch_of_one_and_zeros_are_enough() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = elastify(Net(), torch.zeros(1, 6))
    assert len(space(model).axes) == 5


def test_elastify_leaves_the_mode_the_gradients_and_the_random_numbers_alone() -> None:
    model = Net().train()
    model.stem.requires_grad_(False)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    elastify(model, X)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert not model.stem.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


class Cached(nn.Module):
    """Gathers a bias per head on first use and keeps it, as some attention layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 24), nn.Linear(24, 3)
        self.bias = nn.Parameter(torch.randn(4, 5))
        self.heads, self.cache = 4, {}
        self.constants = {"shift": torch.ones(3)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias.repeat(1, 1)
        y = self.qkv(x).reshape(x.shape[0], 5, self.heads, -1) + self.cache["bias"].t()[None, :, :, None]
        return self.out(torch.tanh(y).flatten(2)) + self.constants["shift"]


@pytest.mark.parametrize("run_before", [False, True])
def test_caches_of_forward_are_forgotten_with_the_sizes_that_they_are_for(run_before: bool) -> None:
    torch.manual_seed(0)
    model, x = Cached(), torch.randn(2, 5, 6)
    if run_before:
        model(x)
    elastify(model, x)
    assert space(model).verified
    heads = next(axis for axis in space(model).axes if axis.role == "heads")
    assert ("bias", 0) in heads.members
    full = model(x)
    assert model.cache["bias"].shape[0] == 4
    assert list(model.constants) == ["shift"]
    config = {heads.name: 2}
    with activate(model, config):
        active = model(x)
    small = extract(model, config)
    assert small.cache == {}
    torch.testing.assert_close(small(x), active)
    torch.testing.assert_close(model(x), full)


def test_a_cache_comes_back_where_elastify_fails() -> None:
    model, x = Cached(), torch.randn(2, 5, 6)
    model(x)
    cache = model.cache
    with pytest.raises(ElastifyError):
        elastify(model, x, freeze=["nothing"])
    assert model.cache is cache


class Widening(nn.Module):
    """Looks at two numbers that nothing else reads, to see whether it needs a projection."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.dim, self.dim_out = dim, dim_out
        self.project, self.layer = nn.Linear(dim, dim_out), nn.Linear(dim, dim_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.project(x) if self.dim != self.dim_out else x
        return shortcut + torch.relu(self.layer(x))


def test_numbers_that_only_a_comparison_reads_follow_and_keep_its_answer() -> None:
    model = elastify(nn.Sequential(nn.Linear(6, 8), Widening(8, 12), nn.Linear(12, 3)), torch.randn(2, 6))
    for seed in range(40):
        config = space(model).sample(seed)
        small = extract(model, config)
        assert small[1].dim == small[0].out_features != small[1].dim_out == small[2].in_features
