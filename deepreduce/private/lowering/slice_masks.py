"""Compute under a mask what the mask selects alone: `where(mask, f(x), g(x))` as f of one part and g of the other.

The parts are slices where the mask keeps whole channels in few runs, which `channel_order` sees to, and channels
taken by number where there are many runs. Other masks take elements by number, which each party moves one by one:
this may take longer than to compare all. The cost of a layer decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deepreduce.cost.layers import COMPARING, LOCAL, Layer, moved_elements
from deepreduce.network.operations import ACTIVATION_COSTS, Role, operations_of
from deepreduce.private.lowering.builder import Draft, kind_of
from deepreduce.private.lowering.constants import Array, Constants
from deepreduce.private.lowering.program import Argument, Op, Ref, refs
from deepreduce.transforms.collapse.choose import LayerCostFunction

_ELEMENTWISE = operations_of(Role.ELEMENTWISE)

_MOST_RUNS = 8
"""Most runs of kept channels that are slices. The engine takes about 2 ms for a slice, and 0.7 us for an element of a
channel that is gathered: more runs are gathered."""

Runs = list[tuple[int, int]]
"""(first, end) of channels that follow each other."""


def slice_masks(
    drafts: Sequence[Draft],
    constants: Constants,
    *,
    image: str,
    image_shape: tuple[int, ...],
    logits: str,
    cost: LayerCostFunction,
) -> list[Draft]:
    """Return the layers with every selection by a public mask computed in parts, where that lowers `cost`.

    What is computed for a selection alone is computed for the selected part alone; a part that something else reads
    too is computed whole and cut. Whole channels always are computed in parts, elements also where the costs are
    equal. `image` and `logits` are the names of the program's input, of `image_shape`, and of its output. Removes
    from `constants` what nothing reads any more.
    """
    found = [Draft(draft.name, list(draft.ops)) for draft in drafts]
    for draft in found:
        for op in list(draft.ops):
            if op.name == "where":
                _Selection(op, found, constants, {image: image_shape}, logits).lower(cost)
    used = {name for draft in found for op in draft.ops for name in refs(op.args)}
    kinds: list[dict[str, Array]] = [constants.masks, constants.weights]
    for kind in kinds:
        for name in [name for name in kind if name not in used]:
            del kind[name]
    return [draft for draft in found if draft.ops]


class _Part(Protocol):
    """A part of a tensor of the selection's shape: some of its channels, or some of its elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the part."""

    def cut(self, source: str) -> list[Op]:
        """Return the operations that cut the part out of a tensor; the last one's output is the part."""

    def cut_constant(self, array: Array) -> Array:
        """Return the part of a constant, as stored, that broadcasts to the selection's shape."""


