"""Let a graph call modules, which follow train() and eval(), in the place of functions that depend on the mode.

Tracing freezes the value of `training=self.training`. So a network that calls such functions is traced in training
mode as well, and the two graphs are compared call by call.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from deepreduce.network.tracing.calls import ModeCall, UncountedNorm
from deepreduce.network.tracing.failures import Unfollowable
from deepreduce.network.tracing.rewrite import path_of_call
from deepreduce.network.tracing.tracer import LINE
from deepreduce.network.tracing.values import Runs

_DROPOUTS: Mapping[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
_NORMS = {3: nn.BatchNorm1d, 2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""Dimensions of a tensor -> its batch-norm."""

_KEY = tuple[str, Any, int]


@dataclass(frozen=True)
class Training:
    """What a network does in training: its graph, and by how much each counter of batches grew."""

    graph: fx.Graph
    counted: Mapping[str, int]


def depends_on_mode(graph: fx.Graph) -> bool:
    """Return True if the graph calls a function that has an argument for the mode."""
    return any(_takes_mode(node) for node in graph.nodes)


def _takes_mode(node: fx.Node) -> bool:
    if node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload):
        return False
    known = _parameters(node.target)
    return "training" in known or "use_input_stats" in known or getattr(node.target, "__name__", "") in _BUILTINS


_BUILTINS = {
    "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "native_dropout", "batch_norm",
    "native_batch_norm", "instance_norm", "rrelu", "rrelu_",
}  # fmt: skip
"""Functions of torch, below torch.nn.functional, with an argument for the mode."""


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of a builtin
        return ()


def follow_modes(module: fx.GraphModule, root: nn.Module, training: Training | None, runs: Runs) -> None:
    """Replace calls that do other work in training by calls of modules that follow the mode.

    Without a graph of training, dropout and batch-norm are taken to work as their modules do.
    """
    in_training = {} if training is None else _keyed(training.graph)
    made: Counter[str] = Counter()
    for key, node in _keyed(module.graph).items():
        if not _takes_mode(node):
            continue
        twin = in_training.get(key)
        if not _parameters(node.target):
            _check_alike(node, twin)
            continue
        given, other = _arguments(node), None if twin is None else _arguments(twin)
        if node.target is F.batch_norm:
            _train_norm(module, root, node, given, other, training, runs)
            continue
        is_dropout = node.target in _DROPOUTS
        layer = _dropout(node.target, given, other) if is_dropout else _mode_call(node, given, other)
        if layer is None:
            continue
        kind = "_dropout" if is_dropout else "_mode"
        path = f"{kind}{made[kind]}"
        made[kind] += 1
        module.add_submodule(path, layer)
        args = (given["input"],) if is_dropout else ()
        kept = {} if is_dropout else {k: v for k, v in given.items() if k not in _changing(given, other)}
        _replace(module, node, path, args, kept, runs=runs)
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)


def _check_alike(node: fx.Node, twin: fx.Node | None) -> None:
    """Raise `Unfollowable` where a function of torch whose arguments have no names is given others in training."""
    name = getattr(node.target, "__name__", "")
    plain = [[v for v in n.args if not _is_graphs(v)] for n in (node, twin) if n is not None]
    if twin is None or plain[0] != plain[1]:
        raise Unfollowable(
            f"it calls torch.{name} with other arguments in training; use torch.nn.functional.{name}, or the module",
            line=node.meta.get(LINE),
        )


def _keyed(graph: fx.Graph) -> dict[_KEY, fx.Node]:
    """Return the calls of functions by the module that calls, the function, and the number of its call there."""
    count: Counter[tuple[str, Any]] = Counter()
    keyed = {}
    for node in graph.nodes:
        if node.op == "call_function":
            place = (path_of_call(node), node.target)
            keyed[(*place, count[place])] = node
            count[place] += 1
    return keyed


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return a call's arguments by name, with the function's defaults."""
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    bound.apply_defaults()
    return dict(bound.arguments)


def _dropout(function: Any, given: Mapping[str, Any], other: Mapping[str, Any] | None) -> nn.Module | None:
    """Return the module for a dropout that works in training alone; None for one that works always, or never."""
    if given["training"] or (other is not None and not other["training"]):
        return None
    p = (other or given)["p"]
    return _DROPOUTS[function](p, given["inplace"])


def _mode_call(node: fx.Node, given: dict[str, Any], other: dict[str, Any] | None) -> nn.Module | None:
    changing = _changing(given, other)
    if not changing:
        return None
    assert other is not None and callable(node.target)
    return ModeCall(node.target, training={k: other[k] for k in changing}, evaluation={k: given[k] for k in changing})


def _changing(given: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the arguments that are other constants in training."""
    return [] if other is None else [k for k, v in given.items() if not _is_graphs(v) and v != other.get(k)]


