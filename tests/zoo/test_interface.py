"""Every option of `elastify` on models of several kinds, and what the printed space says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from elastify import cost, elastify, extract, space

LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str, str]] = {
    # how to make one, its input, an axis that repeats, a module of its own axes, its deepest stage
    "vit": (
        lambda: timm.create_model("test_vit"), (2, 3, 160, 160),
        "blocks.*.mlp.hidden", "blocks.1.mlp.fc1", "blocks",
    ),
    "resnet": (lambda: timm.create_model("resnet18"), (2, 3, 64, 64), "layer*.channels", "layer2.0.conv1", "layer3"),
    "convnext": (
        lambda: timm.create_model("test_convnext"), (2, 3, 64, 64),
        "stages.*.mlp.hidden", "stages.2.blocks.1.mlp.fc1", "stages.2.blocks",
    ),
    "llama": (
        lambda: LlamaForCausalLM(LlamaConfig(vocab_size=99, num_hidden_layers=4, **LLAMA)), (),
        "model.layers.*.mlp.hidden", "model.layers.1.mlp.up_proj", "model.layers",
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> Any:
    make, shape, *names = MODELS[request.param]
    torch.manual_seed(0)
    return lambda **options: elastify(
        make().eval(), torch.randn(shape) if shape else None, verify=False, **options
    ), names


def test_options(case: Any) -> None:
    make, (axis, module, stage) = case
    plain = space(make())
    model = make(freeze=[module], choices={stage: [2]}, min_ratio={axis: 0.5}, multiple_of=4)
    found = space(model)
    names = {a.name for a in found.axes}
    chosen = [a for a in found.axes if a.role == "hidden" and a.name in {b.name for b in plain.axes}]
    assert len(names) < len(plain.axes)
    assert [s.choices for s in found.stages if s.name == stage] == [
        tuple(sorted({2, len(_stage(plain, stage).blocks)}))
    ]
    assert all(size % 4 == 0 for a in chosen for size in a.choices[:-1])
    text = str(found)
    asked = {"freeze": (module,), "choices": {stage: [2]}, "min_ratio": {axis: 0.5}, "multiple_of": 4}
    assert text.splitlines()[1:5] == [f"asked: {name}={value!r}" for name, value in asked.items()]
    assert f"frozen by the pattern '{module}'" in text
    small = extract(model, found.min)
    assert small.get_submodule(module).weight.shape == make().get_submodule(module).weight.shape
    assert cost(model, found.min).macs < cost(model).macs


def test_outputs_may_move(case: Any) -> None:
    make, _ = case
    kept, moving = space(make()), space(make(keep_outputs=False))
    assert len(moving.axes) >= len(kept.axes)
    assert "asked: keep_outputs=False" in str(moving)
    assert sum(dim.reason.startswith("the model's interface: output") for dim in moving.plan.frozen) == 0


def test_a_frozen_stage_and_no_depth(case: Any) -> None:
    make, (_, _, stage) = case
    found = space(make(freeze=[stage], keep_outputs=False))
    assert stage not in [s.name for s in found.stages]
    assert f"frozen by the pattern '{stage}'" in str(found)
    assert space(make(depth=False)).stages == ()


def test_names_do_not_depend_on_the_run_or_the_options(case: Any) -> None:
    make, _ = case
    first, second, coarse = space(make()), space(make()), space(make(min_ratio=0.5, multiple_of=16))
    assert first.columns == second.columns
    assert set(coarse.columns) <= set(first.columns)


def _stage(found: Any, name: str) -> Any:
    return next(stage for stage in found.stages if stage.name == name)
