"""Name the ReLU sites of a traced graph, and assign each to its stage and block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from deepreduce.network.branching import block_outputs, joining_modules, module_stack
from deepreduce.network.network import SITE
from deepreduce.network.observe import Observation
from deepreduce.network.site_layer import site_layer_of
from deepreduce.network.stages import SiteDraft, assign_stages


def name_sites(
    graph_module: fx.GraphModule,
    observed: Observation,
    original: nn.Module,
    *,
    declared: bool,
    patterns: Mapping[str, Sequence[str]] | None,
) -> None:
    """Write the name, stage and block of every ReLU into its node's `meta`.

    Raises `ModelError` if `patterns` don't fit the sites.
    """
    drafts, calls = [], Counter[str]()
    joins, outputs = joining_modules(graph_module), block_outputs(graph_module, original, observed.shapes)
    for node in graph_module.graph.nodes:
        if node.name not in observed.relus:
            continue
        path = _site_path(node, original)
        calls[path] += 1
        drafts.append(
            SiteDraft(
                node=node.name,
                name=path if calls[path] == 1 else f"{path}#{calls[path]}",
                owner=_owner(node, original),
                modules=tuple(module_stack(node)),
                shape=observed.shapes[node.name],
            )
        )
    assigned = assign_stages(drafts, joins, outputs, declared=declared, patterns=patterns)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    for draft, (stage, block) in zip(drafts, assigned, strict=True):
        nodes[draft.node].meta[SITE] = (draft.name, stage, block)


def _calls_layer(node: fx.Node, original: nn.Module) -> bool:
    """Return True for a call that is a layer's whole forward: torch.export turns a ReLU module into a function."""
    stack = module_stack(node)
    if node.op == "call_module" or not isinstance(node.target, torch._ops.OpOverload) or not stack:
        return node.op == "call_module"
    layer = original.get_submodule(stack[-1])
    return type(layer).__module__.startswith("torch.nn.") and not any(True for _ in layer.children())


def _site_path(node: fx.Node, original: nn.Module) -> str:
    layer = site_layer_of(node, original)
    if layer is not None:
        return layer.site_name
    if node.op == "call_module":
        return str(node.target)
    stack = module_stack(node)
    if _calls_layer(node, original):
        return stack[-1]
    if isinstance(node.target, torch._ops.OpOverload):
        function = node.target.overloadpacket.__name__
    else:
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
    return ".".join([*stack[-1:], function.rstrip("_")])


def _owner(node: fx.Node, original: nn.Module) -> str | None:
    """Return the path of the innermost module around the call that is neither a Sequential nor the ReLU itself."""
    stack = module_stack(node)
    if _calls_layer(node, original):
        layer = _site_path(node, original)
        stack = [path for path in stack if path != layer]
    for path in reversed(stack):
        if not isinstance(original.get_submodule(path), nn.Sequential):
            return path
    return None
