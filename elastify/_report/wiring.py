"""The wiring of a network, arranged for a picture: a row for each module, a line for each axis.

Rows are modules with tensors, in their order in the model, under the modules around them. A line runs down from the
first row to the last that its axis runs through, and each row says how: its units are made there (rows of a matrix),
taken in (summed over), both, or there is one number for each (a norm, a bias). Lines get lanes as in a log of branches:
the longest first, each in the first lane that is free over its whole length. So the widths of a network stand on the
left and what lives inside one block on the right.

Blocks in a row that look alike are drawn once: those whose rows and lines differ in nothing but the block's number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from elastify._errors import ElastifyError
from elastify._ir import enclosing

if TYPE_CHECKING:
    import networkx as nx

Marks = dict[int, str]


@dataclass(slots=True)
class Row:
    """A module that has tensors, or the heading of those inside one (`heading`). `alike` are the blocks that are drawn
    as this one."""

    path: str
    label: str
    depth: int
    detail: str = ""
    heading: bool = False
    alike: tuple[str, ...] = ()


@dataclass(slots=True)
class Line:
    """An axis: `marks` says by row number how it is used there, made, taken, both or each."""

    name: str
    size: int
    choices: tuple[int, ...]
    role: str
    marks: Marks
    lane: int = 0
    color: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        return min(self.marks)

    @property
    def last(self) -> int:
        return max(self.marks)


@dataclass(slots=True)
class Wiring:
    """Rows, lines (by lane), and the relations between sizes as text."""

    title: str
    rows: list[Row] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    relations: list[str] = field(default_factory=list)
    axes: int = 0  # those in blocks that are not drawn included

    @property
    def lanes(self) -> int:
        return 1 + max((line.lane for line in self.lines), default=0)


def wiring(graph: nx.Graph, only: Sequence[str] = ()) -> Wiring:
    """Rows and lines of the graph of a search space.

    `only` are globs of axes, which are then drawn with all that they run through, or of modules, which are drawn with
    all that runs through them. Raises ElastifyError where nothing matches.
    """
    kinds: dict[str, list[Any]] = {"axis": [], "tensor": [], "stage": [], "relation": []}
    for node, values in graph.nodes(data=True):
        kinds[values["kind"]].append((node, values))
    uses = _uses(graph, kinds["axis"])
    if only:
        uses = _filtered(uses, only)
    modules = list(dict.fromkeys(_module(values["name"]) for _, values in kinds["tensor"]))
    modules = _in_tree_order([path for path in modules if any(path in marks for marks in uses.values())])
    alike = _alike(modules, uses)
    shapes: dict[str, list[str]] = {}
    for _, values in kinds["tensor"]:
        if values["shape"]:
            local = values["name"].rpartition(".")[2]
            shapes.setdefault(_module(values["name"]), []).append(f"{local} {'x'.join(map(str, values['shape']))}")
    hidden = tuple(f"{twin}." for twins in alike.values() for twin in twins)
    rows = _rows([path for path in modules if not path.startswith(hidden)], shapes, alike)
    number = {row.path: index for index, row in enumerate(rows) if not row.heading}
    lines = []
    for _, values in kinds["axis"]:
        marks = {number[path]: how for path, how in uses.get(values["name"], {}).items() if path in number}
        if marks:
            known = {key: values[key] for key in ("name", "size", "choices", "role", "reasons")}
            lines.append(Line(marks=marks, **known))
    _give_lanes(lines)
    told = [values["name"] for node, values in kinds["relation"] if graph.degree(node) > 1]
    return Wiring(graph.name, rows, lines, told, len(uses))


def _in_tree_order(modules: Sequence[str]) -> list[str]:
    """Modules as they are, but those inside one module together: buffers come after all parameters otherwise."""
    place: dict[str, int] = {}
    for number, path in enumerate(modules):
        for outer in enclosing(path):
            place.setdefault(outer, number)
    return sorted(modules, key=lambda path: [place[outer] for outer in enclosing(path)])


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _uses(graph: nx.Graph, axes: Sequence[Any]) -> dict[str, dict[str, str]]:
    """By axis and module, how the axis is used there."""
    found: dict[str, dict[str, str]] = {}
    for node, values in axes:
        for _, other, edge in graph.edges(node, data=True):
            if edge["kind"] != "runs through":
                continue
            tensor = graph.nodes[other]
            vector = len(tensor["shape"]) < 2
            how = {"taken" if dim in edge["summed"] else "each" if vector else "made" for dim in edge["dims"]}
            places = found.setdefault(values["name"], {})
            how |= {places[_module(tensor["name"])]} if _module(tensor["name"]) in places else set()
            matrix = how - {"each"}  # a bias says nothing beside its weight
            both = "both" if len(matrix) > 1 else "".join(matrix)
            places[_module(tensor["name"])] = both or "each"
    return found


def _filtered(uses: Mapping[str, Mapping[str, str]], only: Sequence[str]) -> dict[str, dict[str, str]]:
    def match(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in only)

    kept: dict[str, dict[str, str]] = {}
    for axis, marks in uses.items():
        found = dict(marks) if match(axis) else {path: how for path, how in marks.items() if match(path)}
        if found:
            kept[axis] = found
    if not kept:
        names = ", ".join(list(uses)[:6])
        raise ElastifyError(
            f"no axis and no module matches {', '.join(only)}", fix=f"a glob of names such as {names}" if names else ""
        )
    return kept


def _alike(modules: Sequence[str], uses: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Numbered modules that follow each other and look like the first of them, by that one."""
    numbered = [outer for path in modules for outer in enclosing(path)[:-1] if outer.rpartition(".")[2].isdigit()]
    found: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for block in dict.fromkeys(numbered):
        home = _module(block)
        if home in first and _look(block, modules, uses) == _look(first[home], modules, uses):
            found.setdefault(first[home], []).append(block)
        else:
            first[home] = block
    twins = [twin for alike in found.values() for twin in alike]
    return {block: alike for block, alike in found.items() if not any(_inside(block, twin) for twin in twins)}


