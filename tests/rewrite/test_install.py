"""Rewriting in place and activating, on small models with plans written by hand."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from elastify import activate, elastify
from elastify._deploy.extract import materialise
from elastify._errors import ElastifyError
from elastify._ir.choice import FULL, Choice
from elastify._ir.ints import Attr
from elastify._ir.layout import Axis, Concat, Product, active_size, indices
from elastify._ir.plan import ElasticAxis, Plan
from elastify._rewrite.activate import set_active, store_statistics, stored_statistics
from elastify._rewrite.install import install, remove
from elastify._rewrite.slices import Index, Ruler, Slice, cut_of
from elastify._rewrite.state import elastic_state, is_elastic
from tests.plans_by_hand import CASES, MLP, fixed, make


def elastic(name, training=False):
    case = make(name)
    case.model.train(training)
    install(case.model, case.plan)
    return case


def output(model, case):
    """What a copy computes: train mode leaves no trace in batch-norm statistics."""
    return copy.deepcopy(model)(*case.inputs)


HEADS, DIM, OTHER = Axis(0, 4), Axis(1, 6), Axis(2, 5)
LAYOUTS = {
    "axis": HEADS,
    "product": Product((HEADS, DIM)),
    "qkv": Product((fixed(3), HEADS, DIM)),
    "gates": Concat((DIM,) * 4),
    "cat": Concat((HEADS, DIM, OTHER)),
    "flattened": Product((Concat((HEADS, DIM)), fixed(9))),
    "channels last": Product((fixed(9), HEADS)),
    "rotary": Product((HEADS, Concat((DIM, DIM)))),
    "product of concats": Product((Concat((HEADS, OTHER)), Concat((DIM, fixed(2))))),
}


class TestSlicing:
    @pytest.mark.parametrize("sizes", [{}, {0: 2}, {1: 5}, {0: 1, 1: 1}, {0: 3, 1: 2, 2: 4}], ids=str)
    @pytest.mark.parametrize("name", LAYOUTS)
    @pytest.mark.parametrize("with_grad", [False, True])
    def test_every_cut_equals_the_index_set(self, name, sizes, with_grad):
        layout = LAYOUTS[name]
        tensor = torch.randn(layout.size, HEADS.size, layout.size, requires_grad=with_grad)
        layouts = (layout, HEADS, layout)
        made = Slice(tensor.shape, [cut_of(part, sizes) for part in layouts])(tensor)
        units = {axis: np.arange(size) for axis, size in sizes.items()}
        expected = tensor
        for dim, part in enumerate(layouts):
            expected = expected.index_select(dim, torch.as_tensor(indices(part, units)))
        assert torch.equal(made, expected)
        if with_grad:
            weights = torch.randn_like(made)
            (got,) = torch.autograd.grad((made * weights).sum(), tensor)
            (wanted,) = torch.autograd.grad((expected * weights).sum(), tensor)
            assert torch.equal(got, wanted)

    def test_one_narrowed_dimension_is_a_view(self):
        tensor = torch.randn(4, 6)
        part = Slice((4, 6), [cut_of(HEADS, {0: 2}), None])(tensor)
        assert part.data_ptr() == tensor.data_ptr()

    def test_a_vector_has_no_gaps(self):
        cut = cut_of(Product((Axis(0, 2), Axis(1, 6))), {1: 1})  # units 0 and 6
        stored = torch.arange(12.0) + 1
        part = Slice((12,), [cut])(stored)
        assert part.tolist() == [1, 7]
        assert part.is_contiguous()
        found = []
        for statistics in (part, part.clone()):  # kernels that take a vector as it lies would see different ones
            x = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
            torch.nn.functional.batch_norm(x, statistics, statistics).square().sum().backward()
            found.append(x.grad)
        assert torch.equal(*found)

    def test_kinds_of_cut(self):
        assert cut_of(LAYOUTS["qkv"], {0: 2, 1: 3}).shape == (3, 4, 6)
        assert cut_of(LAYOUTS["gates"], {1: 3}).shape == (4, 6)
        assert isinstance(cut_of(LAYOUTS["cat"], {0: 1, 1: 2}), Index)
        assert cut_of(LAYOUTS["cat"], {3: 1}) is None

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_rulers_measure(self, name):
        for sizes in ({}, {0: 2}, {1: 5, 2: 1}):
            assert Ruler(LAYOUTS[name]).size(sizes) == active_size(LAYOUTS[name], sizes)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
class TestEveryModel:
    def test_full_is_bit_identical_and_removal_restores_everything(self, name, training):
        case = make(name)
        model = case.model.train(training)
        before = {module: (type(module), dict(module.__dict__)) for module in model.modules()}
        state, expected = copy.deepcopy(model.state_dict()), output(model, case)
        tensors = dict(model.named_parameters(remove_duplicate=False))
        install(model, case.plan)
        assert is_elastic(model)
        assert torch.equal(output(model, case), expected)
        assert dict(model.named_parameters(remove_duplicate=False)) == tensors
        for configuration in case.configurations:
            set_active(model, configuration)
            assert dict(model.named_parameters(remove_duplicate=False)) == tensors
            assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        remove(model)
        assert not is_elastic(model)
        assert torch.equal(output(model, case), expected)
        for module, (cls, own) in before.items():
            assert type(module) is cls
            now = dict(module.__dict__)
            for noise in ("_flat_weight_refs", "training"):
                now.pop(noise, None), own.pop(noise, None)
            assert now.keys() == own.keys()
            assert all(now[key] is own[key] or now[key] == own[key] for key in own)

    def test_activated_equals_extracted_with_gradients(self, name, training):
        case = elastic(name, training)
        for configuration in case.configurations:
            set_active(case.model, configuration)
            small = materialise(case.model, configuration)
            got, wanted = output(case.model, case), output(small, case)
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
            weights = torch.randn_like(wanted)
            (case.model(*case.inputs) * weights).sum().backward()
            gradients = {p: p.grad for p in case.model.parameters()}
            total = sum(g.abs().sum() for g in gradients.values() if g is not None)
            case.model.zero_grad()
            (small(*case.inputs) * weights).sum().backward()
            expected = sum(p.grad.abs().sum() for p in small.parameters() if p.grad is not None)
            torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)  # nothing but zeros elsewhere

    def test_classes_keep_their_names(self, name, training):
        case = make(name)
        before = [(module, type(module)) for module in case.model.modules()]
        install(case.model, case.plan)
        for module, cls in before:
            assert isinstance(module, cls)
            for attribute in ("__name__", "__qualname__", "__module__"):
                assert getattr(type(module), attribute) == getattr(cls, attribute)

    def test_copy_of_an_active_model_is_independent(self, name, training):
        case = elastic(name, training)
        full = output(case.model, case)
        configuration = case.configurations[-1]
        set_active(case.model, configuration)
        expected = output(case.model, case)
        twin = copy.deepcopy(case.model)
        assert torch.equal(output(twin, case), expected)
        set_active(twin, FULL)
        assert torch.equal(output(twin, case), full)
        assert torch.equal(output(case.model, case), expected)
        entry = twin.__dict__["_elastify"]
        assert entry is not case.model.__dict__["_elastify"]
        owners = [module.__dict__["_elastify"] for module in twin.modules() if "_elastify" in module.__dict__]
        assert all(owner is entry for owner in owners)

    def test_state_dict_loads_in_every_way(self, name, training):
        case = elastic(name, training)
        other = make(name).model.train(training)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        set_active(case.model, case.configurations[0])
        case.model.load_state_dict(other.state_dict(), strict=True)
        set_active(case.model, FULL)
        assert torch.equal(output(case.model, case), output(other, case))
        assigned = elastic(name, training)
        assigned.model.load_state_dict(copy.deepcopy(other.state_dict()), strict=True, assign=True)
        set_active(assigned.model, case.configurations[0])
        set_active(case.model, case.configurations[0])
        torch.testing.assert_close(output(assigned.model, case), output(case.model, case))

    def test_conversion_while_a_subnet_is_active(self, name, training):
        case = elastic(name, training)
        set_active(case.model, case.configurations[0])
        expected = output(case.model, case)
        case.model.double()
        inputs = [x.double() if x.is_floating_point() else x for x in case.inputs]
        torch.testing.assert_close(case.model(*inputs).float(), expected, rtol=1e-4, atol=1e-4)
        set_active(case.model, FULL)
        assert case.model(*inputs).dtype == torch.float64


class TestAttributes:
    def test_numbers_follow_and_return(self):
        case = elastic("language")
        model = case.model
        shape, scale = model.shape, model.layers[0].attn.scale
        set_active(model, Choice({0: 8, 1: 2, 2: 3}))
        assert model.shape == (8, (1, 8))
        assert model.config.hidden_size == 8
        assert model.config.sizes == {"vocab": 11, "widths": [8, 2]}
        attention = model.layers[1].attn
        assert (attention.num_heads, attention.head_dim, attention.scale) == (2, 3, 3**-0.5)
        assert (attention.qkv.in_features, attention.qkv.out_features) == (8, 18)
        assert model.layers[0].norm.normalized_shape == (8,)
        assert "Embedding(11, 8)" in repr(model)
        set_active(model, FULL)
        assert model.shape == shape == (16, (1, 16))
        assert model.config.sizes == {"vocab": 11, "widths": [16, 2]}
        assert model.layers[0].attn.scale is scale

    def test_torch_metadata(self):
        case = elastic("convnet")
        set_active(case.model, Choice({0: 3, 1: 2, 10: 2}))
        block = case.model.blocks[0]
        assert (block.depthwise.in_channels, block.depthwise.out_channels, block.depthwise.groups) == (8, 8, 8)
        assert (block.norm.num_channels, block.norm.num_groups, block.bn1.num_features) == (8, 4, 8)
        assert (case.model.up.in_channels, case.model.up.out_channels) == (3, 2)
        assert case.model.head.in_features == 20

    def test_repr_shows_the_active_configuration(self):
        case = elastic("convnet")
        assert "full network active" in repr(case.model)
        set_active(case.model, Choice({0: 3}, {"blocks": (0, 1)}))
        assert "width 3/8" in repr(case.model)
        assert "blocks 2/3 blocks" in repr(case.model)


class TestContainers:
    def test_module_list(self):
        layers = elastic("language").model.layers
        model = elastic("language").model
        set_active(model, Choice(blocks={"layers": (0, 2, 3)}))
        layers = model.layers
        full = list(layers._modules.values())
        assert list(layers) == [full[0], full[2], full[3]]
        assert len(layers) == 3
        assert layers[-1] is full[3]
        assert layers[1] is full[2]
        assert list(layers[1:]) == [full[2], full[3]]
        assert type(layers[1:]) is nn.ModuleList
        assert full[1] not in layers
        assert full[2] in layers
        assert full[2].layer_idx == 1
        with pytest.raises(IndexError):
            layers[3]
        assert len(list(layers.parameters())) == 4 * 6
        assert {name.split(".")[0] for name, _ in layers.named_parameters()} == {"0", "1", "2", "3"}
        set_active(model, FULL)
        assert list(layers) == full
        assert [layer.layer_idx for layer in layers] == [0, 1, 2, 3]

    def test_sequential_and_dictionary(self):
        case = elastic("convnet")
        set_active(case.model, Choice(blocks={"blocks": (0, 2)}))
        assert len(case.model.blocks) == 2
        assert type(case.model.blocks[:1]) is nn.Sequential
        case = elastic("torch_modules")
        steps = case.model.steps
        assert list(steps) == ["first", "second"]
        set_active(case.model, Choice(blocks={"steps": (0,)}))
        assert list(steps) == list(steps.keys()) == ["first"]
        assert list(steps.values()) == [steps["first"]]
        assert dict(steps.items()).keys() == {"first"}
        assert "second" not in steps
        assert "steps.second.weight" in case.model.state_dict()
        with pytest.raises(KeyError):
            steps["second"]

    def test_changing_a_container_needs_all_of_it(self):
        case = elastic("convnet")
        set_active(case.model, Choice(blocks={"blocks": (0,)}))
        with pytest.raises(ElastifyError, match="append while blocks are left out"):
            case.model.blocks.append(nn.Identity())
        set_active(case.model, FULL)
        case.model.blocks.append(nn.Identity())
        assert len(case.model.blocks) == 4

    def test_a_block_in_an_attribute_steps_aside(self):
        case = elastic("language")
        set_active(case.model, Choice(blocks={"tail": ()}))
        x = torch.randn(2, 16)
        assert case.model.extra(x) is x
        with pytest.raises(ElastifyError, match=r"'extra' cannot be left out[\s\S]*2 tensors"):
            case.model.extra(x, x)


class TestStatistics:
    def test_training_a_subnet_leaves_the_buffers_alone(self):
        case = elastic("convnet", training=True)
        before = copy.deepcopy(dict(case.model.named_buffers()))
        set_active(case.model, case.configurations[1])
        case.model(*case.inputs)
        assert all(torch.equal(before[name], buffer) for name, buffer in case.model.named_buffers())
        set_active(case.model, FULL)
        case.model(*case.inputs)
        assert case.model.bn.num_batches_tracked == 1
        assert not torch.equal(before["bn.running_mean"], case.model.bn.running_mean)

    def test_overlays_belong_to_a_configuration(self):
        case = elastic("convnet")
        sizes = {0: 4}
        assert stored_statistics(case.model, Choice(sizes)) is None
        set_active(case.model, Choice(sizes))
        plain = case.model(*case.inputs)
        mean = torch.full((4,), 7.0)
        store_statistics(case.model, {"bn.running_mean": mean})
        assert case.model.bn.running_mean is mean
        assert not torch.equal(case.model(*case.inputs), plain)
        # kept whole and not mentioned are the same configuration
        assert stored_statistics(case.model, Choice({0: 4, 1: 6}, {"blocks": (0, 1, 2)})) == {"bn.running_mean": mean}
        small = materialise(case.model, Choice(sizes))
        assert torch.equal(small.bn.running_mean, mean)
        set_active(case.model, Choice({0: 3}))
        assert case.model.bn.running_mean.shape == (3,)
        set_active(case.model, Choice(sizes))
        case.model.train()(*case.inputs)
        assert not torch.equal(mean, torch.full((4,), 7.0))  # train mode updates what was stored
        store_statistics(case.model, None, Choice(sizes))
        assert stored_statistics(case.model, Choice(sizes)) is None

    def test_the_full_network_has_its_own(self):
        case = elastic("convnet")
        with pytest.raises(ElastifyError, match="full network keeps its own statistics"):
            store_statistics(case.model, {})

    def test_cumulative_average(self):
        case = elastic("convnet", training=True)
        case.model.bn.momentum = None
        set_active(case.model, Choice({0: 4}))
        case.model(*case.inputs)
        assert case.model.bn.num_batches_tracked == 1
        set_active(case.model, FULL)
        assert case.model.bn.num_batches_tracked == 0


class TestRefusals:
    def test_elastic_twice(self):
        case = elastic("mlp")
        with pytest.raises(ElastifyError, match="already elastic"):
            install(case.model, case.plan)
        with pytest.raises(ElastifyError, match="already elastic"):
            install(nn.Sequential(case.model), Plan())

    def test_plain_model(self):
        with pytest.raises(ElastifyError, match="this Linear is not elastic"):
            set_active(nn.Linear(2, 2), FULL)

    @pytest.mark.parametrize(
        ("plan", "text"),
        [
            (Plan(tensors={"nothing.weight": (fixed(3),)}), "the model has no 'nothing'"),
            (Plan(tensors={"fc1.wait": (fixed(3),)}), "no tensor 'fc1.wait'"),
            (Plan(tensors={"fc1.weight": (fixed(16), fixed(7))}), r"fc1.weight has shape \(16, 6\)"),
            (Plan(attributes={Attr("fc1", "in_features"): fixed(9)}), r"fc1.in_features is 6[\s\S]*says that it is 9"),
            (Plan(attributes={Attr("fc1", "depth"): fixed(9)}), "no attribute fc1.depth"),
        ],
    )
    def test_a_wrong_plan_changes_nothing(self, plan, text):
        model = MLP()
        with pytest.raises(ElastifyError, match=text):
            install(model, plan)
        assert type(model.fc1) is nn.Linear
        assert not any("_elastify" in key for module in model.modules() for key in module.__dict__)

    def test_a_failure_half_way_is_undone(self):
        class Stubborn(nn.Linear):
            def __setattr__(self, name, value):
                if name == "__class__":
                    raise TypeError("my class is mine")
                super().__setattr__(name, value)

        model = nn.Sequential(nn.Linear(3, 4), Stubborn(4, 2))
        axis = Axis(0, 4)
        plan = Plan(
            (ElasticAxis(0, "a", 4, (2, 4)),), tensors={"0.weight": (axis, fixed(3)), "1.weight": (fixed(2), axis)}
        )
        with pytest.raises(TypeError, match="my class is mine"):
            install(model, plan)
        assert type(model) is nn.Sequential
        assert type(model[0]) is nn.Linear
        assert not any("_elastify" in key for module in model.modules() for key in module.__dict__)

    def test_configurations_of_other_models(self):
        model = elastic("mlp").model
        with pytest.raises(ElastifyError, match="no axis or stage 7"):
            set_active(model, Choice({7: 2}))
        with pytest.raises(ElastifyError, match="no axis or stage 'layers'"):
            set_active(model, Choice(blocks={"layers": (0,)}))
        with pytest.raises(ElastifyError, match="axis 0 cannot keep 17 units"):
            set_active(model, Choice({0: 17}))
        assert elastic_state(model).active is None

    def test_replacing_parameters(self):
        case = elastic("mlp")
        model = case.model
        new = nn.Parameter(torch.zeros(16, 6))
        model.fc1.weight = new
        assert model.fc1.weight is new
        with pytest.raises(TypeError, match="cannot assign"):
            model.fc1.weight = torch.zeros(16, 6)
        set_active(model, case.configurations[0])
        for change in (lambda: setattr(model.fc1, "weight", new), lambda: delattr(model.fc1, "weight")):
            with pytest.raises(ElastifyError, match="while a subnet is active"):
                change()
        set_active(model, FULL)
        del model.fc1.weight
        assert not hasattr(model.fc1, "weight")
        with pytest.raises(AttributeError, match="no attribute 'weight'"):
            model.fc1.weight  # noqa: B018

    def test_buffers_can_be_replaced_in_the_full_network(self):
        case = elastic("convnet")
        case.model.bn.running_mean = torch.ones(8)
        assert torch.equal(case.model.bn.running_mean, torch.ones(8))
        set_active(case.model, Choice({0: 4}))
        with pytest.raises(ElastifyError, match="while a subnet is active"):
            case.model.bn.running_mean = torch.ones(8)

    def test_parametrizing_afterwards(self):
        model = elastic("mlp").model
        with pytest.raises(ElastifyError, match=r"plain\(model\) first, or parametrize it before"):
            parametrizations.weight_norm(model.fc1)
        assert "weight" in model.fc1._parameters
        with pytest.raises(ElastifyError, match=r"must be a registered tensor(?s:.*)plain\(model\) first"):
            prune.l1_unstructured(model.fc2, "weight", 0.5)

    def test_memory_shared_by_two_parameters(self):
        model = MLP()
        model.fc2.bias = nn.Parameter(model.fc1.bias.data[:12])
        plan = Plan((ElasticAxis(0, "a", 16, (8, 16)),), tensors={"fc1.bias": (Axis(0, 16),)})
        with pytest.raises(ElastifyError, match="share memory"):
            install(model, plan)

    def test_a_tie_that_the_plan_forgot(self):
        case = make("language")
        plan = Plan(tensors={"embed.weight": case.plan.tensors["embed.weight"]})
        with pytest.raises(ElastifyError, match="one tensor"):
            install(case.model, plan)

    def test_attribute_errors_do_not_fall_back_to_the_full_weight(self):
        case = elastic("mlp")
        elastic_state(case.model).transforms["fc1.weight"] = lambda full: full.no_such_thing
        set_active(case.model, case.configurations[0])
        with pytest.raises(RuntimeError, match="active value of 'weight' cannot be computed"):
            case.model.fc1.weight  # noqa: B018

    def test_data_parallel(self):
        model = elastic("mlp").model
        with pytest.raises(ElastifyError, match="DataParallel copies modules"):
            model._replicate_for_data_parallel()

    def test_another_thread(self):
        case = elastic("mlp")
        found = []

        def run():
            try:
                found.append(case.model(*case.inputs))
            except ElastifyError as error:
                found.append(error)

        for configuration in (FULL, case.configurations[0]):
            set_active(case.model, configuration)
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        assert torch.equal(found[0], elastic("mlp").model(*case.inputs))
        assert "chosen by another thread" in str(found[1])


class TestWithTheRestOfTorch:
    def test_transforms_come_before_slicing(self):
        case = elastic("mlp")
        elastic_state(case.model).transforms["fc1.weight"] = lambda full: full * 2
        assert torch.equal(case.model.fc1.weight, case.model.fc1._parameters["weight"] * 2)
        set_active(case.model, Choice({0: 5}))
        assert torch.equal(case.model.fc1.weight, case.model.fc1._parameters["weight"][:5] * 2)
        assert torch.equal(materialise(case.model, Choice({0: 5})).fc1.weight, case.model.fc1.weight)

    def test_an_optimizer_trains_the_full_weights(self):
        case = elastic("mlp", training=True)
        optimizer = torch.optim.SGD(case.model.parameters(), 0.1)
        before = case.model.fc1.weight.detach().clone()
        set_active(case.model, Choice({0: 5}))
        case.model(*case.inputs).square().mean().backward()
        optimizer.step()
        set_active(case.model, FULL)
        changed = (case.model.fc1.weight != before).any(1)
        assert changed[:5].any()
        assert not changed[5:].any()

    def test_requires_grad(self):
        case = elastic("mlp")
        case.model.fc1.requires_grad_(False)
        set_active(case.model, Choice({0: 5}))
        case.model(*case.inputs).sum().backward()
        assert case.model.fc1._parameters["weight"].grad is None
        assert case.model.fc2._parameters["weight"].grad is not None

    @pytest.mark.parametrize("name", ["convnet", "language", "torch_modules"])
    def test_functional_calls(self, name):
        case = elastic(name)
        set_active(case.model, case.configurations[1])
        parameters = dict(case.model.named_parameters())

        def loss(values):
            return functional_call(case.model, values, case.inputs).square().mean()

        gradients = grad(loss)(parameters)
        case.model(*case.inputs).square().mean().backward()
        for key, parameter in parameters.items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradients[key], expected, rtol=1e-4, atol=1e-6)

    def test_meta_device(self):
        case = make("convnet")
        case.model.to("meta")
        install(case.model, case.plan)
        set_active(case.model, case.configurations[1])
        assert case.model(case.inputs[0].to("meta")).shape == (2, 5)

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpointing_even_with_a_backward_thread(self, reentrant):
        case = elastic("mlp")
        set_active(case.model, Choice({0: 5}))
        weight = case.model.fc1._parameters["weight"]
        x = case.inputs[0].requires_grad_()
        case.model(x).sum().backward()
        expected, weight.grad = weight.grad, None
        thread = threading.Thread(target=checkpoint(case.model, x, use_reentrant=reentrant).sum().backward)
        thread.start()  # accelerators run their backward in threads of their own
        thread.join()
        assert torch.equal(weight.grad, expected)

    def test_a_serialised_whole_model(self):
        case = elastic("language")
        set_active(case.model, case.configurations[2])
        file = io.BytesIO()
        torch.save(case.model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert torch.equal(again(*case.inputs), case.model(*case.inputs))
        set_active(again, FULL)
        assert len(again.layers) == 4

    def test_a_pickle_is_read_in_a_new_process(self, tmp_path):
        model = elastify(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 6))
        activate(model, {"hidden": 5})
        x = torch.randn(4, 6)
        torch.save((model, x, model(x)), tmp_path / "model.pt")
        code = """
