"""A traced network as a graph of ATen operations without side effects, each knowing the layer it belongs to."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import torch
import torch.fx.traceback
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from deepreduce.network import Network
from deepreduce.network.network import SITE
from deepreduce.transforms import collapse
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs

log = logging.getLogger(__name__)

_LAYER = "source_fn_stack"
"""The key of a node's meta that torch hands on from a node to the operations it executes, in every version."""


def prepare(network: Network, *, cost: LayerCostFunction = macs) -> Network:
    """The network as it is to be run: a copy in evaluation mode on the CPU, in float32, its linear regions collapsed.

    They are where that lowers `cost`, which prices one layer. Batch-norms that no convolution takes in stay. A region
    that would collapse only if it were padded once is told.
    """
    module = copy.deepcopy(network.module).cpu().float().eval()
    collapsed = collapse(replace(network, module=module), cost=cost).network
    for note in collapsed.notes[len(network.notes) :]:
        log.warning("%s: %s", network.name, note)
    return collapsed


def aten_graph(network: Network) -> fx.GraphModule:
    """The ATen operations of one image's way through the network; `layer_of` names each one's layer.

    In-place operations and views have become operations that give new tensors, so that the order alone matters.
    """
    labelled = fx.GraphModule(network.module, copy.deepcopy(network.module.graph))
    for node, name in _layer_names(labelled.graph).items():
        node.meta[_LAYER] = [(name, node.target)]

    def run(image: torch.Tensor) -> Any:
        return fx.Interpreter(labelled).run(image)

    with torch.fx.traceback.preserve_node_meta(), torch.no_grad():
        return make_fx(torch.func.functionalize(run))(torch.zeros(1, *network.input_shape))


def layer_of(node: fx.Node) -> str:
    """The layer or site of the traced network that executed an operation."""
    stack = node.meta.get(_LAYER)
    return str(stack[-1][0]) if stack else node.name


def _layer_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """A name for each call: a site's own, else the module's path or the node's name, with "#2" for a second call."""
    names: dict[fx.Node, str] = {}
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if SITE in node.meta:
            names[node] = str(node.meta[SITE][0])
            continue
        name = str(node.target) if node.op == "call_module" else node.name
        calls[name] = calls.get(name, 0) + 1
        names[node] = name if calls[name] == 1 else f"{name}#{calls[name]}"
    return names