class _Selection:
    """One `where` of a program, and what is computed for it alone."""

    def __init__(
        self,
        op: Op,
        drafts: Sequence[Draft],
        constants: Constants,
        inputs: Mapping[str, tuple[int, ...]],
        logits: str,
    ) -> None:
        self.op, self.drafts, self.constants = op, drafts, constants
        self.made = {each.output: each for draft in drafts for each in draft.ops}
        self.shapes = {**inputs, **{name: each.shape for name, each in self.made.items()}}
        self.readers = Counter(name for draft in drafts for each in draft.ops for name in refs(each.args))
        self.readers[logits] += 1

    def lower(self, cost: LayerCostFunction) -> None:
        """Compute the selection in parts, where it is by a public mask and saves something."""
        condition, *sides = self.op.args
        mask = self.constants.masks.get(condition.name) if isinstance(condition, Ref) else None
        if mask is None or mask.dtype != np.bool_ or len(self.op.shape) not in (2, 4):
            return
        branches = [self._branch(side) for side in sides]
        if not any(branch.compares for branch in branches) or not all(branch.is_whole for branch in branches):
            return
        wanted = np.broadcast_to(_in_torch_layout(mask, len(self.op.shape)), self.op.shape)
        if bool((wanted != wanted[:1]).any()):  # no mask of a plan, which is the same for all images
            return
        whole = wanted[0].reshape(wanted.shape[1], -1)
        if bool((whole == whole[:, :1]).all()):
            kept = whole[:, 0]
            if len(runs_of(kept)) <= _MOST_RUNS:
                _SlicedParts(self, branches, kept).lower()
            else:
                _GatheredParts(self, branches, kept, by_channel=True).lower()
        elif self._is_cheaper(branches, wanted, cost):
            _GatheredParts(self, branches, wanted.reshape(-1), by_channel=False).lower()

    # -- the two branches -------------------------------------------------------------------------------------

    def _branch(self, side: Argument) -> _Branch:
        if not isinstance(side, Ref) or self.shapes.get(side.name) != self.op.shape:
            return _Branch(side=side, is_whole=False)
        ops = self._own(side.name)
        kinds = [kind_of(op, self.constants.weights, self.constants.masks) for op in ops]
        return _Branch(side=side, is_whole=True, ops=ops, compares=any(kind not in LOCAL for kind in kinds))

    def _own(self, name: str) -> list[Op]:
        """Return the element-wise operations that are computed for the value `name` alone, in order."""
        own: dict[str, Op] = {}
        waiting = [name]
        while waiting:
            output = waiting.pop()
            op = self.made.get(output)
            if op is None or output in own or op.name not in _ELEMENTWISE or not self._is_whole(op):
                continue
            read_here = Counter(each for other in own.values() for each in refs(other.args))
            if self.readers[output] != (1 if output == name else read_here[output]):
                continue
            own[output] = op
            waiting += refs(op.args)
        return [op for op in self._in_order() if op.output in own]

    def _is_whole(self, op: Op) -> bool:
        """Return whether an operation and all activations that it reads have the selection's shape."""
        shapes = [self.shapes[name] for name in refs(op.args) if name in self.shapes]
        return all(shape == self.op.shape for shape in (op.shape, *shapes))

    def _in_order(self) -> Iterator[Op]:
        for draft in self.drafts:
            yield from draft.ops

    def _is_cheaper(self, branches: Sequence[_Branch], wanted: NDArray[np.bool_], cost: LayerCostFunction) -> bool:
        one = wanted[0]  # as costs are of one image, whatever the batch
        counts = int(one.sum()), int((~one).sum())
        moved = moved_elements(one.size, [n for n, each in zip(counts, branches, strict=True) if each.ops])
        layers = [
            (layer, replace(layer, kept=count))
            for branch, count in zip(branches, counts, strict=True)
            for layer in map(self._layer, branch.ops)
        ]
        (first_whole, first_part), *others = layers
        wholes = [first_whole, *(layer for layer, _ in others)]
        parts = [replace(first_part, moved=moved), *(part for _, part in others)]
        return sum(map(cost, parts)) <= sum(map(cost, wholes))

    def _layer(self, op: Op) -> Layer:
        kind = kind_of(op, self.constants.weights, self.constants.masks)
        compared, levels = ACTIVATION_COSTS.get(op.name.removesuffix("_kernel").lstrip("_"), (1, 1))
        return Layer(
            name=op.output,
            kind=kind,
            in_shape=op.shape[1:],
            out_shape=op.shape[1:],
            compared=compared if kind in COMPARING else 0,
            levels=levels if kind in COMPARING else 0,
        )

    # -- replacing operations -----------------------------------------------------------------------------------

    def narrow(self, branch: _Branch, part: _Part, place: Op) -> Ref:
        """Compute a branch for a part alone, where its last operation (or `place`) stands; return the result."""
        done: dict[str, Ref] = {}
        ops: list[Op] = []
        own = {op.output for op in branch.ops}
        layer = self._draft_of(branch.ops[-1] if branch.ops else place).name

        def narrowed(argument: Argument) -> Argument:
            if not isinstance(argument, Ref):
                return argument
            if argument.name not in done:
                assert argument.name not in own, "operations are in order"
                done[argument.name] = self._narrow_value(argument, part, ops, layer)
            return done[argument.name]

        for op in branch.ops:
            args = tuple(narrowed(argument) for argument in op.args)
            ops.append(replace(op, args=args, shape=part.shape))
            done[op.output] = Ref(op.output)
        result = narrowed(branch.side)
        self.remove(branch.ops[:-1])
        self.replace_op(branch.ops[-1], ops) if branch.ops else self.insert_before(place, ops)
        assert isinstance(result, Ref)
        return result

    def _narrow_value(self, value: Ref, part: _Part, ops: list[Op], layer: str) -> Ref:
        weights, masks = self.constants.weights, self.constants.masks
        if value.name in weights:
            return Ref(self.constants.store_weight(part.cut_constant(weights[value.name]), layer))
        if value.name in masks:
            return Ref(self.constants.store_public(torch.from_numpy(part.cut_constant(masks[value.name])), layer))
        ops += part.cut(value.name)
        return Ref(ops[-1].output)

    def remove(self, ops: Sequence[Op]) -> None:
        """Take operations out of their layers."""
        for op in ops:
            self._draft_of(op).ops.remove(op)

    def replace_op(self, op: Op, ops: Sequence[Op]) -> None:
        """Let operations take the place of one."""
        own = self._draft_of(op).ops
        place = own.index(op)
        own[place : place + 1] = ops

    def insert_before(self, op: Op, ops: Sequence[Op]) -> None:
        """Add operations before one."""
        self.replace_op(op, [*ops, op])

    def _draft_of(self, op: Op) -> Draft:
        return next(draft for draft in self.drafts if op in draft.ops)


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """One side of a selection: the value, and the operations that are computed for it alone, in order.

    `is_whole`: it is an activation of the selection's shape. `compares`: some operation communicates.
    """

    side: Argument
    is_whole: bool
    ops: list[Op] = field(default_factory=list)
    compares: bool = False


