"""Rewrite a graph that was just traced, so that it trains, and is edited, as the module would be."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from deepreduce.network.inplace import FUNCTIONAL_FORMS, is_fresh, is_inplace
from deepreduce.network.meta_run import tensors_in
from deepreduce.network.tracing.failures import Unfollowable
from deepreduce.network.tracing.tracer import LINE, WITHOUT_GRADIENT
from deepreduce.network.tracing.values import Runs


def path_of_call(node: fx.Node) -> str:
    """Return the path of the innermost module in whose forward the node is called."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).partition("@")[0] if stack else ""


def undo_needless_overwriting(module: fx.GraphModule, runs: Runs) -> None:
    """Replace `x += y` by `x + y` where nobody else sees that x is overwritten, and where x is a number."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in FUNCTIONAL_FORMS and _may_return_new(node, module, runs):
            node.target = FUNCTIONAL_FORMS[node.target]


def _may_return_new(node: fx.Node, module: fx.GraphModule, runs: Runs) -> bool:
    before = node.args[0]
    if not isinstance(before, fx.Node):
        return False
    try:
        old, new = runs.of(before), runs.of(node)
        operand = node.args[1]
        others = tensors_in(runs.of(operand)) if isinstance(operand, fx.Node) else []
    except Exception:  # what can't be run without data stays as it is
        return False
    if not isinstance(old, Tensor):
        return isinstance(old, (int, float))
    return all(other.dtype == new.dtype for other in others) and _is_sole(before, node, module)


def _is_sole(node: fx.Node, reader: fx.Node, module: fx.GraphModule) -> bool:
    """Return True if no call but `reader` sees the memory of the node's tensor."""
    if list(node.users) != [reader] or node.op not in ("call_module", "call_function", "call_method"):
        return False
    return is_fresh(node, module) or all(_is_sole(source, node, module) for source in node.all_input_nodes)


def cut_gradients(module: fx.GraphModule, runs: Runs) -> None:
    """Detach what was computed under `torch.no_grad` where it is used outside of it.

    Raises `Unfollowable` for a call that overwrites a tensor there that was made outside.
    """
    for node in list(module.graph.nodes):
        if not node.meta.get(WITHOUT_GRADIENT) or node.op in ("get_attr", "placeholder", "output"):
            continue
        if is_inplace(node, module) and not all(_is_without_gradient(n, module) for n in node.all_input_nodes[:1]):
            raise Unfollowable(
                "it overwrites a tensor under torch.no_grad, which a graph does not keep from the gradient: use an"
                " operation that returns a new tensor",
                line=node.meta.get(LINE),
            )
        users = [user for user in node.users if not user.meta.get(WITHOUT_GRADIENT)]
        if users and tensors_in(runs.of(node)):
            _detach(module, node, users, runs)


def _is_without_gradient(node: fx.Node, module: fx.GraphModule) -> bool:
    """Return True if the node's memory was written under `torch.no_grad` alone."""
    if node.op in ("get_attr", "placeholder") or not node.meta.get(WITHOUT_GRADIENT):
        return False
    return is_fresh(node, module) or all(_is_without_gradient(source, module) for source in node.all_input_nodes)


def _detach(module: fx.GraphModule, node: fx.Node, users: list[fx.Node], runs: Runs) -> None:
    if not isinstance(runs.of(node), Tensor):
        for user in users:  # a tuple: each of its parts is detached where it is taken out
            if user.target is not operator.getitem:
                raise Unfollowable(
                    "several tensors made under torch.no_grad are used outside of it", line=node.meta.get(LINE)
                )
            _detach(module, user, list(user.users), runs)
        return
    with module.graph.inserting_after(node):
        detached = module.graph.call_method("detach", (node,))
    runs.replace(node, detached)
    detached.meta = {key: item for key, item in node.meta.items() if key != WITHOUT_GRADIENT}
    node.replace_all_uses_with(detached, delete_user_cb=lambda user: user in users)


def let_views_copy(module: fx.GraphModule) -> None:
    """Replace `view` by `reshape`, which returns the same tensor wherever `view` works.

    Training uses channels-last images, for which `x.view(-1, 400)` would fail.
    """
    for node in module.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[-1], torch.dtype):
            node.target = "reshape"


def refuse_written_buffers(module: fx.GraphModule) -> None:
    """Raise `Unfollowable` for a call that overwrites a tensor that the network holds."""
    for node in module.graph.nodes:
        written = node.args[0] if node.args and is_inplace(node, module) else None
        if isinstance(written, fx.Node) and written.op == "get_attr" and node.op != "call_module":
            raise Unfollowable(
                f"it overwrites {written.target}, a tensor of the network; deepreduce follows networks whose forward"
                " changes nothing but the statistics of batch-norms",
                line=node.meta.get(LINE),
            )


def keep_tensors(module: fx.GraphModule, root: nn.Module) -> None:
    """Hold all tensors of a module of which the graph uses one, so that no part of its state is missing."""
    for node in module.graph.nodes:
        owner = str(node.target).rpartition(".")[0]
        if node.op != "get_attr" or not owner:
            continue
        holder, original = module.get_submodule(owner), root.get_submodule(owner)
        for kind in ("_parameters", "_buffers"):
            held = getattr(holder, kind)
            held.update(
                {k: v for k, v in getattr(original, kind).items() if k not in held and not hasattr(holder, k)}
            )
        holder._non_persistent_buffers_set |= original._non_persistent_buffers_set


OUTPUT_KEYS = ("logits", "out")
"""The keys of which one names the output of a network that returns several tensors by name."""


def choose_output(module: fx.GraphModule) -> None:
    """Return the logits alone, where a network returns them in a dictionary, tuple or list.

    These are its only tensor, or the one under the key "logits" or "out". All else that is returned stays as it is.
    """
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    returned: Any = output.args[0]
    if isinstance(returned, Mapping):
        chosen = next((returned[key] for key in OUTPUT_KEYS if isinstance(returned.get(key), fx.Node)), None)
        nodes = [value for value in returned.values() if value is not None]
    elif isinstance(returned, (tuple, list)):
        chosen, nodes = None, [value for value in returned if value is not None]
    else:
        return
    if chosen is None and len(nodes) == 1 and isinstance(nodes[0], fx.Node):
        chosen = nodes[0]
    if chosen is not None:
        output.args = (chosen,)