def _is_graphs(value: Any) -> bool:
    return isinstance(value, fx.Node)


def _replace(module: fx.GraphModule, node: fx.Node, path: str, args: Any, kwargs: Any, *, runs: Runs) -> None:
    with module.graph.inserting_before(node):
        call = module.graph.call_module(path, args, kwargs)
    call.meta = copy.copy(node.meta)
    runs.replace(node, call)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)


# -- batch-norm ---------------------------------------------------------------------------------------------


def _train_norm(
    module: fx.GraphModule,
    root: nn.Module,
    node: fx.Node,
    given: dict[str, Any],
    other: dict[str, Any] | None,
    training: Training | None,
    runs: Runs,
) -> None:
    """Replace a call of `F.batch_norm` by a batch-norm layer that stands where its tensors are, and shares them."""
    normalises_batches = given["training"] is False and (other is None or other["training"] is True)
    if not normalises_batches or not isinstance(given["running_mean"], fx.Node):
        return
    owner = _owner(node, given)
    original = root.get_submodule(owner)
    count = None if training is None else training.counted.get(owner)
    momentum = (other or given)["momentum"]
    if getattr(original, "momentum", 0.1) is None and "num_batches_tracked" in original._buffers:
        momentum = None  # the mean of all batches
    cls = _NORMS.get(runs.of(given["input"]).dim())
    if not owner or cls is None or (momentum is not None and not isinstance(momentum, float)):
        raise Unfollowable(f"{owner} calls batch_norm in a way that no nn.BatchNorm does", line=node.meta.get(LINE))
    layer = _batch_norm(cls, original, momentum=momentum, eps=given["eps"], counts=count != 0)
    _put(module, owner, layer)
    _replace(module, node, owner, (given["input"],), {}, runs=runs)


def _owner(node: fx.Node, given: dict[str, Any]) -> str:
    """Return the path of the module whose tensors the call normalises with."""
    paths = {}
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = given[name]
        if value is not None:
            target = str(value.target) if _is_graphs(value) and value.op == "get_attr" else ""
            paths[name] = target.rpartition(".")
    owners = {path for path, _, _ in paths.values()}
    if len(owners) != 1 or any(last != name for name, (_, _, last) in paths.items()) or "running_var" not in paths:
        raise Unfollowable(
            "it calls batch_norm with statistics that can't be followed in training: hold them, and the weight and"
            " bias if any, as running_mean, running_var, weight and bias of one module, or use nn.BatchNorm2d",
            line=node.meta.get(LINE),
        )
    return owners.pop()


def _batch_norm(cls: Any, original: nn.Module, *, momentum: float | None, eps: float, counts: bool) -> nn.Module:
    if not counts or original._buffers.get("num_batches_tracked") is None:
        cls = UncountedNorm
    features = len(original.running_mean)  # type: ignore[arg-type]
    layer: nn.Module = cls(features, eps=eps, momentum=momentum, affine=False, device="meta")
    layer._parameters.update({name: original._parameters.get(name) for name in ("weight", "bias")})
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        layer._buffers[name] = original._buffers.get(name)
    layer.affine = original._parameters.get("weight") is not None  # type: ignore[assignment]
    return layer


def _put(module: fx.GraphModule, path: str, layer: nn.Module) -> None:
    """Put a layer where the graph module holds the tensors of the original, with all else that stands there."""
    parent, _, name = path.rpartition(".")
    holder = module.get_submodule(parent)
    before = holder._modules[name]
    assert before is not None
    for key, value in (*before._parameters.items(), *before._buffers.items()):
        if key not in layer._parameters and key not in layer._buffers:
            kind: dict[str, Any] = layer._parameters if isinstance(value, nn.Parameter) else layer._buffers
            kind[key] = value
    for key, child in before._modules.items():
        layer.add_module(key, child)
    holder._modules[name] = layer
