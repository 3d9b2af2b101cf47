"""Linear regions of a network: parts of its data flow with one entry and one exit that only map linearly.

Such a part is one convolution, up to its borders. Its *window* is what one output position reads of the entry; the
borders differ where a layer inside pads with zeros what another layer has made, because the one convolution goes on
there with what the layers would have made of the zeros around the entry (and of their biases).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
from torch import Tensor, fx
from torch.nn import functional as F

from deepreduce.network.inplace import Overwrites
from deepreduce.network.linear_ops import LinearOp, Pair, compute, linear_ops
from deepreduce.network.network import Network

Interval = tuple[int, int]
"""First and last position along an axis; 0 is the first of the tensor as the network makes it."""

Area = tuple[Interval, Interval]
"""Intervals of height and width."""

Taps = tuple[int, ...]
"""Positions along an axis, smallest first."""

_EVERYWHERE = (-(10**9), 10**9)


@dataclass(frozen=True, kw_only=True)
class Region:
    """The linear ops between `entry` (not one of them) and `exit` (the last of them), in graph order."""

    entry: str
    exit: str
    ops: tuple[LinearOp, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the ops' graph nodes."""
        return tuple(op.node for op in self.ops)

    @property
    def groups(self) -> int:
        """Blocks of channels that do not mix on the whole way."""
        return math.gcd(*(op.groups for op in self.ops))

    def stride(self) -> Pair | None:
        """Entry positions between neighbouring exit positions; None where the branches disagree."""
        strides: dict[str, Pair] = {self.entry: (1, 1)}
        for op in self.ops:
            found = {strides[operand] for operand in op.operands}
            if len(found) > 1:
                return None
            ((height, width),) = found
            strides[op.node] = (height * op.stride[0], width * op.stride[1])
        return strides[self.exit]


class RegionFinder:
    """The linear regions of a network's graph, found on the dominators of its networkx DAG."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ops = linear_ops(network)
        self._dag = network.dag
        (image,) = (n.name for n in network.module.graph.nodes if n.op == "placeholder" and not n.args)
        self._dominator = nx.immediate_dominators(self._dag, image)
        self._order = {node.name: index for index, node in enumerate(network.module.graph.nodes)}
        self._before: dict[str, set[str]] = {}
        self._after: dict[str, set[str]] = {}

    @cached_property
    def _overwrites(self) -> Overwrites:
        return Overwrites(self.network.module)

    def maximal(self, within: Iterable[str] | None = None) -> list[Region]:
        """Disjoint regions, each as large as it can be, in graph order; of the nodes `within`, or of the network."""
        free = set(self.ops) if within is None else set(within) & set(self.ops)
        found = []
        for node in sorted(free, key=self._order.__getitem__, reverse=True):
            if node in free:
                chain = self.chain(node, free)
                if len(chain) > 1:
                    region = self.region(chain[0], node)
                    found.append(region)
                    free -= set(region.nodes)
        return found[::-1]

    def chain(self, exit: str, within: Iterable[str]) -> list[str]:
        """The dominators of `exit` that are entries of regions ending there, farthest first, and `exit` itself.

        Each is also an exit or entry of the regions between its neighbours: where a region can be cut.
        """
        allowed = set(within)
        chain = [exit]
        while (entry := self._dominator.get(chain[0])) not in (None, chain[0]):
            assert entry is not None
            nodes = self._between(entry, exit)
            if not nodes <= allowed or not self._is_closed(nodes, entry, exit):
                break
            chain.insert(0, entry)
        return chain

    def region(self, entry: str, exit: str) -> Region:
        """The region between two nodes of a chain."""
        nodes = sorted(self._between(entry, exit), key=self._order.__getitem__)
        return Region(entry=entry, exit=exit, ops=tuple(self.ops[node] for node in nodes))

    def _between(self, entry: str, exit: str) -> set[str]:
        # asked for again and again: a search for few networks looks at hundreds
        if exit not in self._before:
            self._before[exit] = {exit, *nx.ancestors(self._dag, exit)}
        if entry not in self._after:
            self._after[entry] = set(nx.descendants(self._dag, entry))
        return self._before[exit] & self._after[entry]

    def _is_closed(self, nodes: set[str], entry: str, exit: str) -> bool:
        """Whether nothing but the exit is read outside, and every tensor is read as it was made.

        With a rigid op nothing but the entry may be padded: such a region collapses as it is or not at all.
        """
        if any(self.ops[node].is_rigid for node in nodes):
            inner = (self.ops[node] for node in nodes if self.ops[node].operands != (entry,))
            if any(self._pads(op) for op in inner):
                return False
        for node in nodes:
            if node != exit and not set(self._dag.successors(node)) <= nodes:
                return False
            for operand in self.ops[node].operands:
                if (operand not in nodes and operand != entry) or self._overwrites.occur_between(operand, node):
                    return False
        return not self._overwrites.occur_between(entry, exit, reader_too=True)

    def _pads(self, op: LinearOp) -> bool:
        """Whether the op reads zeros around an operand."""
        shapes = self.network.node_shapes
        read, whole = read_by(op, area_of(shapes[op.node])), area_of(shapes[op.operands[0]])
        return any(low < first or high > last for (low, high), (first, last) in zip(read, whole, strict=True))


# -- what is read, position by position ----------------------------------------------------------------------


def area_of(shape: Sequence[int]) -> Area:
    """All positions of a feature map (C, H, W)."""
    return (0, shape[1] - 1), (0, shape[2] - 1)


def read_by(op: LinearOp, made: Area) -> Area:
    """The positions of its operands that the op reads to make the area `made`; they may lie outside the operands."""
    height, width = (
        (
            made[axis][0] * op.stride[axis] - op.padding[axis],
            made[axis][1] * op.stride[axis] - op.padding[axis] + (op.kernel[axis] - 1) * op.dilation[axis],
        )
        for axis in (0, 1)
    )
    return height, width


def needed(region: Region, made: Area) -> dict[str, Area]:
    """The positions of every tensor of the region, its entry too, that go into the area `made` of its exit."""
    areas = {region.exit: made}
    for op in reversed(region.ops):
        read = read_by(op, areas[op.node])
        for operand in op.operands:
            areas[operand] = _hull(areas.get(operand, read), read)
    return areas


def taps(region: Region) -> tuple[Taps, Taps]:
    """The rows and the columns of the entry that go into the exit's position (0, 0)."""
    height, width = (_taps_along(axis, region) for axis in (0, 1))
    return height, width


