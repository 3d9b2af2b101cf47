"""Find linear regions of a network: parts of its data flow with one entry and one exit that map linearly.

One convolution computes such a region, except perhaps at the borders. Its *window* is the part of the entry that one
output position reads. The borders differ if a layer inside pads an inner tensor with zeros: outside of that tensor,
the one convolution would compute what the layers make of the zeros around the entry and of their biases.
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
"""First and last position along an axis; 0 is the first position of the tensor in the network."""

Area = tuple[Interval, Interval]
"""Intervals of height and width."""

Taps = tuple[int, ...]
"""Positions along an axis, in ascending order."""

_EVERYWHERE = (-(10**9), 10**9)


@dataclass(frozen=True, kw_only=True)
class Region:
    """The linear ops after the node `entry` up to the node `exit`, the last op, in graph order."""

    entry: str
    exit: str
    ops: tuple[LinearOp, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the ops' graph nodes."""
        return tuple(op.node for op in self.ops)

    @property
    def groups(self) -> int:
        """Number of blocks of channels that do not mix within the region."""
        return math.gcd(*(op.groups for op in self.ops))

    def stride(self) -> Pair | None:
        """Return the (height, width) stride from entry to exit; None if branches of different strides meet."""
        strides: dict[str, Pair] = {self.entry: (1, 1)}
        for op in self.ops:
            found = {strides[operand] for operand in op.operands}
            if len(found) > 1:
                return None
            ((height, width),) = found
            strides[op.node] = (height * op.stride[0], width * op.stride[1])
        return strides[self.exit]


class RegionFinder:
    """A finder of linear regions in a network's graph, by the dominators of its networkx DAG."""

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
        """Return disjoint maximal regions in graph order, of the nodes `within` (None: of the whole network)."""
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
        """Return the dominators of `exit` that are entries of regions ending there, farthest first, then `exit`.

        A region can be cut at each of these nodes: the nodes between two of them are a region as well.
        """
        allowed = set(within)
        chain = [exit]
        while (entry := self._dominator.get(chain[0])) not in (None, chain[0]):
            assert entry is not None
            nodes = self._nodes_between(entry, exit)
            if not nodes <= allowed or not self._is_closed(nodes, entry, exit):
                break
            chain.insert(0, entry)
        return chain

    def region(self, entry: str, exit: str) -> Region:
        """Return the region between two nodes of a chain."""
        nodes = sorted(self._nodes_between(entry, exit), key=self._order.__getitem__)
        return Region(entry=entry, exit=exit, ops=tuple(self.ops[node] for node in nodes))

    def _nodes_between(self, entry: str, exit: str) -> set[str]:
        # cached, because a search for a few networks examines hundreds of regions
        if exit not in self._before:
            self._before[exit] = {exit, *nx.ancestors(self._dag, exit)}
        if entry not in self._after:
            self._after[entry] = set(nx.descendants(self._dag, entry))
        return self._before[exit] & self._after[entry]

    def _is_closed(self, nodes: set[str], entry: str, exit: str) -> bool:
        """Return True if only the exit is read outside, and no tensor is overwritten before it is read.

        A region with a rigid op may pad nothing but its entry, because padding once could not rewrite it.
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
        """Return True if the op reads zeros around an operand."""
        shapes = self.network.node_shapes
        read, whole = read_area(op, area_of(shapes[op.node])), area_of(shapes[op.operands[0]])
        return any(low < first or high > last for (low, high), (first, last) in zip(read, whole, strict=True))


# -- the positions that ops read -----------------------------------------------------------------------------


def area_of(shape: Sequence[int]) -> Area:
    """Return the area of all positions of a feature map (C, H, W)."""
    return (0, shape[1] - 1), (0, shape[2] - 1)


def read_area(op: LinearOp, made: Area) -> Area:
    """Return the area of its operands that an op reads to compute the area `made`; it may exceed the operands."""
    height, width = (
        (
            made[axis][0] * op.stride[axis] - op.padding[axis],
            made[axis][1] * op.stride[axis] - op.padding[axis] + (op.kernel[axis] - 1) * op.dilation[axis],
        )
        for axis in (0, 1)
    )
    return height, width


def needed_areas(region: Region, made: Area) -> dict[str, Area]:
    """Return the area of every tensor of the region, entry included, from which the exit's area `made` follows."""
    areas = {region.exit: made}
    for op in reversed(region.ops):
        read = read_area(op, areas[op.node])
        for operand in op.operands:
            areas[operand] = _hull(areas.get(operand, read), read)
    return areas


def taps(region: Region) -> tuple[Taps, Taps]:
    """Return the rows and the columns of the entry from which the exit's position (0, 0) is computed."""
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
    """Return the first op that reads zeros where one convolution would not; None if one convolution is exact.

    Around every inner tensor, one convolution computes what the layers make of the zeros around the entry.
    """
    support: dict[str, Area] = {region.entry: area_of(shapes[region.entry])}  # where a tensor can differ from zero
    for op in region.ops:
        read = read_area(op, area_of(shapes[op.node]))
        for operand in op.operands:
            for wanted, nonzero, whole in zip(read, support[operand], area_of(shapes[operand]), strict=True):
                low, high = max(wanted[0], nonzero[0]), min(wanted[1], nonzero[1])
                if low <= high and (low < whole[0] or high > whole[1]):
                    return op
        support[op.node] = _support(op, [support[operand] for operand in op.operands])
    return None


def _support(op: LinearOp, operands: Sequence[Area]) -> Area:
    """Return the area where the op's output can differ from zero; its operands are zero outside of `operands`."""
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
    """Compute the region's exit (N, C', H', W') from an `entry` (N, C, H, W), in the entry's precision.

    The region runs in evaluation mode. `made` gives the area of every op's output to compute; `present` gives the
    area that every tensor has, outside of which it is zero.
    """
    values = {region.entry: entry}
    for op in region.ops:
        read = read_area(op, made[op.node])
        operands = [F.pad(values[name], amounts_between(present[name], read)) for name in op.operands]
        values[op.node] = compute(op, module, operands)
    return values[region.exit]


def amounts_between(present: Area, wanted: Area) -> tuple[int, int, int, int]:
    """Return the amounts for `F.pad` that turn a tensor's area `present` into `wanted`; negative amounts crop."""
    (top, bottom), (left, right) = present
    return left - wanted[1][0], wanted[1][1] - right, top - wanted[0][0], wanted[0][1] - bottom