import sys, torch
from torch import nn
model, x, expected = torch.load(sys.argv[1], weights_only=False)
from elastify import activate, space
assert torch.equal(model(x), expected) and model[0].out_features == 5
activate(model, None)
assert model[0].weight.shape == (16, 6) and isinstance(model[0], nn.Linear) and "hidden" in str(space(model))
"""
        command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr

    @pytest.mark.parametrize("name", ["mlp", "language"])
    def test_compile_makes_one_graph_per_configuration(self, name):
        from torch._dynamo.testing import CompileCounter

        case = elastic(name)
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(case.model, backend=counter, fullgraph=True)
        compiled(*case.inputs)
        configurations = case.configurations[:2]
        for _ in range(3):
            for configuration in configurations:
                set_active(case.model, configuration)
                torch.testing.assert_close(compiled(*case.inputs), case.model(*case.inputs))
        assert counter.frame_count <= 1 + len(configurations) + 1

    def test_memory_is_that_of_the_model(self):
        case = make("convnet")
        before = sum(t.untyped_storage().nbytes() for t in case.model.state_dict().values())
        install(case.model, case.plan)
        for configuration in case.configurations:
            set_active(case.model, configuration)
            case.model(*case.inputs)
        set_active(case.model, FULL)
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(case.model)}
        assert sum(held.values()) <= 1.05 * before


def _tensors(model):
    import gc

    seen, queue = set(), [model.__dict__]
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            yield thing
        elif isinstance(thing, (dict, list, tuple, set)) or type(thing).__module__.startswith("elastify"):
            queue.extend(gc.get_referents(thing))
        elif isinstance(thing, nn.Module):
            queue.append(thing.__dict__)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """A group of one process, over a file: no port is opened."""
    import torch.distributed as dist

    path = tmp_path_factory.mktemp("group") / "store"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    yield dist
    dist.destroy_process_group()


class TestDistributed:
    def test_data_parallel_processes(self, process_group):
        case = elastic("convnet", training=True)
        reference = copy.deepcopy(case.model)
        wrapped = nn.parallel.DistributedDataParallel(case.model, find_unused_parameters=True)
        for configuration in (FULL, *case.configurations):
            set_active(case.model, configuration)
            set_active(reference, configuration)
            wrapped(*case.inputs).square().mean().backward()
            reference(*case.inputs).square().mean().backward()
            for got, expected in zip(case.model.parameters(), reference.parameters(), strict=True):
                if expected.grad is not None:
                    torch.testing.assert_close(got.grad, expected.grad)
            case.model.zero_grad()
            reference.zero_grad()

    @pytest.mark.parametrize("name", ["mlp", "language"])
    def test_fully_shard(self, process_group, name):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        case = elastic(name, training=True)
        reference = copy.deepcopy(case.model)
        mesh = init_device_mesh("cpu", (1,))
        for layer in getattr(case.model, "layers", ()):
            fully_shard(layer, mesh=mesh)
        fully_shard(case.model, mesh=mesh)
        optimizers = [torch.optim.SGD(model.parameters(), 0.01) for model in (case.model, reference)]
        for configuration in (*case.configurations, FULL):
            for model in (case.model, reference):
                set_active(model, configuration)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got, expected = case.model(*case.inputs), reference(*case.inputs)
                torch.testing.assert_close(got, expected)
                got.square().mean().backward()
                expected.square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
