"""Whether a model is still the one that was made elastic.

A plan speaks of modules and tensors by name. When one of them is replaced, added or given another shape afterwards, a
subnet would be cut out of something that nobody has looked at. So `watch` writes down what a model is made of, as plain
data that copies share (`Blueprint`), and the verbs compare.

To compare all names takes milliseconds. What is asked before every step must be quicker: `Whole` and `Touched` have the
very modules that the names meant, so that a glance at the tables that hold them tells whether they still stand there.
`activate` asks for those of which a subnet has a part only, and for what is around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from elastify._errors import ElastifyError
from elastify._ir import enclosing
from elastify._rewrite.blocks import CONTAINERS
from elastify._rewrite.buffers import growing_sizes
from elastify._rewrite.state import ElasticState, elastic_state

_SHOWN = 4  # changes in an error message
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Blueprint:
    """What a model is made of: classes of modules by path, shapes of tensors by name, the first name of each tied
    tensor, and which modules were rewritten. Of buffers only those of the plan count: forward may make others, and may
    let these grow in dimensions that are no axes (None)."""

    classes: Mapping[str, str]
    shapes: Mapping[str, Shape]
    ties: Mapping[str, str]
    rewritten: frozenset[str]


def watch(model: nn.Module) -> None:
    """From now on, changes of the model are noticed."""
    elastic = elastic_state(model)
    elastic.blueprint = _drawn(model, elastic)


def check_unchanged(model: nn.Module) -> Whole:
    """Refuse a model of which anything is not what it was when it was made elastic."""
    elastic = elastic_state(model)
    if elastic.whole is None or not elastic.whole.stands():
        _look(model, elastic)
        elastic.whole = Whole(model)
    return elastic.whole


def check_touched(model: nn.Module) -> None:
    """The same of the modules and tensors of which a subnet has a part, and of their places in the model."""
    elastic = elastic_state(model)
    if elastic.blueprint is None or (elastic.touched is not None and elastic.touched.stands()):
        return
    elastic.touched = Touched(model, elastic, elastic.blueprint)
    if not elastic.touched.stands():
        elastic.touched = None
        _look(model, elastic)


class Whole:
    """The modules of a model where they stand now, and the shapes of its parameters."""

    def __init__(self, model: nn.Module) -> None:
        named = list(model.named_modules())
        tables = [(module._modules, module._parameters) for _, module in named]
        self._children = [(children, list(children.values())) for children, _ in tables if type(children) is dict]
        self._shapes = [(table, _shapes(table)) for _, table in tables if type(table) is dict and table]
        self._tables = [(path, table) for path, module in named for table in (module._parameters, module._buffers)]

    def stands(self) -> bool:
        """Whether all of it is where it was."""
        for children, known in self._children:
            if list(children.values()) != known:
                return False
        return all(_shapes(table) == known for table, known in self._shapes)

    def types(self) -> tuple[Any, ...]:
        """The dtypes of all parameters and buffers, in order."""
        return tuple(t.dtype for _, table in self._tables for t in table.values() if t is not None)

    def named_types(self) -> dict[str, str]:
        """The same by name, as text."""
        found = {}
        for path, table in self._tables:
            for name, tensor in table.items():
                if tensor is not None:
                    found[f"{path}.{name}" if path else name] = str(tensor.dtype).removeprefix("torch.")
        return found


class Touched:
    """The rewritten modules where they stand now, with the shapes that their tensors must have."""

    def __init__(self, model: nn.Module, elastic: ElasticState, blueprint: Blueprint) -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        self._there = all(
            path in modules and vars(modules[path]).get("_elastify") is elastic for path in blueprint.rewritten
        )
        around = {outer for path in blueprint.rewritten for outer in ("", *enclosing(path))} if self._there else set()
        children: dict[str, list[str]] = {}
        for outer, _, name in (path.rpartition(".") for path in blueprint.classes if path):
            children.setdefault(outer, []).append(name)
        rows = [(modules[path], children.get(path, [])) for path in around if isinstance(modules[path], CONTAINERS)]
        self._rows = [(row._modules, [row._modules.get(name) for name in names]) for row, names in rows]
        places = [path.rpartition(".") for path in around if path]
        self._places = [(modules[outer]._modules, name, modules[outer]._modules[name]) for outer, _, name in places]
        tensors = (
            [(*name.rpartition("."), blueprint.shapes[name]) for name in elastic.plan.tensors] if self._there else []
        )
        tables = [(modules[path], local, shape) for path, _, local, shape in tensors]
        self._tensors = [
            (module._parameters if local in module._parameters else module._buffers, local, shape)
            for module, local, shape in tables
        ]

    def stands(self) -> bool:
        """Whether all of it is where it was."""
        return (
            self._there
            and all(list(children.values()) == known for children, known in self._rows)
            and all(children.get(name) is known for children, name, known in self._places)
            and all(_fits(table.get(local), shape) for table, local, shape in self._tensors)
        )


def _fits(tensor: Any, shape: Shape) -> bool:
    now = getattr(tensor, "shape", None)
    return now == shape or (now is not None and len(now) == len(shape) and _free(now, shape) == shape)


def _free(shape: Iterable[int], fixed: Iterable[int | None]) -> Shape:
    """A shape without the dimensions that are not fixed."""
    return tuple(None if size is None else n for n, size in zip(shape, fixed, strict=True))


def _shapes(table: Mapping[str, Any]) -> list[Any]:
    return [None if tensor is None else tensor.shape for tensor in table.values()]


def _look(model: nn.Module, elastic: ElasticState) -> None:
    found = list(differences(elastic.blueprint, _drawn(model, elastic))) if elastic.blueprint is not None else []
    if found:
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise ElastifyError(
            f"this {type(model).__name__} has been changed since it was made elastic",
            where="; ".join(found[:_SHOWN] + more),
            why="sizes and costs were worked out for the model that it was",
            fix="model = elastify(plain(model), example_inputs) for the model that it is; or put back what was there",
        )


def _drawn(model: nn.Module, elastic: ElasticState) -> Blueprint:
    modules = dict(model.named_modules(remove_duplicate=False))
    shapes: dict[str, Shape] = {}
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in elastic.extras:
            shapes[name], tied = tuple(parameter.shape), first.setdefault(id(parameter), name)
            if tied != name:
                ties[name] = tied
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in elastic.plan.tensors:
            fixed = growing_sizes(elastic.tables.tensors[name], {}, elastic.tables.full)
            shapes[name] = _free(buffer.shape, fixed if len(fixed) == buffer.dim() else buffer.shape)
    rewritten = frozenset(path for path, module in modules.items() if vars(module).get("_elastify") is elastic)
    return Blueprint({path: _class(module) for path, module in modules.items()}, shapes, ties, rewritten)


def _class(module: nn.Module) -> str:
    """The class that a module is written as: a generated one has the name of its base, and sharding puts its own over
    that."""
    kind = next(cls for cls in type(module).__mro__ if not cls.__module__.startswith("torch.distributed."))
    return f"{kind.__module__}.{kind.__qualname__}"


def differences(old: Blueprint, new: Blueprint) -> Iterator[str]:
    """What is not as it was, in words; nothing of what lies inside a module that is named already."""
    named: set[str] = set()

    def outermost(path: str) -> bool:
        if any(f"{path}.".startswith(f"{outer}.") for outer in named):
            return False
        named.add(path)
        return True

    for path, kind in old.classes.items():
        now = new.classes.get(path)
        same = now == kind and not (path in old.rewritten and path not in new.rewritten)
        if same or not outermost(path):
            continue
        if now is None:
            yield f"{path} ({_short(kind)}) is gone"
        else:
            yield f"{path} is another {_short(kind)}" if now == kind else f"{path} was {_short(kind)}, is {_short(now)}"
    for path, kind in new.classes.items():
        if path not in old.classes and outermost(path):
            yield f"{path} ({_short(kind)}) is new"
    for name in {**old.shapes, **new.shapes}:
        was, now = old.shapes.get(name), new.shapes.get(name)
        if was != now and not any(name.startswith(f"{path}.") for path in named):
            if was is None or now is None:
                yield f"{name} is {'new' if was is None else 'gone'}"
            else:
                yield f"{name} was {_written(was)}, is {_written(now)}"
    for name in {**old.ties, **new.ties}:
        if old.ties.get(name) != new.ties.get(name) and name in old.shapes and name in new.shapes:
            both = f"{name} and {old.ties.get(name) or new.ties[name]}"
            yield f"{both} were one tensor" if name in old.ties else f"{both} are one tensor now"


def _written(shape: Shape) -> str:
    return f"[{', '.join('any' if n is None else str(n) for n in shape)}]"


def _short(kind: str) -> str:
    return kind.rpartition(".")[2]
