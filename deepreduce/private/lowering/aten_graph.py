"""Turn a traced network into a graph of ATen operations without side effects, each labelled with its layer."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.fx.traceback
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deepreduce.network import Network
from deepreduce.network.copying import copy_module
from deepreduce.network.network import SITE
from deepreduce.private.lowering.channel_order import order_channels
from deepreduce.transforms import collapse
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs

log = logging.getLogger(__name__)

_LAYER = "source_fn_stack"
"""Key of a node's meta that every version of torch copies from a node to the operations that it executes."""


def prepare(network: Network, *, cost: LayerCostFunction = macs) -> Network:
    """Return a copy of the network to lower: in evaluation mode, on the CPU, in float32, linear regions collapsed.

    A region is collapsed where that lowers `cost`, the cost of a layer. Batch-norms that follow no convolution stay.
    Channels are ordered such that masks are slices (`deepreduce.private.lowering.channel_order`).
    Logs a warning for a region that could be collapsed only if the network were trained padded once.
    """
    module = copy_module(network.module).cpu().float().eval()
    collapsed = collapse(replace(network, module=module), cost=cost).network
    for note in collapsed.notes[len(network.notes) :]:
        log.warning("%s: %s", network.name, note)
    return order_channels(collapsed)


def aten_graph(network: Network, *, batch: int = 1) -> fx.GraphModule:
    """Trace the network's forward pass of `batch` images to ATen operations; `layer_of` returns the layer of each.

    The graph is functional: in-place operations and views are replaced by operations that return new tensors.
    """
    labelled = fx.GraphModule(network.module, copy.deepcopy(network.module.graph))
    for node, name in _layer_names(labelled.graph).items():
        node.meta[_LAYER] = [(name, node.target)]

    def run(image: torch.Tensor) -> Any:
        return fx.Interpreter(labelled).run(image)

    with torch.fx.traceback.preserve_node_meta(), torch.no_grad(), _CircularPads():
        return make_fx(torch.func.functionalize(run))(torch.zeros(batch, *network.input_shape))


class _CircularPads(TorchFunctionMode):
    """Pads circularly by concatenating slices; PyTorch writes them into an empty tensor, which can't be lowered."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.pad or "circular" not in (*args[2:3], kwargs.get("mode")):
            return func(*args, **kwargs)
        given = dict(zip(("input", "pad"), args, strict=False)) | dict(kwargs)
        padded, pad = given["input"], given["pad"]
        for index in range(len(pad) // 2):  # the last dimension comes first
            dim, before, after = padded.dim() - 1 - index, pad[2 * index], pad[2 * index + 1]
            size = padded.shape[dim]
            inner = padded.narrow(dim, max(-before, 0), size - max(-before, 0) - max(-after, 0))
            parts = [padded.narrow(dim, size - before, before)] if before > 0 else []
            parts += [inner, *([padded.narrow(dim, 0, after)] if after > 0 else [])]
            padded = torch.cat(parts, dim)
        return padded


def layer_of(node: fx.Node) -> str:
    """Return the layer or site of the traced network that executed an operation."""
    stack = node.meta.get(_LAYER)
    return str(stack[-1][0]) if stack else node.name


def _layer_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Name each call by its site, else by its module's path or its node's name; a second call gets "#2"."""
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