def _inside(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")


def _look(block: str, modules: Sequence[str], uses: Mapping[str, Mapping[str, str]]) -> tuple[Any, ...]:
    """What is drawn of a block, but for its number: axes of its own by what their names say after it."""
    found = []
    for path in modules:
        if _inside(path, block):
            crossing = [(axis.replace(f"{block}.", "*."), marks[path]) for axis, marks in uses.items() if path in marks]
            found.append((path.removeprefix(block), tuple(sorted(crossing))))
    return tuple(found)


def _rows(modules: Sequence[str], shapes: Mapping[str, Sequence[str]], alike: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows with headings for the modules that have several of them inside."""
    inside: dict[str, int] = {}
    for path in modules:
        for outer in enclosing(path)[:-1]:
            inside[outer] = inside.get(outer, 0) + 1
    rows: list[Row] = []
    seen: set[str] = set()
    for path in modules:
        outers = [outer for outer in enclosing(path)[:-1] if inside[outer] > 1 or outer in alike]
        for depth, outer in enumerate(outers):
            if outer not in seen:
                seen.add(outer)
                parent = outers[depth - 1] if depth else ""
                twins = (outer, *alike[outer]) if outer in alike else ()
                rows.append(Row(outer, outer.removeprefix(f"{parent}."), depth, heading=True, alike=twins))
        label = path.removeprefix(f"{outers[-1]}.") if outers else path
        rows.append(Row(path, label or "the model", len(outers), ", ".join(shapes.get(path, ()))))
    return _joined(rows)


def _joined(rows: list[Row]) -> list[Row]:
    """A heading directly under a heading joins it where it is the only one inside."""
    found: list[Row] = []
    for index, row in enumerate(rows):
        after = rows[index + 1] if index + 1 < len(rows) else None
        if row.heading and after is not None and after.heading and not row.alike:
            whole = [other for other in rows if _inside(other.path, row.path)]
            if all(other is after or _inside(other.path, after.path) for other in whole):
                prefix = f"{row.path}."
                rows[index + 1] = replace(
                    after, label=f"{row.label}.{after.path.removeprefix(prefix)}", depth=row.depth
                )
                for other in whole:
                    other.depth -= other is not after
                continue
        found.append(row)
    return found


def _give_lanes(lines: list[Line]) -> None:
    """A lane and a colour for each line. A lane is free from its first row to its last; the longest choose first."""
    taken: list[list[tuple[int, int]]] = []
    for line in sorted(lines, key=lambda line: (line.first - line.last, line.first)):
        lanes = (
            lane
            for lane, spans in enumerate(taken)
            if all(line.last < first or last < line.first for first, last in spans)
        )
        line.lane = next(lanes, len(taken))
        if line.lane == len(taken):
            taken.append([])
        taken[line.lane].append((line.first, line.last))
    for lane in range(len(taken)):
        inside = sorted((line for line in lines if line.lane == lane), key=lambda line: line.first)
        for place, line in enumerate(inside):
            line.color = lane + 3 * place  # the next in a lane has another colour