# -- parts of channels --------------------------------------------------------------------------------------


class _SlicedParts:
    """A selection by whole channels: each side is computed for its own runs of channels."""

    def __init__(self, selection: _Selection, branches: Sequence[_Branch], kept: NDArray[np.bool_]) -> None:
        self.selection, self.branches, self.kept = selection, branches, kept

    def lower(self) -> None:
        """Replace the selection by slices, the sides' operations on them, and a concatenation."""
        op = self.selection.op
        pieces: dict[int, Ref] = {}  # first channel of a run -> the run
        ops: list[Op] = []
        for number, (branch, kept) in enumerate(zip(self.branches, (self.kept, ~self.kept), strict=True)):
            runs = runs_of(kept)
            if not runs:
                self.selection.remove(branch.ops)
                continue
            if branch.ops:
                part = _Channels(runs=runs, whole=op.shape, prefix=f"{op.output}/{number}")
                source, starts = self.selection.narrow(branch, part, op), part.starts
            else:
                assert isinstance(branch.side, Ref)
                source, starts = branch.side, [first for first, _ in runs]
            for (first, end), start in zip(runs, starts, strict=True):
                is_all = len(runs) == 1 and bool(branch.ops)
                cut = [] if is_all else [_slice(source, start, end - first, op.shape, f"{op.output}/of{first}")]
                ops += cut
                pieces[first] = Ref(cut[0].output) if cut else source
        parts = tuple(pieces[first] for first in sorted(pieces))
        joined = replace(op, name="cat", args=(parts, 1))
        self.selection.replace_op(op, [*ops, joined])


@dataclass(frozen=True, kw_only=True)
class _Channels:
    """Runs of channels, one after the other."""

    runs: Runs
    whole: tuple[int, ...]
    prefix: str

    @property
    def starts(self) -> list[int]:
        """Where each run begins within the part."""
        lengths = [end - first for first, end in self.runs]
        return [sum(lengths[:i]) for i in range(len(lengths))]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the part."""
        return (self.whole[0], sum(end - first for first, end in self.runs), *self.whole[2:])

    def cut(self, source: str) -> list[Op]:
        """Return the slices of the runs, and their concatenation where there are several."""
        name = f"{self.prefix}/{source.rpartition('/')[2]}"
        cuts = [_slice(Ref(source), a, b - a, self.whole, f"{name}/{a}") for a, b in self.runs]
        if len(cuts) == 1:
            return cuts
        parts = tuple(Ref(each.output) for each in cuts)
        return [*cuts, Op(name="cat", args=(parts, 1), output=f"{name}/kept", shape=self.shape)]

    def cut_constant(self, array: Array) -> Array:
        """Return the runs of a constant's channels; as it is where all channels share its values."""
        channels = np.concatenate([np.arange(first, end) for first, end in self.runs])
        return _take_channels(array, channels, len(self.whole))


