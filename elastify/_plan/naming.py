"""Names of axes that a person can read and that stay the same from run to run.

A name is a module and a word. The word says what the axis does in the recorded run (see `uses`), not what anything is
called: heads and head_dim, groups, width, channels, bottleneck, hidden and a few more (`word_of`). The module is the
one that encloses all that is meant: those that make the units and sum them up for a stream (`layer2.width`, `width`
where that is the whole model), else all members (`blocks.3.attn.heads`, `blocks.3.mlp.hidden`) if they are near, or
else what makes the units (`conv1.channels`). Where two axes would share a name, each goes on to its next closer module,
and takes a number in the end. Nothing depends on what is frozen, asked for or proven.

Names stand in files: configurations, studies. So a change of this algorithm keeps what it replaces: see `FORMER`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from elastify._plan.described import joined, within

_NEAR = 2  # levels below the module that an axis is named after


@dataclass(slots=True)
class Draft:
    """What is known of an axis before it has a name.

    Its members in order, the names of attributes that hold its size, the axes that it stands `inside` of in a product
    (it is a `factor` if there is one on either side), the axes of these `products`. `made` are the modules in which
    its units are made, `makers` the operations that do it; `sums` are the modules with residual sums of them, `times`
    is how many there are, `branch` the length of the shortest residual branch that it lies in, and whether it is
    narrower than the sum. It `attends` as heads do, or is what the heads multiply as queries and keys or as values
    (`of_heads`). `places` is whether a convolution over places takes or makes the units, `joined` whether they are
    concatenated with others, `viewed` whether some tensor has a dimension of them alone, `turned` whether a rotary
    embedding turns these units of each head and not the others beside them. What is `scanned` is a state:
    it is summed over between computed tensors, and a table has it or all heads share it. An axis is `between` two
    linear maps if nothing else is done with its units: then it is the rank of their product. It is `given` if a table
    of numbers that are not learned has it and nothing that is computed: positions, coordinates.
    """

    id: int
    size: int
    members: list[tuple[str, int]] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    inside: set[int] = field(default_factory=set)
    products: set[frozenset[int]] = field(default_factory=set)
    factor: bool = False
    made: list[str] = field(default_factory=list)
    makers: set[str] = field(default_factory=set)
    sums: list[str] = field(default_factory=list)
    times: int = 0
    branch: tuple[int, bool] | None = None
    attends: bool = False
    of_heads: set[str] = field(default_factory=set)
    places: bool = False
    joined: bool = False
    viewed: bool = False
    turned: bool = False
    scanned: bool = False
    between: bool = False
    given: bool = False

    @property
    def streams(self) -> bool:
        """Whether blocks add to it. A single sum inside the branch of another is no stream."""
        return self.times > 1 or (self.times == 1 and self.branch is None)

    def owners(self) -> list[str]:
        """The modules of its members."""
        return [tensor.rpartition(".")[0] for tensor, _ in self.members]

    def near(self) -> bool:
        """Whether its members lie close together, in a part of the model."""
        owners = self.owners()
        around = enclosing(owners)
        return around != "" and max(map(_depth, owners)) - _depth(around) <= _NEAR

    def without(self, other: Draft) -> bool:
        """Whether it is somewhere where the other axis is not."""
        places = {tensor for tensor, _ in self.members} - {tensor for tensor, _ in other.members}
        return bool(places) or any(other.id not in product for product in self.products)


_ROLES = {
    **dict.fromkeys(("heads", "kv_heads"), "heads"),
    **dict.fromkeys(("head_dim", "qk_head_dim", "v_head_dim", "rotary_head_dim"), "head_dim"),
    **dict.fromkeys(("groups", "q_per_kv"), "groups"),
    **dict.fromkeys(("hidden", "channels", "bottleneck", "embedding", "state"), "hidden"),
}  # the others are roles themselves


def role_of(word: str) -> str:
    """One of heads, head_dim, groups, rank, width and hidden.

    >>> role_of("kv_heads"), role_of("bottleneck"), role_of("width")
    ('heads', 'hidden', 'width')
    """
    return _ROLES.get(word, word)


def words_of(drafts: Sequence[Draft]) -> dict[int, str]:
    """The last word of the name of every axis."""
    by_id = {draft.id: draft for draft in drafts}
    words, inner = {draft.id: word_of(draft) for draft in drafts}, dict[int, list[Draft]]()
    for draft in drafts:
        for outer in draft.inside & words.keys():
            inner.setdefault(outer, []).append(draft)
    for outer in inner:
        words[outer] = words[outer] or _outer_word(by_id[outer])
    for outer in drafts:
        for draft in inner.get(outer.id, ()):
            if words[outer.id] == "heads" and words[draft.id] in ("heads", "groups") and outer.without(draft):
                words.update(_of_shared_heads(outer, draft, inner))
    for draft in drafts:
        if not words[draft.id] and any(words.get(outer) == "heads" for outer in draft.inside):
            words[draft.id] = "head_dim"
        beside = [other for outer in draft.inside for other in inner.get(outer, ()) if words[other.id] != "state"]
        uses = {use for other in beside for use in other.of_heads}
        if draft.turned and words[draft.id] == "head_dim" and any(not o.turned and "qk" in o.of_heads for o in beside):
            words[draft.id] = "rotary_head_dim"
        elif words[draft.id] == "head_dim" and len(draft.of_heads) == 1 and uses - draft.of_heads:
            words[draft.id] = f"{''.join(draft.of_heads)}_head_dim"
    return {draft.id: words[draft.id] or plain_word(draft) for draft in drafts}


def _outer_word(draft: Draft) -> str:
    """What the outer factor of a product is that nothing else speaks for: what a linear map makes and a view splits are
    heads, as a person reads `self.q(x).view(n, h, -1)`; convolutions and norms have groups."""
    return "heads" if draft.viewed and not any(op.startswith("conv") for op in draft.makers) else "groups"


def _of_shared_heads(outer: Draft, draft: Draft, inner: Mapping[int, Sequence[Draft]]) -> dict[int, str]:
    """Words where several heads go together: queries share keys and values, or in a state space they are shared."""
    units = inner.get(draft.id, ())
    if not units or any("qk" in unit.of_heads for unit in units):
        return {outer.id: "kv_heads", draft.id: "q_per_kv"}
    alone = [unit for unit in inner[outer.id] if unit.of_heads and draft.id not in unit.inside]
    return {outer.id: "groups", draft.id: "heads", **{unit.id: "state" for unit in alone}}


def word_of(draft: Draft) -> str:
    """What an axis has to do with heads or groups, if it has."""
    if draft.attends:
        return "heads"
    if draft.of_heads and (draft.factor or not draft.streams):  # a stream is more than the units of its only head
        return "head_dim"
    for name in sorted(draft.attributes) if draft.factor else ():
        text = name.lower()
        if "head" in text:
            return "head_dim" if "dim" in text or "size" in text else "heads"
        if "group" in text:
            return "groups"
    return ""


def plain_word(draft: Draft) -> str:
    """What an axis is that has nothing to do with heads: a stream, or what lies between streams."""
    if draft.streams:
        return "width"
    if draft.between and not draft.factor:
        return "rank"
    convolved = {op.startswith("conv") for op in draft.makers}
    if draft.places and convolved != {False}:
        return "bottleneck" if draft.branch is not None and draft.branch[1] else "channels"
    if convolved == {True} and (draft.joined or not draft.near()):
        return "channels"
    if draft.scanned:
        return "state"
    return "embedding" if "embedding" in draft.makers and True not in convolved else "hidden"


def enclosing(paths: Sequence[str]) -> str:
    """The longest module path that all paths begin with."""
    split = [path.split(".") if path else [] for path in paths]
    common: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def name_axes(drafts: Sequence[Draft]) -> Mapping[int, tuple[str, str]]:
    """(name, role) of each axis by id."""
    words, streams = words_of(drafts), [draft for draft in drafts if draft.streams]
    flat = all(tensor.count(".") < 2 for draft in drafts for tensor, _ in draft.members)
    rungs = {draft.id: _homes(draft, words[draft.id], streams, flat) for draft in drafts}
    names = {draft.id: "" for draft in drafts}
    moved = [draft.id for draft in drafts]
    while moved:
        for ident in moved:
            names[ident] = joined(rungs[ident].pop(0), words[ident])
        counts = Counter(names.values())
        moved = [ident for ident, name in names.items() if counts[name] > 1 and rungs[ident]]
    _number(names)
    return {ident: (name, role_of(words[ident])) for ident, name in names.items()}


def _homes(draft: Draft, word: str, streams: Sequence[Draft], flat: bool) -> list[str]:
    """Modules that an axis could be named after, the best first and the closest last; a `flat` model has no parts."""
    owners = draft.owners()
    out = [tensor.rpartition(".")[0] for tensor, dim in draft.members if dim == 0]
    first, made, around = [*draft.made, *out, *owners][0], enclosing(draft.made or owners), enclosing(owners)
    parent = first.rpartition(".")[0]
    if draft.streams:
        homes = [_home_of_stream(draft, streams), parent, made]
        return [*(home if word == "width" else joined(home, "width") for home in homes), first]
    if role_of(word) in ("heads", "head_dim", "groups"):
        homes = [around, alike(owners), parent, made]
        return [*(home for home in homes if home or flat or (word != "groups" and not parent)), first]
    home = around if (draft.near() or flat) and word not in ("channels", "bottleneck") else made
    alone = flat and draft.branch is None  # `hidden` is the name of a network without parts, not of a branch in it
    return [home, first] if home or alone else [first]


def _home_of_stream(draft: Draft, streams: Sequence[Draft]) -> str:
    """What encloses all that makes the units and sums them, or where there are other streams beside it, the outermost
    module with sums of this one alone."""
    home = enclosing(draft.sums)
    start = home.count(".") + 2 if home else 1
    blocks = {".".join(path.split(".")[:start]) for path in draft.sums}  # a stream may have others in its blocks
    paths = {path for other in streams if other.sums != draft.sums for path in other.sums}
    apart = [path for path in paths if not any(within(path, block) for block in blocks)]
    if not apart:
        return enclosing([*draft.made, *draft.sums])
    for place in (home, draft.sums[0]):
        parts = place.split(".")
        for count in range(1, len(parts) + 1):
            prefix = ".".join(parts[:count])
            if not any(within(path, prefix) for path in apart):
                return prefix
    return draft.sums[0]


Former = Callable[[Sequence[Draft], Mapping[int, str]], Mapping[int, str]]
FORMER: tuple[Former, ...] = ()
"""What earlier versions called axes, the oldest first: functions of the drafts and of today's names by id.

