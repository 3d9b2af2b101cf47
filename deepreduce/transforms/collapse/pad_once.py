"""Pad linear regions once, at their entries, so that one convolution computes a region including its borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx, nn
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.network.copying import copy_module
from deepreduce.network.linear_ops import PAD
from deepreduce.network.network import Network
from deepreduce.network.observe import observe
from deepreduce.network.trace import describe
from deepreduce.transforms.collapse.choose import LayerCostFunction, Merging, is_exact, macs
from deepreduce.transforms.collapse.regions import Region, amounts_between, area_of, needed_areas, read_area


def pad_once(network: Network, *, cost: LayerCostFunction = macs) -> Network:
    """Return a new network, to be trained, in which every linear region that is worth collapsing is padded once.

    All zero padding of such a region moves to its entry: the layers inside pad nothing, and branches that skip some
    of the layers are cropped. Feature maps inside the region are larger than before, so that training costs more; the
    region's output keeps its shape. Weights and the names of sites and layers stay; values differ near the borders. A
    region is worth collapsing if one convolution computes it at less `cost` (default: multiply-accumulates, as for a
    plan's `pad_once`). The result is for images of the network's `input_shape`.

    Raises `PlanError` if no region would become cheaper, among others because the network is padded once already.
    """
    regions = regions_to_pad(network, cost=cost)
    if not regions:
        raise PlanError(
            f"{network.name} has no linear region that padding once would make cheaper to collapse; cull or thin"
            " first, or leave pad_once out"
        )
    module = copy_module(network.module)
    for region in regions:
        _pad_at_entry(module, region, network)
    module.graph.lint()
    module.recompile()
    observed = observe(module, network.input_shape, name=network.name)
    assert observed.outputs == network.outputs
    padded = describe(
        module, observed, network.input_shape, name=network.name, spec=network.spec, stages=network.stages
    )
    return replace(padded, stage_patterns=network.stage_patterns, notes=network.notes, is_padded_once=True)


def regions_to_pad(network: Network, *, cost: LayerCostFunction = macs) -> list[Region]:
    """Return the linear regions that one convolution would compute at less cost if they were padded once."""
    merging = Merging(network, cost)
    merges = [
        merge
        for region in merging.regions
        for merge in merging.best(region, lambda merge: is_exact(merge) or merging.can_be_padded_once(merge)).merges
    ]
    return [merge.region for merge in merges if not is_exact(merge)]


def _pad_at_entry(module: fx.GraphModule, region: Region, network: Network) -> None:
    """Rewrite the region's ops to read exactly what one convolution would, and to pad nothing themselves."""
    nodes = {node.name: node for node in module.graph.nodes}
    areas = needed_areas(region, area_of(network.node_shapes[region.exit]))
    present = {**areas, region.entry: area_of(network.node_shapes[region.entry])}
    with module.graph.inserting_before(nodes[region.ops[0].node]):
        entry = _pad(module, nodes[region.entry], amounts_between(present[region.entry], areas[region.entry]))
    made: dict[tuple[str, tuple[int, ...]], fx.Node] = {}
    for op in region.ops:
        node, read = nodes[op.node], read_area(op, areas[op.node])
        with module.graph.inserting_before(node):
            operands = []
            for name in op.operands:
                amounts = amounts_between(areas[name], read)
                source = entry if name == region.entry else nodes[name]
                if (name, amounts) not in made:
                    made[name, amounts] = _pad(module, source, amounts)
                operands.append(made[name, amounts])
        _set_operands(node, operands)
        if op.layer:
            _stop_padding(module.get_submodule(op.layer))
        elif op.kind == PAD:
            node.replace_all_uses_with(operands[0])
            nodes[op.node] = operands[0]
            module.graph.erase_node(node)


def _pad(module: fx.GraphModule, source: fx.Node, amounts: tuple[int, int, int, int]) -> fx.Node:
    """Return the node padded with zeros by `amounts` (left, right, top, bottom); negative amounts crop."""
    return module.graph.call_function(F.pad, (source, amounts)) if any(amounts) else source


def _set_operands(node: fx.Node, operands: Sequence[fx.Node]) -> None:
    waiting = list(operands)
    node.args = tuple(waiting.pop(0) if isinstance(value, fx.Node) else value for value in node.args)
    assert not waiting


def _stop_padding(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.AvgPool2d)):
        layer.padding = (0, 0)
    elif isinstance(layer, nn.ZeroPad2d):
        layer.padding = (0, 0, 0, 0)