def runs_of(kept: NDArray[np.bool_]) -> Runs:
    """Return (first, end) of each run of true entries."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def _slice(source: Ref, first: int, length: int, whole: tuple[int, ...], output: str) -> Op:
    shape = (whole[0], length, *whole[2:])
    return Op(name="slice", args=(source, 1, first, first + length, 1), output=output, shape=shape)


# -- gathered parts -----------------------------------------------------------------------------------------


class _GatheredParts:
    """A selection by numbers: each side's channels, or elements in a row, are gathered, computed and put back."""

    def __init__(
        self, selection: _Selection, branches: Sequence[_Branch], kept: NDArray[np.bool_], *, by_channel: bool
    ) -> None:
        self.selection, self.branches, self.kept, self.by_channel = selection, branches, kept, by_channel

    def lower(self) -> None:
        """Replace the selection by gathers, the sides' operations on them, and a gather that puts all back."""
        op, count, dim = self.selection.op, self.kept.size, int(self.by_channel)
        parts: list[Ref] = []
        ops: list[Op] = []
        places = np.empty(count, np.int32)
        length = 0
        for number, (branch, kept) in enumerate(zip(self.branches, (self.kept, ~self.kept), strict=True)):
            taken = np.flatnonzero(kept)
            prefix = f"{op.output}/{number}"
            if branch.ops:
                part = _Gathered(
                    indices=taken, whole=op.shape, by_channel=self.by_channel, prefix=prefix, store=self._store
                )
                parts.append(self.selection.narrow(branch, part, op))
                places[taken] = length + np.arange(len(taken))
                length += len(taken)
            else:  # all of it, which is cheaper than to gather the rest
                assert isinstance(branch.side, Ref)
                row = [] if self.by_channel else [_row(branch.side, count, f"{prefix}/row")]
                ops += row
                parts.append(Ref(row[0].output) if row else branch.side)
                places[taken] = length + taken
                length += count
        shape, wide = ((*op.shape[:1], n, *op.shape[2:]) if self.by_channel else (n,) for n in (count, length))
        joined = Op(name="cat", args=(tuple(parts), dim), output=f"{op.output}/both", shape=wide)
        put = Op(
            name="index_select",
            args=(Ref(joined.output), dim, self._store(places)),
            output=f"{op.output}/placed",
            shape=shape,
        )
        last = replace(op, name="view", args=(Ref(put.output), op.shape))
        done = [joined, replace(put, output=op.output)] if self.by_channel else [joined, put, last]
        self.selection.replace_op(op, [*ops, *done])

    def _store(self, indices: NDArray[np.int32]) -> Ref:
        layer = self.selection.op.output.rpartition("/")[0]
        return Ref(self.selection.constants.store_public(torch.from_numpy(indices), layer))


class _Store(Protocol):
    def __call__(self, indices: NDArray[np.int32]) -> Ref:
        """Store public indices; return a reference to them."""


@dataclass(frozen=True, kw_only=True)
class _Gathered:
    """Channels by their numbers, or elements by theirs in PyTorch's order."""

    indices: NDArray[np.int64]
    whole: tuple[int, ...]
    by_channel: bool
    prefix: str
    store: _Store

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the part."""
        count = len(self.indices)
        return (self.whole[0], count, *self.whole[2:]) if self.by_channel else (count,)

    def cut(self, source: str) -> list[Op]:
        """Return the gather from the tensor, for elements from the tensor in a row."""
        name = f"{self.prefix}/{source.rpartition('/')[2]}"
        row = [] if self.by_channel else [_row(Ref(source), int(np.prod(self.whole)), f"{name}/row")]
        args = (
            Ref(row[0].output if row else source),
            int(self.by_channel),
            self.store(self.indices.astype(np.int32)),
        )
        return [*row, Op(name="index_select", args=args, output=f"{name}/kept", shape=self.shape)]

    def cut_constant(self, array: Array) -> Array:
        """Return the constant's values at the channels or elements; as it is where they share its values."""
        if self.by_channel:
            return _take_channels(array, self.indices, len(self.whole))
        if array.size == 1:
            return array.reshape(-1)
        wide = np.broadcast_to(_in_torch_layout(array, len(self.whole)), self.whole)
        return np.ascontiguousarray(wide.reshape(-1)[self.indices])


def _take_channels(array: Array, channels: NDArray[np.int64], rank: int) -> Array:
    """Return the channels of a stored constant that broadcasts to a tensor of that rank."""
    axis = 3 if array.ndim == 4 else array.ndim - (rank - 1)
    return array if axis < 0 or array.shape[axis] == 1 else np.ascontiguousarray(array.take(channels, axis))


def _row(source: Ref, count: int, output: str) -> Op:
    return Op(name="view", args=(source, (-1,)), output=output, shape=(count,))


def _in_torch_layout(array: Array, rank: int) -> Array:
    """Return a stored constant as PyTorch broadcasts it to a tensor of that rank."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
