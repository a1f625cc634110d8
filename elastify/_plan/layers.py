"""Numbers of layers: what counts the blocks of a stage, and must count again when some are left out.

Three kinds are told apart. A number whose name speaks of layers (`depth`, `num_layers`) follows the closest elastic
container of that many modules. A number that forward compares with each place in a container of its own module, one
after the other (`if i == self.at`), is the place of a block, and counts the blocks before it. A list in a shared object
with one entry per layer (`config.layer_types`) loses the entries of the blocks that are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from elastify._capture import resolve
from elastify._ir import Attr, Guard, Stage
from elastify._plan.described import COUNTS, OTHERS, Described, Number, within

Counts = dict[Attr, tuple[str, ...]]


def count_layers(
    described: Described, stages: Sequence[Stage], known: Collection[Attr], guards: Iterable[Guard] = ()
) -> Counts:
    """Numbers and lists that count blocks, with the containers that they follow; `known` are read by forward."""
    lengths = {}
    for stage in stages:
        if not stage.bypassed:
            lengths[stage.container] = len(resolve(described.model, stage.container)._modules)
    if not lengths:
        return {}
    containers = _Containers(lengths)
    counts = _named(described.numbers, containers, known)
    for attr, container in _compared(guards, lengths):
        counts.setdefault(attr, (container,))
    return {**counts, **_lists(described, containers)}


class _Containers:
    """The elastic containers, with the numbers of modules in them."""

    def __init__(self, lengths: dict[str, int]) -> None:
        self.lengths = lengths
        self.words = {path: set(path.split(".")) for path in lengths}
        self.common = set.intersection(*self.words.values()) if len(lengths) > 1 else set[str]()

    def fitting(self, path: str, name: str, many: int) -> tuple[str, ...]:
        """The containers of so many modules that are closest to a module; of several the one that the name mentions
        (`decoder_layers`)."""
        fitting = [container for container, n in self.lengths.items() if n == many and within(container, path)]
        fitting = [container for container in fitting if container.rpartition(".")[0] == path] or fitting
        mentioned = [one for one in fitting if any(word in name for word in self.words[one] - self.common)]
        return tuple(mentioned or fitting)


def _named(numbers: Sequence[Number], containers: _Containers, known: Collection[Attr]) -> Counts:
    """Numbers whose names speak of layers. A plain number of a shared object follows all containers that fit, which
    the longest of them decides; any other must have just one."""
    counts: Counts = {}
    for number in numbers:
        if number.beside or not COUNTS.search(number.name) or OTHERS.search(number.name):
            continue
        of_object = number.shared and not number.attr.index
        if len(number.attr.index) < 2 and (of_object or number.attr not in known):
            fitting = containers.fitting(number.path, number.name, number.value)
            if len(fitting) == 1 or (fitting and of_object):
                counts[number.attr] = fitting
    return counts


def _compared(guards: Iterable[Guard], lengths: dict[str, int]) -> list[tuple[Attr, str]]:
    """Attributes that were compared with every place in one container of their module, and that container."""
    places: dict[Attr, set[int]] = {}
    for guard in guards:
        attr, place = guard.args if len(guard.args) == 2 else (None, None)
        if isinstance(attr, Attr) and not attr.index and type(place) is int:
            places.setdefault(attr, set()).add(place)
    found = []
    for attr, compared in places.items():
        own = [
            container
            for container, length in lengths.items()
            if container.rpartition(".")[0] == attr.owner and compared.issuperset(range(length))
        ]
        if len(own) == 1:
            found.append((attr, own[0]))
    return found


def _lists(described: Described, containers: _Containers) -> Counts:
    counts: Counts = {}
    for path, owner, name, value in described.attributes:
        if owner != path and type(value) is list and not OTHERS.search(name):
            fitting = containers.fitting(path, name, len(value))
            if fitting:
                counts[Attr(owner, name)] = fitting
    return counts
