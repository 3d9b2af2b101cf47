"""Collapse linear regions: replace each by one convolution where that is cheaper and exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deepreduce.cost.layers import CONV, SCALE
from deepreduce.errors import PlanError
from deepreduce.network.copying import copy_module
from deepreduce.network.linear_ops import IDENTITY, Pair, compute, is_identity
from deepreduce.network.network import Network
from deepreduce.network.observe import observe
from deepreduce.network.trace import describe
from deepreduce.transforms.collapse.choose import Cover, LayerCostFunction, Merge, Merging, is_exact, macs
from deepreduce.transforms.collapse.regions import Area, Region, amounts_between, area_of, needed_areas, run_region

COLLAPSED, NOT_CHEAPER, REFUSED = "collapsed", "not cheaper", "refused"

_CHUNK_ELEMENTS = 2**24
"""Largest tensor (in elements) of one backward pass through a region."""


@dataclass(frozen=True, kw_only=True)
class RegionReport:
    """The outcome for a linear region: the graph nodes after `entry` up to `exit`.

    `outcome` is "collapsed" (into one convolution), "not cheaper" (unchanged or merged in part, because one
    convolution would cost more) or "refused" (a cheaper convolution would differ at the borders). `reason` explains
    the outcome. Layers and multiply-accumulates (for one image) are counted before and after.
    """

    entry: str
    exit: str
    outcome: str
    reason: str
    layers_before: int
    layers_after: int
    macs_before: int
    macs_after: int

    def to_text(self) -> str:
        """Return the report as one line."""
        sizes = (
            f"{self.layers_before} -> {self.layers_after} layers, {self.macs_before:,} -> {self.macs_after:,} MACs"
        )
        return f"{self.entry} .. {self.exit}: {self.outcome}, {sizes}; {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Collapsed:
    """A collapsed network, in evaluation mode and for inference only, and the outcome for each linear region."""

    network: Network
    regions: tuple[RegionReport, ...]


def collapse(network: Network, *, cost: LayerCostFunction = macs) -> Collapsed:
    """Return a new network with the same logits and fewer or cheaper layers, and a report of each linear region.

    A linear region (one entry, one exit; convolutions, batch-norms, additions, average pools, identities in
    evaluation) becomes one convolution if that costs less under `cost`, a function of a layer (default: its
    multiply-accumulates; of equal costs, fewer layers win). So batch-norms are folded, 1x1 convolutions are merged
    with their neighbours, and identities are dropped. A region whose convolution would differ at the borders is
    refused: train the network padded once (`pad_once`) to collapse it.

    The logits are equal up to rounding for images of the network's `input_shape`; kernels are computed in float64. A
    network on the meta device collapses without weights. Raises `PlanError` for a network that torch.fx can't trace.
    """
    if network.untraceable is not None:
        raise PlanError(f"{network.name} can't be collapsed, because torch.fx can't trace it; {network.untraceable}")
    merging = Merging(network, cost)
    module = copy_module(network.module).eval()
    nodes = {node.name: node for node in module.graph.nodes}
    reports = []
    for region in merging.regions:
        cover = merging.best(region, is_exact)
        for merge in cover.merges:
            _insert_convolution(module, nodes, merge, network.node_shapes)
        if len(region.ops) > 1:
            reports.append(_report(merging, region, cover))
    _drop_identities(module)
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()
    observed = observe(module, network.input_shape, name=network.name)
    collapsed = describe(module, observed, network.input_shape, name=network.name, spec=None, stages=network.stages)
    refused = tuple(f"not collapsed: {report.to_text()}" for report in reports if report.outcome == REFUSED)
    return Collapsed(
        network=replace(
            collapsed,
            stage_patterns=network.stage_patterns,
            notes=network.notes + refused,
            is_padded_once=network.is_padded_once,
        ),
        regions=tuple(reports),
    )


def _report(merging: Merging, region: Region, cover: Cover) -> RegionReport:
    kept = set(region.nodes).difference(*(merge.region.nodes for merge in cover.merges))
    outcome, reason = _outcome(merging, region, cover)
    return RegionReport(
        entry=region.entry,
        exit=region.exit,
        outcome=outcome,
        reason=reason,
        layers_before=len(region.ops),
        layers_after=len(cover.merges) + len(kept),
        macs_before=merging.macs_of(region.nodes),
        macs_after=sum(merge.layer.macs for merge in cover.merges) + merging.macs_of(kept),
    )


def _outcome(merging: Merging, region: Region, cover: Cover) -> tuple[str, str]:
    whole = merging.merge(region)
    if whole in cover.merges:
        return COLLAPSED, f"one {_describe(whole)}"
    cheaper = merging.best(region, lambda merge: True)
    if cheaper.price < cover.price:
        merge = next(merge for merge in cheaper.merges if not is_exact(merge))
        way_out = (
            "train it padded once" if merging.can_be_padded_once(merge) else "its layers are called elsewhere too"
        )
        return REFUSED, f"one {_describe(merge)} would differ at the borders, because {merge.obstacle}; {way_out}"
    if whole is None:
        return NOT_CHEAPER, "its branches have different strides"
    return NOT_CHEAPER, f"one {_describe(whole)} would take {whole.layer.macs:,} MACs"


def _describe(merge: Merge | None) -> str:
    assert merge is not None
    (height, width), channels = merge.layer.kernel, merge.layer.in_shape[0]
    return f"{height}x{width} convolution from {channels} channels"


# -- inserting a convolution --------------------------------------------------------------------------------


def _insert_convolution(
    module: fx.GraphModule, nodes: dict[str, fx.Node], merge: Merge, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Replace the merge's nodes by its convolution; `nodes` maps the original names to the graph's present nodes."""
    region, layer = merge.region, merge.layer
    left, right, top, bottom = amounts_between(area_of(layer.in_shape), merge.read)
    padding = (top, left) if _is_right_padding(merge, (top, left)) else (0, 0)
    convolution = _convolution(module, merge, shapes, padding=padding)
    module.add_submodule(layer.name, convolution)
    exit = nodes[region.exit]
    with module.graph.inserting_before(exit):
        source = nodes[region.entry]
        if padding == (0, 0) and any((left, right, top, bottom)) and not _is_right_padding(merge, padding):
            source = module.graph.call_function(F.pad, (source, (left, right, top, bottom)))
        replacement = module.graph.call_module(layer.name, (source,))
    exit.replace_all_uses_with(replacement)
    for node in reversed(region.nodes):
        module.graph.erase_node(nodes[node])
    nodes[region.exit] = replacement