Whoever changes a name after a release adds a function that undoes the change; it lists only what has another name now,
and everything that stands in files is still read (configurations, studies, wishes in code):

    def before_2_0(drafts, names):
        return {draft.id: names[draft.id].replace("kv_heads", "groups") for draft in drafts}
"""


def former_names(drafts: Sequence[Draft], names: Mapping[int, str]) -> dict[int, tuple[str, ...]]:
    """The names of each axis in earlier versions."""
    found = [function(drafts, names) for function in FORMER]
    return {ident: tuple(old.get(ident, name) for old in found) for ident, name in names.items()}


def alike(paths: Sequence[str]) -> str:
    """What all paths have in the same place, if they begin alike.

    >>> alike(["decoder.0.attn.q", "decoder.1.attn.k"]), alike(["left.q", "right.q"])
    ('decoder.attn', '')
    """
    parts = [*zip(*(path.split(".") for path in paths), strict=False)]
    return ".".join(part[0] for part in parts if len(set(part)) == 1) if len(set(parts[0])) == 1 else ""


def _depth(path: str) -> int:
    return path.count(".") + bool(path)


def _number(names: dict[int, str]) -> None:
    """Numbers for those that still share a name."""
    counts, taken, seen = Counter(names.values()), set(names.values()), Counter[str]()
    for ident, name in names.items():
        while counts[name] > 1:
            new = f"{name}{seen[name]}"
            seen[name] += 1
            if new not in taken:
                names[ident] = new
                taken.add(new)
                break


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
            names[blocks] = joined(container, words[-1] if words else "branches")
        elif homes.count(home) > 1:
            names[blocks] = joined(container, f"{first}-{last}")
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
