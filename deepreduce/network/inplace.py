"""In-place calls: which tensors of a graph are overwritten, and when, which the graph's edges do not show."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import networkx as nx
from torch import fx, nn

from deepreduce.network.site_layer import SiteLayer

FUNCTIONAL_FORMS: Mapping[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.ipow: operator.pow, operator.imatmul: operator.matmul, operator.iand: operator.and_,
    operator.ior: operator.or_, operator.ixor: operator.xor, operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}  # fmt: skip
"""Augmented assignment -> the operator that returns a new value."""

_OVERWRITING = {*FUNCTIONAL_FORMS, operator.setitem, "__setitem__"}

# these allocate their output; any other call may return its input or a view of it
_FRESH_LAYERS = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.Linear, nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd, nn.ReLU, nn.ReLU6,
    SiteLayer,
)  # fmt: skip
_FRESH_FUNCTIONS = {
    "add", "sub", "mul", "truediv", "div", "cat", "relu", "relu6", "clone", "mean", "matmul", "linear", "conv2d",
    "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d",
}  # fmt: skip


def is_inplace(node: fx.Node, module: fx.GraphModule) -> bool:
    """Return True for a call that may overwrite one of its inputs."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    if node.kwargs.get("inplace") or "out" in node.kwargs or any(value is True for value in node.args):
        return True  # a True passed by position to a function of torch.nn.functional may be its `inplace`
    name = _function_name(node)
    return node.target in _OVERWRITING or (name.endswith("_") and not name.endswith("__"))


class Overwrites:
    """The positions in a graph at which each tensor is overwritten, directly or through a view."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._position = {node.name: index for index, node in enumerate(module.graph.nodes)}
        sharing = nx.Graph()
        sharing.add_nodes_from(self._position)
        for node in module.graph.nodes:
            if is_inplace(node, module) or not is_fresh(node, module):
                sharing.add_edges_from((source.name, node.name) for source in node.all_input_nodes)
        self._memory = {name: i for i, names in enumerate(nx.connected_components(sharing)) for name in names}
        self._writes: dict[int, list[int]] = defaultdict(list)
        for node in module.graph.nodes:
            if is_inplace(node, module):
                self._writes[self._memory[node.name]].append(self._position[node.name])

    def occur_between(self, writer: str, reader: str, *, reader_too: bool = False) -> bool:
        """Return True if the output of node `writer` is overwritten before node `reader` runs.

        With `reader_too`, also if `reader` itself overwrites the output.
        """
        start, end = self._position[writer], self._position[reader] + reader_too
        return any(start < write < end for write in self._writes[self._memory[writer]])


def _function_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def is_fresh(node: fx.Node, module: fx.GraphModule) -> bool:
    """Return True for a call that is known to allocate its output."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _FRESH_LAYERS)
    return node.op == "placeholder" or _function_name(node) in _FRESH_FUNCTIONS
