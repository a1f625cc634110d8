"""Extracted models: plain, right in every number, and their own."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from elastify import elastify, extract, load, save, space
from elastify._deploy.extract import _outermost, materialise
from elastify._ir.choice import FULL, Choice
from elastify._ir.layout import Axis
from elastify._ir.plan import Plan, Stage
from elastify._rewrite.activate import set_active
from elastify._rewrite.install import install
from elastify._rewrite.state import Active, elastic_state
from tests.plans_by_hand import CASES, axis, make

EVERY = [(name, number) for name in CASES for number in range(len(make(name).configurations))]


def elastic(name):
    case = make(name)
    case.model.eval()
    install(case.model, case.plan)
    return case


def traces(thing, seen=None):
    """Paths inside an object at which something of elastify is held."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (str, int, float, torch.Tensor)):
        return []
    seen.add(id(thing))
    found = []
    if type(thing).__module__.startswith("elastify") or "_elastify_base" in vars(type(thing)):
        found.append(repr(type(thing)))
    if isinstance(thing, dict):
        children = [*thing.items()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        children = [*enumerate(thing)]
    else:
        children = [*getattr(thing, "__dict__", {}).items()]
    for key, child in children:
        found += [f"{key}.{path}" for path in traces(child, seen)]
    return found


@pytest.mark.parametrize(("name", "number"), EVERY)
class TestEveryConfiguration:
    def test_nothing_of_elastify_is_left(self, name, number):
        case = make(name)
        originals = {type(module) for module in case.model.modules()} | {nn.Identity}
        install(case.model, case.plan)
        small = materialise(case.model, case.configurations[number])
        assert {type(module) for module in small.modules()} <= originals
        assert not traces(small)
        own = {key for module in small.modules() for key in module.__dict__ if "elastify" in key}
        assert own == {"_elastify_spec"}
        assert json.loads(json.dumps(small._elastify_spec)) == small._elastify_spec

    def test_memory_is_its_own_and_compact(self, name, number):
        case = elastic(name)
        small = materialise(case.model, case.configurations[number])
        shared = {t.untyped_storage().data_ptr() for t in case.model.state_dict().values()}
        for tensor in [*small.parameters(), *small.buffers()]:
            assert tensor.is_contiguous()
            assert tensor.untyped_storage().data_ptr() not in shared
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
        with torch.no_grad():
            before = copy.deepcopy(case.model.state_dict())
            for parameter in small.parameters():
                parameter.zero_()
        assert all(torch.equal(before[key], value) for key, value in case.model.state_dict().items())

    def test_the_elastic_model_is_as_it_was(self, name, number):
        case = elastic(name)
        set_active(case.model, case.configurations[0])
        before = case.model(*case.inputs)
        materialise(case.model, case.configurations[number])
        assert elastic_state(case.model).choice == case.configurations[0]
        assert torch.equal(case.model(*case.inputs), before)

    def test_torch_modules_show_the_shapes_they_have(self, name, number):
        case = elastic(name)
        small = materialise(case.model, case.configurations[number])
        for module in small.modules():
            if isinstance(module, nn.Linear):
                assert tuple(module.weight.shape) == (module.out_features, module.in_features)
            elif isinstance(module, nn.Conv2d):
                assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
            elif isinstance(module, nn.ConvTranspose2d):
                assert module.weight.shape[:2] == (module.in_channels, module.out_channels // module.groups)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean.shape == (module.num_features,)
            elif isinstance(module, nn.GroupNorm):
                assert module.weight.shape == (module.num_channels,)
            elif isinstance(module, nn.LayerNorm):
                assert tuple(module.weight.shape) == tuple(module.normalized_shape)
            elif isinstance(module, nn.Embedding):
                assert tuple(module.weight.shape) == (module.num_embeddings, module.embedding_dim)
            elif isinstance(module, nn.Bilinear):
                expected = (module.out_features, module.in1_features, module.in2_features)
                assert tuple(module.weight.shape) == expected
            elif isinstance(module, nn.RNNBase):
                gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[type(module)]
                assert tuple(module.weight_ih_l0.shape) == (gates * module.hidden_size, module.input_size)
                assert module.weight_hh_l0.shape[1] == (module.proj_size or module.hidden_size)


class TestStructure:
    def test_ties_and_numbers(self):
        case = elastic("language")
        small = materialise(case.model, Choice({0: 5, 1: 3}, {"layers": (0, 3)}))
        assert small.head.weight is small.embed.weight
        assert small.config.hidden_size == 5
        assert small.config is not case.model.config
        assert case.model.config.hidden_size == 16
        assert [layer.layer_idx for layer in small.layers] == [0, 1]
        assert set(small.state_dict()) >= {"layers.1.norm.weight"}
        assert "layers.3.norm.weight" not in small.state_dict()
        assert "mark" in dict(small.named_buffers())
        assert "mark" not in small.state_dict()

    def test_blocks_leave_their_containers(self):
        small = materialise(elastic("language").model, Choice(blocks={"tail": ()}))
        assert type(small.extra) is nn.Identity
        small = materialise(elastic("torch_modules").model, Choice(blocks={"steps": (0,)}))
        assert list(small.steps) == ["first"]
        case = elastic("convnet")
        small = materialise(case.model, Choice(blocks={"blocks": (0, 2)}))
        assert list(small.blocks._modules) == ["0", "1"]
        assert torch.equal(small.blocks[1].conv1.weight, case.model.blocks[2].conv1.weight)

    def test_marks_flags_and_hooks_stay(self):
        case = elastic("mlp")
        case.model.fc1.weight.no_decay = True
        case.model.fc2.requires_grad_(False)
        calls = []
        case.model.fc2.register_forward_hook(lambda *_: calls.append(1))
        case.model.train()
        case.model.fc1.eval()
        small = materialise(case.model, Choice({0: 5}))
        assert small.fc1.weight.no_decay is True
        assert [small.fc1.weight.requires_grad, small.fc2.weight.requires_grad] == [True, False]
        assert (small.training, small.fc1.training, small.fc2.training) == (True, False, True)
        small(*case.inputs)
        assert calls == [1]

    def test_memory_format_is_kept(self):
        case = elastic("convnet")
        case.model.to(memory_format=torch.channels_last)
        small = materialise(case.model, Choice({0: 4}))
        assert small.blocks[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(small.stem.weight, case.model.stem.weight[:4])

    def test_recurrent_weights_are_the_parameters(self):
        small = materialise(elastic("lstm").model, Choice({0: 3}))
        assert all(a is b for a, b in zip(small.rnn._flat_weights, small.rnn.parameters(), strict=True))
        assert "_flat_weights" in small.rnn.__dict__

    def test_full_weights_are_never_copied(self, monkeypatch):
        case = elastic("mlp")
        full = {id(p) for p in case.model.parameters()}
        copied = []
        original = nn.Parameter.__deepcopy__

        def watch(self, memo):
            if id(self) not in memo:
                copied.append(id(self))
            return original(self, memo)

        monkeypatch.setattr(nn.Parameter, "__deepcopy__", watch)
        materialise(case.model, Choice({0: 5, 1: 3}))
        assert not full & set(copied)

    def test_extracting_an_extracted_copy(self):
        case = elastic("language")
        small = materialise(case.model, case.configurations[2])
        assert torch.equal(copy.deepcopy(small)(*case.inputs), small(*case.inputs))


def test_a_block_that_is_left_out_takes_those_inside_it_along():
    removed, inside = frozenset(["blocks.1", "blocks.1.layers.0", "blocks.10"]), frozenset(["blocks.1.layers.0"])
    assert _outermost(Active(FULL, {}, removed, frozenset())) == (["blocks.1", "blocks.10"], [])
    assert _outermost(Active(FULL, {}, removed - inside, inside)) == (["blocks.1", "blocks.10"], [])


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)
"""

RUN = """
import sys
sys.modules["elastify"] = None  # importing it fails
import copy, torch
model, x, expected = torch.load("model.pt", weights_only=False)
assert torch.equal(copy.deepcopy(model)(x), expected) and len(model.blocks) == 2
model.train()(x).sum().backward()
print("ran")
"""


def test_runs_where_elastify_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "net_without_elastify.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("net_without_elastify").Net().eval()
    width = Axis(0, 6)
    tensors = {f"blocks.{i}.{name}": (width,) * dim for i in range(3) for name, dim in (("weight", 2), ("bias", 1))}
    statistics = ("norm.running_mean", "norm.running_var")
    tensors |= dict.fromkeys(("norm.weight", "norm.bias", *statistics), (width,))
    stage = Stage("blocks", "blocks", ("blocks.0", "blocks.1", "blocks.2"), (1, 2, 3))
    install(model, Plan((axis(width, "width"),), (stage,), tensors=tensors, statistics=frozenset(statistics)))
    small = materialise(model, Choice({0: 4}, {"blocks": (0, 2)}))
    x = torch.randn(2, 4)
    torch.save((small, x, small(x)), tmp_path / "model.pt")
    run = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.stdout == "ran\n", run.stderr


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


class Counted(nn.Module):
    """A row that knows how many blocks it has."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.depth = blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_numbers_of_blocks_are_found_behind_a_gap(tmp_path):
    """Blocks that are left out give their places to others, some of which count blocks themselves."""

    def made() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), Block(), Block(), nn.Linear(8, 8), Counted(3), nn.Linear(8, 3)).eval()

    x = torch.randn(2, 4)
    model = elastify(made(), x)
    stages = {stage.name: 1 for stage in space(model).stages}
    assert len(stages) == 2
    small = extract(model, stages)
    assert len(small) == 5
    assert small[3].depth == len(small[3].blocks) == 1
    save(small, tmp_path)
    again = load(tmp_path, like=made())
    assert again[3].depth == 1
    assert torch.equal(again(x), small(x))