def _taps_along(axis: int, region: Region) -> Taps:
    read: dict[str, set[int]] = {region.exit: {0}}
    for op in reversed(region.ops):
        steps = [step * op.dilation[axis] - op.padding[axis] for step in range(op.kernel[axis])]
        for operand in op.operands:
            found = {at * op.stride[axis] + step for at in read[op.node] for step in steps}
            read[operand] = read.get(operand, set()) | found
    return tuple(sorted(read[region.entry]))


def _hull(a: Area, b: Area) -> Area:
    (height, width) = ((min(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True))
    return height, width


def inner_padding(region: Region, shapes: Mapping[str, tuple[int, ...]]) -> LinearOp | None:
    """The first op that reads zeros where one convolution would not, or None: then the region is one, borders too.

    One convolution goes on outside of every tensor inside: with what the layers make of the zeros around the entry.
    """
    support: dict[str, Area] = {region.entry: area_of(shapes[region.entry])}  # where that can be anything but zero
    for op in region.ops:
        read = read_by(op, area_of(shapes[op.node]))
        for operand in op.operands:
            for wanted, nonzero, whole in zip(read, support[operand], area_of(shapes[operand]), strict=True):
                low, high = max(wanted[0], nonzero[0]), min(wanted[1], nonzero[1])
                if low <= high and (low < whole[0] or high > whole[1]):
                    return op
        support[op.node] = _support(op, [support[operand] for operand in op.operands])
    return None


def _support(op: LinearOp, operands: Sequence[Area]) -> Area:
    """Where the op can make anything but zero, of operands that are zero outside of theirs."""
    if op.shifts:
        return _EVERYWHERE, _EVERYWHERE
    reached = []
    for area in operands:
        height, width = (
            (
                -((-(low + op.padding[axis] - (op.kernel[axis] - 1) * op.dilation[axis])) // op.stride[axis]),
                (high + op.padding[axis]) // op.stride[axis],
            )
            for axis, (low, high) in enumerate(area)
        )
        reached.append((height, width))
    support = reached[0]
    for area in reached[1:]:
        support = _hull(support, area)
    return support


def run_region(
    region: Region, module: fx.GraphModule, entry: Tensor, *, present: Mapping[str, Area], made: Mapping[str, Area]
) -> Tensor:
    """The region's exit for an `entry` (N, C, H, W), in the entry's precision, in evaluation mode.

    `present` gives the positions that every tensor has; what is read outside of them is zero. `made` gives the
    positions of every op's output that are computed.
    """
    values = {region.entry: entry}
    for op in region.ops:
        read = read_by(op, made[op.node])
        operands = [F.pad(values[name], amounts_between(present[name], read)) for name in op.operands]
        values[op.node] = compute(op, module, operands)
    return values[region.exit]


def amounts_between(present: Area, wanted: Area) -> tuple[int, int, int, int]:
    """What `F.pad` takes to get the area `wanted` of a tensor that has `present`; negative amounts cut off."""
    (top, bottom), (left, right) = present
    return left - wanted[1][0], wanted[1][1] - right, top - wanted[0][0], wanted[0][1] - bottom
