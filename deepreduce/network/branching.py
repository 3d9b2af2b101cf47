"""Find the blocks of a network: modules in whose forward pass branches meet, and the feature maps they return."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import fx, nn


def module_stack(node: fx.Node) -> list[str]:
    """Return the paths of the modules in whose forward the node is called, outermost first, without the root."""
    stack = node.meta.get("nn_module_stack") or {}
    return [path.partition("@")[0] for path, _ in stack.values() if path]


def joining_modules(graph_module: fx.GraphModule) -> set[str]:
    """Return the paths of the modules in which branches meet: an addition, product or concatenation of tensors."""
    return {path for node in _joins(graph_module) for path in module_stack(node)}


def _joins(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    for node in graph_module.graph.nodes:
        # weights and constants are not branches
        branches = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if node.op in ("call_function", "call_method") and len(branches) > 1:
            yield node


def block_outputs(
    graph_module: fx.GraphModule, original: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Return the positions (height * width) of the last feature map that each block computes, by the block's path.

    A block is a module of a class in whose forward feature maps of several branches meet, in this module or in
    another one of the class: an inverted residual with a stride is one too, although it has no residual addition.
    `shapes` are those of the nodes' outputs for one image.
    """
    meeting = {
        stack[-1] for node in _joins(graph_module) if _joins_maps(node, shapes) and (stack := module_stack(node))
    }
    classes = {type(original.get_submodule(path)) for path in meeting}
    outputs: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        shape = shapes.get(node.name, ())
        positions = math.prod(shape[1:]) if len(shape) == 3 else 1
        for path in module_stack(node):
            if type(original.get_submodule(path)) in classes and (positions > 1 or path not in outputs):
                outputs[path] = positions
    return outputs


def _joins_maps(node: fx.Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether the node reads several feature maps, not just one and its sizes."""
    return sum(len(shapes.get(source.name, ())) == 3 for source in node.all_input_nodes) > 1
