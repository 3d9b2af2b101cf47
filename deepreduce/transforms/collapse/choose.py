"""Choose which parts of a network's linear regions to replace by one convolution each, at least cost.

A region can be cut at its dominators, and a shortest path over the cuts finds the cheapest way to merge the pieces. A
join (a residual addition) that stays is one piece, and its branches are regions of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from deepreduce.cost.layers import CONV, Layer, conv_macs
from deepreduce.network.cost_layers import node_layers
from deepreduce.network.linear_ops import PAD, LinearOp, Pair
from deepreduce.network.network import Network
from deepreduce.transforms.collapse.regions import (
    Area,
    Region,
    RegionFinder,
    area_of,
    inner_padding,
    needed_areas,
    taps,
)

LayerCost = Callable[[Layer], float]
"""A function that returns the cost of a layer, in any unit; of equal costs, the choice of fewer layers wins."""

Price = tuple[float, int]
"""Total cost, and the number of layers, which breaks ties."""


def macs(layer: Layer) -> float:
    """Return a layer's multiply-accumulates, the default cost."""
    return float(layer.macs)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A region merged into the one convolution `layer`, with `stride` and `dilation`.

    `read` is the area of the entry from which the whole exit is computed. `obstacle` says why the convolution would
    differ from the region at the borders; None if it does not. `is_dense`: the exit has one position, and the kernel
    covers the whole entry, so that padding inside the region does not matter.
    """

    region: Region
    layer: Layer
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    read: Area
    obstacle: str | None = None
    is_dense: bool = False

    @property
    def extent(self) -> Pair:
        """Height and width, in positions of the entry, of the window of one position of the exit."""
        height, width = ((k - 1) * d + 1 for k, d in zip(self.layer.kernel, self.dilation, strict=True))
        return height, width


@dataclass(frozen=True, kw_only=True)
class Cover:
    """A choice for a part of a region: its price, and the merges it makes."""

    price: Price = (0.0, 0)
    merges: tuple[Merge, ...] = ()

    def __add__(self, other: Cover) -> Cover:
        cost, layers = (a + b for a, b in zip(self.price, other.price, strict=True))
        return Cover(price=(cost, int(layers)), merges=self.merges + other.merges)


def is_exact(merge: Merge) -> bool:
    """Return True for a merge that computes the same as its region, including the borders."""
    return merge.obstacle is None


class Merging:
    """The linear regions of a network and the cheapest ways to merge them under `cost`."""

    def __init__(self, network: Network, cost: LayerCost = macs) -> None:
        self.network = network
        self.finder = RegionFinder(network)
        self._cost = cost
        self._layers = node_layers(network)
        self._calls = Counter(str(n.target) for n in network.module.graph.nodes if n.op == "call_module")
        self._merges: dict[tuple[str, str], Merge | None] = {}

    @cached_property
    def regions(self) -> list[Region]:
        """The network's maximal linear regions."""
        return self.finder.maximal()

    def best(self, region: Region, may: Callable[[Merge], bool]) -> Cover:
        """Return the cheapest choice for a region, with only those merges for which `may` returns True."""
        chain = self.finder.chain(region.exit, region.nodes)
        best = {chain[0]: Cover()}
        for index, exit in enumerate(chain[1:], start=1):
            options = [best[chain[index - 1]] + self._keep_last(chain[index - 1], exit, may)]
            for entry in chain[:index]:
                merge = self.merge(self.finder.region(entry, exit))
                if merge is not None and may(merge):
                    price = (self._cost(merge.layer), 1)
                    options.append(best[entry] + Cover(price=price, merges=(merge,)))
            best[exit] = min(options, key=lambda cover: cover.price)
        return best[region.exit]

    def merge(self, region: Region) -> Merge | None:
        """Return the region merged into one convolution; None if no convolution computes it."""
        key = (region.entry, region.exit)
        if key not in self._merges:
            self._merges[key] = self._find_merge(region)
        return self._merges[key]

    def macs_of(self, nodes: Iterable[str]) -> int:
        """Return the multiply-accumulates of the nodes' layers, unmerged."""
        return sum(self._layers[node].macs for node in nodes)

    def can_be_padded_once(self, merge: Merge) -> bool:
        """Return False if a padding layer of the region is called elsewhere, where it would lose its padding too."""
        return all(self._calls[op.layer] == 1 for op in merge.region.ops if op.layer and _may_pad(op))

    def _keep_last(self, entry: str, exit: str, may: Callable[[Merge], bool]) -> Cover:
        """Return the choice that keeps a piece's last op, with the cheapest choice for the branches that it joins."""
        inner = set(self.finder.region(entry, exit).nodes) - {exit}
        cover = Cover(price=(self._cost(self._layers[exit]), 1))
        for region in self.finder.maximal(inner):
            cover += self.best(region, may)
        return cover

    def _find_merge(self, region: Region) -> Merge | None:
        if all(op.kind == PAD for op in region.ops):
            return None
        sliding, dense = self._sliding_merge(region), self._dense_merge(region)
        if sliding is None or dense is None:
            return sliding or dense
        return dense if sliding.obstacle is not None or dense.layer.macs < sliding.layer.macs else sliding

    def _sliding_merge(self, region: Region) -> Merge | None:
        """Return the merge whose window is the region's; None if branches of different strides meet."""
        shapes = self.network.node_shapes
        stride = region.stride()
        if stride is None:
            return None
        rows, columns = (_space_evenly(positions) for positions in taps(region))
        padder = inner_padding(region, shapes)
        obstacle = None
        if padder is not None:
            sources = ", ".join(self._layers[name].name for name in padder.operands if name in self._layers)
            obstacle = f"{self._layers[padder.node].name} pads {sources} with zeros"
        return Merge(
            region=region,
            layer=self._layer(region, kernel=(rows[0], columns[0])),
            stride=stride,
            dilation=(rows[1], columns[1]),
            read=needed_areas(region, area_of(shapes[region.exit]))[region.entry],
            obstacle=obstacle,
        )

    def _dense_merge(self, region: Region) -> Merge | None:
        """Return the merge whose kernel is as large as the entry; None if the exit has several positions."""
        before, after = (self.network.node_shapes[node] for node in (region.entry, region.exit))
        if after[1:] != (1, 1):
            return None
        layer = self._layer(region, kernel=(before[1], before[2]))
        return Merge(region=region, layer=layer, read=area_of(before), is_dense=True)

    def _layer(self, region: Region, *, kernel: Pair) -> Layer:
        before, after = (self.network.node_shapes[node] for node in (region.entry, region.exit))
        groups = math.gcd(region.groups, before[0], after[0])
        macs = conv_macs(after, before[0], kernel=kernel, groups=groups)
        name = self._layer_name(region)
        return Layer(name=name, kind=CONV, in_shape=before, out_shape=after, kernel=kernel, groups=groups, macs=macs)

    def _layer_name(self, region: Region) -> str:
        """Return the path of the region's only convolution, so that folding keeps its name; else a new path."""
        paths = [op.layer for op in region.ops if op.kind == CONV]
        return paths[0] if len(paths) == 1 and self._calls[paths[0]] == 1 else f"collapsed_{region.exit}"


def _may_pad(op: LinearOp) -> bool:
    """Return True if the op may pad; `op.padding` is 0 for a window of two with "same", which pads the end only."""
    return op.padding != (0, 0) or 2 in op.kernel


def _space_evenly(positions: Sequence[int]) -> tuple[int, int]:
    """Return (count, distance) of the fewest evenly spaced positions that include all of `positions`."""
    distance = math.gcd(*(at - positions[0] for at in positions)) or 1
    return (positions[-1] - positions[0]) // distance + 1, distance
