"""What every axis does in the recorded run: the facts from which it gets its name.

Four questions are asked of the record, none of them about names of modules or attributes. *Who makes the units?* The
calls that have an axis in their result and in nothing that was computed before: linear maps, look-ups. *Is it a
stream?* `x + f(x)` adds to units that were there before: from a sum, one operand leads back to a tensor (through views
and norms, or one linear map for a shortcut with a projection), and the other was made of the same tensor with weights.
What lies between the two is inside the branch. *Does it attend?* Where one computed tensor is multiplied by another
(`q @ k.T`, `weights @ v`), heads are in the batch and units of heads in the matrices. *Does it go through a
convolution over places?* Then its units are channels.

In `x = stem(x); x = x + fc2(relu(fc1(x))); return head(x)` the sum leads back to what the stem made: its axis is a
stream, which fc2 makes again; the axis between fc1 and fc2 lies in the branch.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from elastify._analysis import Analysis, Op, Term, operation
from elastify._ir import Axis, Concat, Graph, Layout, Product, RecordedCall, Value, axes_of
from elastify._plan.naming import Draft

_LONG = 2000  # values of a branch

Ids = set[int]


def find_drafts(analysis: Analysis, names: Iterable[str], parameters: Collection[str]) -> list[Draft]:
    """The axes that could get smaller, in the order of their tensors: `names` are those of all of them, each once."""
    names = list(names)
    terms, drafts, real = analysis.terms, dict[int, Draft](), set[int]()
    for name in names:
        for dim, term in enumerate(analysis.tensor(name)):
            place = name, dim  # one for all axes: a dense network has a hundred through each tensor
            for leaf in dict.fromkeys(terms.leaves(term)):
                if leaf.frozen is None and leaf.size > 1:
                    drafts.setdefault(leaf.id, Draft(leaf.id, leaf.size)).members.append(place)
                    if name in parameters:
                        real.add(leaf.id)
    for attr, term in analysis.facts.attributes.items():
        inner = {leaf.id for leaf in terms.leaves(term)}  # one axis, perhaps several times (rotary halves)
        if len(inner) == 1 and terms.find(term).kind != "product" and inner <= drafts.keys():
            drafts[inner.pop()].attributes.add(attr.name)
    for layout in {
        term.id: terms.resolve(term) for name in names for term in map(terms.find, analysis.tensor(name))
    }.values():
        for product in _products(layout):
            _mark_factors(product, drafts)
            _mark_turned(product, drafts)
    _note_uses(analysis, drafts, parameters)
    return [draft for draft in drafts.values() if draft.id in real]


def _note_uses(analysis: Analysis, drafts: dict[int, Draft], parameters: Collection[str]) -> None:
    """Fill in the drafts. The first example that computes with an axis tells what it does."""
    first, *others = analysis.firsts
    before = copy.deepcopy(drafts) if others else {}
    uses = _Uses(analysis, first, drafts, parameters)
    uses.note(parameters)
    computed = uses.computed() if others else set()
    for index in others:
        own = copy.deepcopy(before)
        uses = _Uses(analysis, index, own, parameters)
        uses.note(parameters)
        drafts.update((ident, own[ident]) for ident in uses.computed() - computed if ident in own)
        computed |= uses.computed()


def _products(layout: Layout) -> Iterator[Product]:
    if not isinstance(layout, Axis):
        if isinstance(layout, Product):
            yield layout
        for part in layout.parts:
            yield from _products(part)


def _mark_factors(product: Product, drafts: dict[int, Draft]) -> None:
    """A fixed number of places is no factor that matters."""
    moving = [part for part in product.parts if any(axis.id in drafts for axis in axes_of(part))]
    whole = frozenset(axis.id for part in product.parts for axis in axes_of(part))
    for number, part in enumerate(moving):
        outer = {other.id for other in moving[:number] if isinstance(other, Axis)}
        for axis in axes_of(part):
            if axis.id not in drafts:
                continue
            drafts[axis.id].products.add(whole)
            if outer - {axis.id}:
                drafts[axis.id].inside |= outer - {axis.id}
                for ident in (*outer, axis.id):
                    drafts[ident].factor = True


def _mark_turned(product: Product, drafts: dict[int, Draft]) -> None:
    """Units of heads that stand in halves (`cat([-x2, x1])`) or in pairs, beside others that do not: these are those
    that a rotary embedding turns."""
    for part in product.parts:
        times = Counter(part.parts if isinstance(part, Concat) else ())
        for inner, count in times.items():
            axis = inner
            if isinstance(inner, Product) and len(inner.parts) == 2 and inner.parts[1].size == 2:
                axis = inner.parts[0]
            if isinstance(axis, Axis) and axis.id in drafts and (axis is not inner or count > min(times.values())):
                drafts[axis.id].turned = True


class _Uses:
    """Run number `index` of an analysis, and the drafts that are to be filled in."""

    def __init__(self, analysis: Analysis, index: int, drafts: dict[int, Draft], parameters: Collection[str]) -> None:
        self.terms, self.dims, self.graph = analysis.terms, analysis.dims[index], analysis.graphs[index]
        self.others = [pair for i, pair in enumerate(zip(analysis.graphs, analysis.dims, strict=True)) if i != index]
        self.drafts = drafts
        self._units: dict[int, frozenset[int]] = {}
        self.within = {ident: self.leaves(terms) for ident, terms in self.dims.items()}
        self.calls = [(call, operation(call.op)) for call in self.graph.calls]
        self.maker: dict[int, int] = {}  # of every value, the number of the call
        self.past: dict[int, int] = {}  # of every value, the axes of all that it was computed from, as bits
        self.bit = {ident: 1 << number for number, ident in enumerate(drafts)}
        self.fed = {value.id for value in self.graph.inputs}
        self.patience = 50 * len(self.graph.calls)  # with long branches: a loop over steps may have one at each
        self.tied, self.tables = set[frozenset[int]](), set[tuple[str, int]]()
        self.learned = {value.id for value in self.graph.tensors.values()}  # and what no linear map makes of these
        self.weights = {self.graph.tensors[name].id for name in parameters}  # no buffers: those only hold tables
        for number, (call, op) in enumerate(self.calls):
            given, past = {value.id for value in call.inputs()}, 0
            for ident in given:
                past |= self.past.get(ident, 0)
            for value in call.outputs():
                self.maker.setdefault(value.id, number)
                if not given.isdisjoint(self.fed):
                    self.fed.add(value.id)
                elif given and given <= self.learned and not op.maps:
                    self.learned.add(value.id)
                    if given & self.weights:
                        self.weights.add(value.id)
                if value.id in self.fed:
                    self.past[value.id] = past
                    for ident in self.within.get(value.id, set()) & drafts.keys():
                        self.past[value.id] |= self.bit[ident]

    def note(self, parameters: Collection[str]) -> None:
        """Fill in the drafts."""
        self._note_weights()
        for call, op in self.calls:
            if op.joins:
                self._joins(call)
            self._makers(call)
            if op.convolves:
                self._convolution(call)
            for product in self._matrices(call, op) if op.maps else ():
                self._attention(*product)
        for number, (call, op) in enumerate(self.calls):
            if op.sums:
                self._sum(number, call)
        self._between()
        self._dimensions(parameters)

    def computed(self) -> Ids:
        """The axes in the results of calls."""
        return set().union(*(self.within.get(value.id, ()) for call, _ in self.calls for value in call.outputs()))

    def leaves(self, terms: Iterable[Term]) -> Ids:
        """The axes in dimensions; of each kind of dimension they are looked up once."""
        found: Ids = set()
        for term in map(self.terms.find, terms):
            if term.id not in self._units:
                self._units[term.id] = frozenset(leaf.id for leaf in self.terms.leaves(term))
            found |= self._units[term.id]
        return found

    def _note_weights(self) -> None:
        """Pairs of factors of one dimension, fixed ones too, and dimensions of tables that nothing multiplies by."""
        operands = {value.id for call, op in self.calls if op.maps for value in call.inputs()}
        for name, value in self.graph.tensors.items():
            if value.id not in operands and len(value.shape) == 2:
                self.tables.update((name, dim) for dim in range(2))
        weights = (term for value in self.graph.tensors.values() for term in self.dims.get(value.id, ()))
        for term in {term.id: term for term in map(self.terms.find, weights)}.values():
            for product in _products(self.terms.resolve(term)):
                self.tied.update(map(frozenset, combinations({axis.id for axis in axes_of(product)}, 2)))

    # -- who makes the units -----------------------------------------------------------------------------

    def _makers(self, call: RecordedCall) -> None:
        if self.weights.isdisjoint(value.id for value in call.inputs()):
            return
        if all(value.id in self.learned for value in call.outputs()):
            return
        before = 0
        for value in call.inputs():
            before |= self.past.get(value.id, 0)
        made = set[int]().union(*(self.within.get(value.id, ()) for value in call.outputs()))
        for ident in made & self.drafts.keys():
            draft = self.drafts[ident]
            if not before & self.bit[ident]:
                draft.makers.add(call.op)
                if call.where not in draft.made:
                    draft.made.append(call.where)

    def _joins(self, call: RecordedCall) -> None:
        for term in (term for value in call.outputs() for term in self.dims.get(value.id, ())):
            if isinstance(self.terms.resolve(term), Concat):
                for ident in self.leaves([term]) & self.drafts.keys():
                    self.drafts[ident].joined = True

    def _between(self) -> None:
        others = set[int]()
        for call, op in self.calls:
            maps = op.linear or (op.matrices and any(value.id in self.weights for value in call.inputs()))
            if not maps and not op.view:  # a rank may be a part of what a map makes
                others.update(*(self.within.get(value.id, ()) for value in (*call.inputs(), *call.outputs())))
        for draft in self.drafts.values():
            owners = {tensor.rpartition(".")[0] for tensor, _ in draft.members}
            draft.between = draft.id not in others and len(draft.members) == len(owners) == 2 and len(draft.made) == 1

    def _dimensions(self, parameters: Collection[str]) -> None:
        fed = set[int]()
        for ident, terms in self.dims.items():
            fed.update(self.within[ident] if ident in self.fed else ())
            for leaf in map(self.terms.find, terms):
                if leaf.kind == "leaf" and leaf.id in self.drafts:
                    self.drafts[leaf.id].viewed = True
        for graph, dims in self.others:  # what runs in training or for another example only
            fed |= self._reached(graph, dims)
        for draft in self.drafts.values():
            made = draft.id in fed or any(operation(op).linear for op in draft.makers)
            draft.given = not made and any(name not in parameters for name, _ in draft.members)

    def _reached(self, graph: Graph, dims: Mapping[int, Sequence[Term]]) -> Ids:
        """The axes in all that a run computes from its inputs."""
        fed = {value.id for value in graph.inputs}
        for call in graph.calls:
            if any(value.id in fed for value in call.inputs()):
                fed.update(value.id for value in call.outputs())
        return self.leaves(term for ident in fed for term in dims.get(ident, ()))

    def _convolution(self, call: RecordedCall) -> None:
        if len(call.inputs()) < 2:
            return
        (given, weight), (made,) = call.inputs()[:2], call.outputs()
        channels = 1 - len(weight.shape)  # from the end: a single picture has no batch
        depthwise = weight.shape[1] == 1 and min(given.shape[channels], made.shape[channels]) > 1
        if max(weight.shape[2:]) > 1 and not depthwise:
            for ident in self.leaves(self.dims.get(weight.id, ())[:2]) & self.drafts.keys():
                self.drafts[ident].places = True

    # -- attention ---------------------------------------------------------------------------------------

    def _matrices(self, call: RecordedCall, op: Op) -> Iterator[tuple[Ids, Ids, Ids, bool]]:
        """Axes of the batch, summed axes and others of products of two computed tensors, whether one head is a head."""
        given = call.inputs()
        dims = [self.dims.get(value.id, []) for value in given]
        if any(value.id in self.learned for value in (given[-2:] if op.matrices else given[:3])):
            return
        if call.op == "scaled_dot_product_attention" and len(given) > 2:
            batch = self.leaves(term for many in dims[:3] for term in many[:-2])
            yield batch, self.leaves([dims[0][-1], dims[1][-1]]), self.leaves(dims[2][-1:]), True
        elif op.matrices and len(given) > 1 and min(map(len, dims[-2:])) > 2:
            a, b = dims[-2:]
            yield self.leaves([*a[:-2], *b[:-2]]), self.leaves(a[-1:]), self.leaves([a[-2], b[-1]]), len(a) > 3
        elif call.op == "einsum" and len(given) == 2 and isinstance(call.args[0], str):
            yield self._einsum(call.args[0].replace(" ", ""), dims)

    def _einsum(self, equation: str, dims: Sequence[Sequence[Term]]) -> tuple[Ids, Ids, Ids, bool]:
        words, _, result = equation.partition("->")
        found: list[dict[str, Ids]] = []
        for word, many in zip(words.split(","), dims, strict=False):
            left, _, right = word.partition("...")
            pairs = [*zip(left, many, strict=False), *zip(reversed(right), reversed(many), strict=False)]
            found.append({letter: self.leaves([term]) for letter, term in pairs})
        a, b = found
        both = a.keys() & b.keys()
        batch = set[int]().union(*(a[letter] | b[letter] for letter in both if letter in result))
        summed = set[int]().union(*(a[letter] | b[letter] for letter in both if letter not in result))
        free = set[int]().union(*({**a, **b}[letter] for letter in (a.keys() | b.keys()) - both))
        return batch, summed, free, False

    def _attention(self, batch: Ids, summed: Ids, free: Ids, alone: bool) -> None:
        units = {i for i in (summed | free) - batch if any(frozenset((head, i)) in self.tied for head in batch)}
        units -= {outer for unit in units & self.drafts.keys() for outer in self.drafts[unit].inside}  # folded heads
        for ident in units | (summed | free if alone and not batch & self.drafts.keys() else set()):
            if ident in self.drafts:
                self.drafts[ident].of_heads.add("qk" if ident in summed else "v")
        for ident in summed & self.drafts.keys() - units:
            draft = self.drafts[ident]
            draft.scanned = bool(batch & self.drafts.keys()) or not self.tables.isdisjoint(draft.members)
        for head in batch & self.drafts.keys():
            if any(frozenset((head, unit)) in self.tied for unit in units):
                self.drafts[head].attends = True

    # -- residual sums -----------------------------------------------------------------------------------

    def _sum(self, number: int, call: RecordedCall) -> None:
        operands = [value for value in call.inputs() if value.id in self.fed]
        for one, other in (operands, operands[::-1]) if len(operands) == 2 else ():
            roots = dict(self._back(one))
            branch = self._branch(other, roots)
            if branch is None:
                continue
            root = max(branch.roots, key=lambda ident: self.maker.get(ident, -1))
            shared = self.within.get(one.id, set()) & self.within.get(other.id, set()) & self.drafts.keys()
            inner = branch.sizes.keys() - shared - self.within.get(root, set())
            projected = roots[root]
            if not branch.weights or (projected and (branch.sums or not inner)):
                continue
            for ident in shared:
                self.drafts[ident].times += 1
                if call.where not in self.drafts[ident].sums:
                    self.drafts[ident].sums.append(call.where)
            size = max((term.size for term in self.dims.get(one.id, ()) if shared & self.leaves([term])), default=0)
            length = number - self.maker.get(root, -1)
            for ident in inner:  # the closest sum counts
                draft = self.drafts[ident]
                if draft.branch is None or length < draft.branch[0]:
                    draft.branch = length, branch.sizes[ident] < size
            return

    def _back(self, value: Value) -> Iterator[tuple[int, bool]]:
        """The values that a shortcut leads back to, and whether a linear map lies between."""
        projected = False
        while True:
            yield value.id, projected
            if value.id not in self.maker:
                return
            call, op = self.calls[self.maker[value.id]]
            given = [v for v in call.inputs() if v.id in self.fed]
            if len(given) != 1 or (projected and op.maps):
                return
            projected |= op.maps
            value = given[0]

    def _branch(self, end: Value, roots: Collection[int]) -> _Branch | None:
        """All that lies between a value and the roots that it was made of, if it was."""
        branch, start = _Branch(), min(self.maker.get(ident, -1) for ident in roots)
        stack, seen = [end], {end.id}
        while stack:
            self.patience -= len(seen) > _LONG
            if self.patience < 0 and len(seen) > _LONG:
                return None
            value = stack.pop()
            number = self.maker.get(value.id, -1)
            if value.id in roots:
                branch.roots.add(value.id)
            if value.id in roots or number <= start:
                continue
            call, op = self.calls[number]
            for term in self.dims.get(value.id, ()):
                for ident in self.leaves([term]) & self.drafts.keys():
                    branch.sizes[ident] = min(term.size, branch.sizes.get(ident, term.size))
            branch.weights |= op.maps and any(given.id in self.learned for given in call.inputs())
            fed = [given for given in call.inputs() if given.id in self.fed]
            branch.sums |= op.sums and len(fed) > 1
            stack += [given for given in fed if given.id not in seen]
            seen.update(given.id for given in fed)
        return branch if branch.roots - {end.id} else None


@dataclass(slots=True)
class _Branch:
    """Where it begins, the smallest dimension of every axis in it, whether it has weights, and sums of its own."""

    roots: Ids = field(default_factory=set)
    sizes: dict[int, int] = field(default_factory=dict)
    weights: bool = False
    sums: bool = False
