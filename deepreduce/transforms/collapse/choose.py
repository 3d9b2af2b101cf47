"""Which parts of a network's linear regions to replace by one convolution each: the cheapest choice.

A region is cut where its dominators lie, and every way to put the pieces together is weighed: a shortest path over
the cuts. A join (a residual addition) that stays is one piece, and its branches are regions of their own.
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
from deepreduce.transforms.collapse.regions import Area, Region, RegionFinder, area_of, inner_padding, needed, taps

LayerCost = Callable[[Layer], float]
"""What a layer costs, in any unit; of choices that cost the same the one of fewer layers is taken."""

Price = tuple[float, int]
"""Cost, and number of layers to break ties."""


def macs(layer: Layer) -> float:
    """The default cost: multiply-accumulates."""
    return float(layer.macs)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A region as the one convolution `layer`, with `stride` and `dilation`.

    `read` is what all of the exit reads of the entry. `obstacle` says why the convolution would differ from the
    region at the borders, None where it does not. `is_dense`: it multiplies the whole entry to make an exit of one
    position, whatever the region pads inside.
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
        """Positions of the entry from the first to the last that one position of the exit reads."""
        height, width = ((k - 1) * d + 1 for k, d in zip(self.layer.kernel, self.dilation, strict=True))
        return height, width


@dataclass(frozen=True, kw_only=True)
class Cover:
    """A choice for a part of a region: what it costs, and which parts are merged."""

    price: Price = (0.0, 0)
    merges: tuple[Merge, ...] = ()

    def __add__(self, other: Cover) -> Cover:
        cost, layers = (a + b for a, b in zip(self.price, other.price, strict=True))
        return Cover(price=(cost, int(layers)), merges=self.merges + other.merges)


def is_exact(merge: Merge) -> bool:
    """True for a merge that computes what its region does, at the borders too."""
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
        """The network's linear regions, each as large as it can be."""
        return self.finder.maximal()

    def best(self, region: Region, may: Callable[[Merge], bool]) -> Cover:
        """The cheapest choice for a region with merges that `may` be made."""
        chain = self.finder.chain(region.exit, region.nodes)
        best = {chain[0]: Cover()}
        for index, exit in enumerate(chain[1:], start=1):
            options = [best[chain[index - 1]] + self._kept(chain[index - 1], exit, may)]
            for entry in chain[:index]:
                merge = self.merge(self.finder.region(entry, exit))
                if merge is not None and may(merge):
                    price = (self._cost(merge.layer), 1)
                    options.append(best[entry] + Cover(price=price, merges=(merge,)))
            best[exit] = min(options, key=lambda cover: cover.price)
        return best[region.exit]

    def merge(self, region: Region) -> Merge | None:
        """The region as one convolution; None where there is none for it."""
        key = (region.entry, region.exit)
        if key not in self._merges:
            self._merges[key] = self._merged(region)
        return self._merges[key]

    def macs_of(self, nodes: Iterable[str]) -> int:
        """Multiply-accumulates of layers as they are."""
        return sum(self._layers[node].macs for node in nodes)

    def can_be_padded_once(self, merge: Merge) -> bool:
        """False where another call of one of the region's layers would lose its padding too."""
        return all(self._calls[op.layer] == 1 for op in merge.region.ops if op.layer and _may_pad(op))

    def _kept(self, entry: str, exit: str, may: Callable[[Merge], bool]) -> Cover:
        """The last op of a piece as it is, and the branches that it joins, if any, as cheap as they can be."""
        inner = set(self.finder.region(entry, exit).nodes) - {exit}
        cover = Cover(price=(self._cost(self._layers[exit]), 1))
        for region in self.finder.maximal(inner):
            cover += self.best(region, may)
        return cover

    def _merged(self, region: Region) -> Merge | None:
        if all(op.kind == PAD for op in region.ops):
            return None
        sliding, dense = self._sliding(region), self._dense(region)
        if sliding is None or dense is None:
            return sliding or dense
        return dense if sliding.obstacle is not None or dense.layer.macs < sliding.layer.macs else sliding

    def _sliding(self, region: Region) -> Merge | None:
        """The convolution whose window is the region's; None where branches of different strides meet."""
        shapes = self.network.node_shapes
        stride = region.stride()
        if stride is None:
            return None
        rows, columns = (_spaced(positions) for positions in taps(region))
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
            read=needed(region, area_of(shapes[region.exit]))[region.entry],
            obstacle=obstacle,
        )

    def _dense(self, region: Region) -> Merge | None:
        """The convolution as large as the entry; None where the exit has several positions."""
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
        """The path of the region's only convolution, so that a folded one keeps its name; else a new one."""
        paths = [op.layer for op in region.ops if op.kind == CONV]
        return paths[0] if len(paths) == 1 and self._calls[paths[0]] == 1 else f"collapsed_{region.exit}"


def _may_pad(op: LinearOp) -> bool:
    """Whether it pads; the "same" padding of a window of two is behind alone, which `op.padding` leaves out."""
    return op.padding != (0, 0) or 2 in op.kernel


def _spaced(positions: Sequence[int]) -> tuple[int, int]:
    """(count, distance) of the fewest evenly spaced positions that hold all of these."""
    distance = math.gcd(*(at - positions[0] for at in positions)) or 1
    return (positions[-1] - positions[0]) // distance + 1, distance