def _is_right_padding(merge: Merge, padding: Pair) -> bool:
    """Return True if a convolution that pads both sides by `padding` (height, width) reads the right positions."""
    layer = merge.layer
    top, left = (-low for low, _ in merge.read)
    sizes = [
        (layer.in_shape[1 + axis] + 2 * padding[axis] - merge.extent[axis]) // merge.stride[axis] + 1
        for axis in (0, 1)
    ]
    return padding == (top, left) and min(padding) >= 0 and tuple(sizes) == layer.out_shape[1:]


def _convolution(
    module: fx.GraphModule, merge: Merge, shapes: Mapping[str, tuple[int, ...]], *, padding: Pair
) -> nn.Conv2d:
    layer = merge.layer
    like = next(p for p in module.parameters() if p.is_floating_point())
    convolution = nn.Conv2d(
        layer.in_shape[0], layer.out_shape[0], layer.kernel, merge.stride, padding, merge.dilation, layer.groups,
        bias=any(op.shifts for op in merge.region.ops), device="meta",
    )  # fmt: skip
    if like.is_meta:
        return convolution
    weight, bias = kernel_of(merge, module, shapes)
    convolution.weight = nn.Parameter(weight.to(like))
    if convolution.bias is not None:
        convolution.bias = nn.Parameter(bias.to(like))
    return convolution


def kernel_of(merge: Merge, module: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Return the weight (C', C / groups, height, width) and bias (C') of a merge's convolution: float64, on the CPU.

    Row c of the weight is the gradient of output channel c at one position with respect to that position's window.
    """
    region, layer = merge.region, merge.layer
    if _is_folding(merge):
        return _fold(region, module)
    made = needed_areas(region, ((0, 0), (0, 0)))
    if merge.is_dense:
        made = {name: area_of(shapes[name]) for name in made}
    out_channels, in_channels = layer.out_shape[0], layer.in_shape[0]
    largest = max(shapes[name][0] * _size(area) for name, area in made.items())
    rows_at_once = max(1, _CHUNK_ELEMENTS // largest)
    parts = []
    for rows in torch.split(torch.arange(out_channels), rows_at_once):
        entry = torch.zeros(len(rows), in_channels, *merge.extent, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            exit = run_region(region, module, entry, present=made, made=made)  # (rows, C', 1, 1)
            (gradient,) = torch.autograd.grad(exit[torch.arange(len(rows)), rows].sum(), entry)
        gradient = gradient[..., :: merge.dilation[0], :: merge.dilation[1]]
        parts.append(_select_group(gradient, rows // (out_channels // layer.groups), layer.groups))
    return torch.cat(parts), exit[0, :, 0, 0].detach()


def _is_folding(merge: Merge) -> bool:
    """Return True for a convolution followed by batch-norms and identities only, the common case and a cheap one."""
    first, *rest = merge.region.ops
    return first.kind == CONV and not merge.is_dense and all(op.kind in (SCALE, IDENTITY) for op in rest)


def _fold(region: Region, module: fx.GraphModule) -> tuple[Tensor, Tensor]:
    first, *rest = region.ops
    convolution = module.get_submodule(first.layer)
    assert isinstance(convolution, nn.Conv2d)
    weight = convolution.weight.detach().double()
    bias = convolution.bias.detach().double() if convolution.bias is not None else weight.new_zeros(len(weight))

    def run_rest(channels: Tensor) -> Tensor:
        values = channels.view(1, -1, 1, 1)
        for op in rest:
            values = compute(op, module, [values])
        return values.flatten()

    scale = run_rest(torch.ones_like(bias)) - run_rest(torch.zeros_like(bias))
    return weight * scale.view(-1, 1, 1, 1), run_rest(bias)


def _select_group(rows: Tensor, groups: Tensor, count: int) -> Tensor:
    """Select of rows (N, C, height, width) the channels of each row's group (N,), out of `count` groups."""
    blocks = rows.reshape(len(rows), count, -1, *rows.shape[2:])
    block: Tensor = blocks[torch.arange(len(rows)), groups]
    return block


def _size(area: Area) -> int:
    (top, bottom), (left, right) = area
    return (bottom - top + 1) * (right - left + 1)


def _drop_identities(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_module" and is_identity(module.get_submodule(str(node.target))):
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
