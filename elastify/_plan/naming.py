"""Names of axes that a person can read and that stay the same from run to run.

An axis is named after a module and its role there. The role comes from the attribute that holds its size if there is
one, from its place in a product, or from how far it reaches. A width belongs to the module that encloses all those
that make its units (`layer2.width`, `width` where that is the whole model), anything else to the one that encloses
all its members (`blocks.3.attn.heads`, `blocks.3.mlp.hidden`) if they are near, or else to what makes its
units (`conv1.hidden`). Where two axes would share a name, the first module that makes the units is used, then a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

_NEAR = 2  # levels below the module that an axis is named after


@dataclass(slots=True)
class Draft:
    """What is known of an axis before it has a name.

    Its members in order, the names of attributes that hold its size, the axes that it stands `inside` of in a product
    (it is a `factor` if there is one on either side), the modules in which its units are `made`. It is `between` two
    linear maps if nothing else is done with its units: then it is the rank of their product.
    """

    id: int
    size: int
    members: list[tuple[str, int]] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    inside: set[int] = field(default_factory=set)
    factor: bool = False
    spans_blocks: bool = False
    made: list[str] = field(default_factory=list)
    between: bool = False


def role_of(draft: Draft) -> str:
    """heads, head_dim, groups, rank, width or hidden, from the attribute that holds the size, else from the reach."""
    for name in sorted(draft.attributes):
        text = name.lower()
        if ("head" in text or "key_value" in text or "kv" in text) and ("dim" in text or "size" in text):
            return "head_dim"
        if "head" in text:
            return "heads"
        if "group" in text and draft.factor:
            return "groups"
    if draft.between and not draft.factor:
        return "rank"
    return "width" if draft.spans_blocks and not draft.factor else "hidden"


def roles_of(drafts: Sequence[Draft]) -> dict[int, str]:
    """Roles of all axes: of two factors of a product without a role of their own, one is heads and one head_dim."""
    roles = {draft.id: role_of(draft) for draft in drafts}
    for draft in drafts:
        for outer in draft.inside & set(roles):
            if roles[outer] == "hidden" and roles[draft.id] in ("hidden", "head_dim"):
                roles[outer] = "heads"
            if roles[outer] == "heads" and roles[draft.id] == "hidden":
                roles[draft.id] = "head_dim"
    return roles


def enclosing(paths: Sequence[str]) -> str:
    """The longest module path that all paths begin with."""
    split = [path.split(".") if path else [] for path in paths]
    common: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _owner(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def name_axes(drafts: Sequence[Draft]) -> Mapping[int, tuple[str, str]]:
    """(name, role) of each axis by id."""
    roles = roles_of(drafts)
    names: dict[int, str] = {}
    for draft in drafts:
        names[draft.id] = _join(_home(draft, roles[draft.id]), roles[draft.id])
    if sum(role == "width" for role in roles.values()) > 1:  # then the first is not that of the whole model
        names.update({d.id: _join(_producer(d), "width") for d in drafts if names[d.id] == "width"})
    _spread(drafts, names, lambda draft: _join(_producer(draft), roles[draft.id]))
    _spread(drafts, names, None)
    return {ident: (name, roles[ident]) for ident, name in names.items()}


def _home(draft: Draft, role: str) -> str:
    """The module that an axis belongs to."""
    owners = [_owner(tensor) for tensor, _ in draft.members]
    around = enclosing(owners)
    if role == "width" and draft.made:
        return enclosing(draft.made)
    farthest = max(path.count(".") + bool(path) for path in owners) - (around.count(".") + bool(around))
    return around if role != "hidden" or farthest <= _NEAR or not draft.made else enclosing(draft.made)


def _producer(draft: Draft) -> str:
    """The first module that makes the units, or has the axis among its output dimensions."""
    if draft.made:
        return draft.made[0]
    return _owner(next((tensor for tensor, dim in draft.members if dim == 0), draft.members[0][0]))


def _join(path: str, role: str) -> str:
    return f"{path}.{role}" if path else role


def _spread(drafts: Sequence[Draft], names: dict[int, str], rename: Callable[[Draft], str] | None) -> None:
    counts = Counter(names.values())
    seen: Counter[str] = Counter()
    for draft in drafts:
        name = names[draft.id]
        if counts[name] == 1:
            continue
        if rename is not None:
            names[draft.id] = rename(draft)
        else:
            names[draft.id] = f"{name}{seen[name]}"
            seen[name] += 1


def name_runs(runs: Sequence[tuple[str, tuple[str, ...]]]) -> dict[tuple[str, ...], str]:
    """Names of runs of blocks, given as (container, blocks), by their blocks.

    The only run of a container has its name, `blocks`; one of several says which blocks it has, `blocks.2-5`. Blocks
    from different places are named after where they stand below their container, `stages.*.mixer` is `stages.mixer`.

    >>> name_runs([("a", ("a.0", "a.1")), ("b", ("b.0", "b.1")), ("b", ("b.3", "b.4")), ("c", ("c.0.fn", "c.1.fn"))])
    {('a.0', 'a.1'): 'a', ('b.0', 'b.1'): 'b.0-1', ('b.3', 'b.4'): 'b.3-4', ('c.0.fn', 'c.1.fn'): 'c.fn'}
    """
    names: dict[tuple[str, ...], str] = {}
    homes = [_parent(blocks) for _, blocks in runs]
    for (container, blocks), home in zip(runs, homes, strict=True):
        first, last = (block.rpartition(".")[2] for block in (blocks[0], blocks[-1]))
        if home is None:
            words = [word for word in blocks[0].removeprefix(container).split(".") if word and not word.isdigit()]
            names[blocks] = _join(container, words[-1] if words else "branches")
        elif homes.count(home) > 1:
            names[blocks] = _join(container, f"{first}-{last}")
        else:
            names[blocks] = container or "blocks"
    counts, seen = Counter(names.values()), Counter[str]()
    for blocks, name in names.items():
        if counts[name] > 1:
            names[blocks] = f"{name}{seen[name]}"
            seen[name] += 1
    return names


def _parent(blocks: Sequence[str]) -> str | None:
    """The module that holds all the blocks, if one does."""
    parents = {block.rpartition(".")[0] for block in blocks}
    return parents.pop() if len(parents) == 1 else None
