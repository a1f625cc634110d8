"""Modules that hold a model and call it: compiled, averaged, parallel ones.

What elastify does with a model it does to the model itself. A wrapper copies weights, hands modules to threads, or
guards on what it has seen, so it is never made elastic: it is named, with the name of what it holds.
"""

from __future__ import annotations

from torch import nn

from elastify._errors import ElastifyError

_HELD = ("_orig_mod", "module", "_fsdp_wrapped_module")


def wrapped(model: nn.Module) -> str:
    """The attribute under which a wrapper of torch holds a model; "" for any other module.

    >>> wrapped(nn.DataParallel(nn.Linear(2, 2))), wrapped(nn.Sequential(nn.Linear(2, 2)))
    ('module', '')
    """
    children = [name for name, _ in model.named_children()]
    named = children[0] if len(children) == 1 and children[0] in _HELD else ""
    return named if type(model).__module__.startswith("torch.") else ""


def not_elastic(model: object) -> ElastifyError:
    """The error for a model that should be elastic and is not."""
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        return ElastifyError(f"this {kind} is no torch.nn.Module", fix="model = elastify(model, example_inputs)")
    inside = next((path for path, part in model.named_modules() if path and "_elastify_root" in vars(part)), "")
    if inside:
        return ElastifyError(
            f"this {kind} is not elastic, the model in it is",
            where=inside,
            fix=f"pass {written('model', inside)} instead of the {kind} around it",
        )
    fix = f"elastify({written('model', wrapped(model))}, example_inputs)" if wrapped(model) else ""
    return ElastifyError(f"this {kind} is not elastic", fix=fix or "model = elastify(model, example_inputs)")


def written(name: str, path: str) -> str:
    """The module at a path, as one writes it.

    >>> written("model", "module"), written("model", "net.0")
    ('model.module', "model.get_submodule('net.0')")
    """
    if not path:
        return name
    plain = all(part.isidentifier() for part in path.split("."))
    return f"{name}.{path}" if plain else f"{name}.get_submodule({path!r})"
