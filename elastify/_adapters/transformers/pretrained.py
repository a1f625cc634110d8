"""`save_pretrained` writes the weights and the `config`, and a reload builds the class anew from these.

Where the config cannot say what a subnet is, that is another network: layers of different widths do not fit, and
rotary frequencies, which a class computes from the size of a head, are silently others than those that were kept. An
extracted model therefore carries a `save_pretrained` of its own. It rebuilds the model from the config in memory,
compares, and then either calls the method of the class or refuses with the reason. An elastic model is saved whole, as
a trainer does for its checkpoints, and refused while a subnet is active: its weights are then all there, and its
config is the subnet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from elastify._adapters.library import of
from elastify._errors import ElastifyError


def guard(model: nn.Module) -> None:
    """Let `save_pretrained` of a model and of the models in it ask first.

    A pickled model forgets it: the method is then looked up in the class, and elastify is not needed.
    """
    for module in model.modules():
        if callable(getattr(type(module), "save_pretrained", None)) and hasattr(module, "config"):
            module.__dict__["save_pretrained"] = MethodType(save_pretrained, module)


def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """The method of the class, for a model that its config describes; else an ElastifyError."""
    elastic = next((m.__dict__["_elastify"] for m in self.modules() if "_elastify" in m.__dict__), None)
    if elastic is None:
        why, fix = difference(self), "elastify.save(model, directory); elastify.load reads it"
    else:
        subnet = bool(elastic.choice.parts)
        why = "a subnet is active: the config describes it, the weights are those of the full network" if subnet else ""
        fix = "extract(model) makes a model of the subnet; activate(model, None) saves the full network"
    if why:
        raise ElastifyError(f"save_pretrained cannot save this {type(self).__name__}", why=why, fix=fix)
    return type(self).save_pretrained(self, save_directory, *args, **kwargs)


def difference(model: Any) -> str:
    """What would be different in a model that is built from the config and given the weights; "" if nothing."""
    from huggingface_hub.errors import StrictDataclassError

    kind = type(model).__name__
    with torch.random.fork_rng(devices=[]):
        try:
            config = type(model.config).from_dict(model.config.to_dict())
            other = type(model)(config)
        except (StrictDataclassError, ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            return f"a {kind} cannot be built from its config: {' '.join(str(error).split())}"
    mine, theirs = (dict(m.state_dict()) for m in (model, other))
    for name in [*mine, *theirs]:
        shapes = [list(tensors[name].shape) if name in tensors else "not there" for tensors in (mine, theirs)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]}; in a {kind} built from its config it is {shapes[1]}"
    other.load_state_dict(mine, assign=True)
    anew = _computed_anew(model, other)
    inputs = of(model).example_inputs(model)
    if not (anew if inputs is None else _outputs_differ(model, other, *inputs)):
        return ""
    if not anew:
        return f"a {kind} built from its config and given its weights computes something else"
    return f"{anew[0]} is not a weight: a {kind} built from its config computes it again, with another result"


def _computed_anew(model: nn.Module, other: nn.Module) -> list[str]:
    """Unsaved buffers that are others in a rebuilt model; the rest becomes the same, in its dtype."""
    saved, theirs = model.state_dict().keys(), dict(other.named_modules(remove_duplicate=False))
    anew = []
    for name, buffer in model.named_buffers():
        path, _, local = name.rpartition(".")
        made = theirs[path]._buffers.get(local) if name not in saved and path in theirs else None
        if made is not None and torch.equal(made.to(buffer), buffer):
            theirs[path]._buffers[local] = buffer
        elif name not in saved:
            anew.append(name)
    return anew


def _outputs_differ(model: nn.Module, other: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = [module for module in model.modules() if module.training]
    results = []
    try:
        for network in (model.eval(), other.to(device).eval()):
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found = tree_leaves(network(*args, **kwargs))
                results.append([leaf for leaf in found if isinstance(leaf, Tensor)])
    finally:
        for module in training:
            module.training = True
    return len({len(found) for found in results}) > 1 or not all(map(_close, *results))


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding: the two come from the same operations."""
    a, b = a.detach().double(), b.detach().double()
    scale = a[a.isfinite()].abs().amax().item() if a.isfinite().any() else 0.0
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=1e-6 * scale, equal_nan=True)
