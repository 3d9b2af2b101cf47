"""The calls of a graph that map feature maps linearly and alike at every position, as a convolution could."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deepreduce.cost.layers import ADD, AVG_POOL, CONV, SCALE
from deepreduce.network.calls import Call, call_of
from deepreduce.network.meta_run import attribute
from deepreduce.network.module_kinds import has_hooks, returns_its_input, torch_class_of
from deepreduce.network.network import Network
from deepreduce.network.tracing.calls import UncountedNorm

IDENTITY, PAD, CONV_FUNCTION = "identity", "pad", "conv function"

Pair = tuple[int, int]

_ADDITIONS = {operator.add, operator.iadd, torch.add}
_EXACT_CLASSES = (nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d, nn.SyncBatchNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True, kw_only=True)
class LinearOp:
    """One call that maps feature maps (C, H, W) linearly, in evaluation mode.

    Along each axis (height, width), output position q reads the operands at `q * stride - padding + t * dilation` for
    `0 <= t < kernel`, and zeros outside of them. `groups` is the number of blocks of channels that do not mix.
    `shifts`: the op adds a term that does not depend on the image (a bias). `layer` is the path of the called module,
    "" for a function. `tensors` are the paths of the op's tensors, "" for a missing one: weight and bias of a
    convolution; mean, variance, weight and bias of a batch-norm, whose epsilon is `eps`. `divisor` replaces a pool's
    window size in its average. `is_rigid`: the call can't be rewritten to drop its padding and read another operand,
    so no region with this op can be padded once.
    """

    node: str
    kind: str
    operands: tuple[str, ...]
    groups: int
    layer: str = ""
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Pair = (0, 0)
    shifts: bool = False
    tensors: tuple[str, ...] = ()
    eps: float = 0.0
    divisor: int | None = None
    is_rigid: bool = False


def linear_ops(network: Network) -> dict[str, LinearOp]:
    """Return every linear call of the network's graph by the name of its node, in graph order.

    These are convolutions, batch-norms, average pools, additions of feature maps of one shape, zero padding (or
    cropping), and identities in evaluation (dropout); as modules and as functions. Excluded are calls that a
    convolution can't express (padding with other values than zeros, pools that leave the padding out of the average)
    and modules with hooks, which may compute anything.
    """
    found = {}
    for node in network.module.graph.nodes:
        call = call_of(node, network.module)
        # a function also takes its weights as inputs
        sources = [call.source] if call is not None and node.op != "call_module" else node.all_input_nodes
        operands = tuple(source.name for source in sources)
        shapes = [network.node_shapes.get(name, ()) for name in (*operands, node.name)]
        if not operands or any(len(shape) != 3 for shape in shapes):
            continue
        op = _linear_op(node, call, network.module, shapes)
        if op is not None and _explains_output(op, shapes[0], shapes[-1]):
            found[node.name] = op
    return found


def _linear_op(
    node: fx.Node, call: Call | None, module: fx.GraphModule, shapes: Sequence[tuple[int, ...]]
) -> LinearOp | None:
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        single = len(node.all_input_nodes) == 1 == len(node.args) and not node.kwargs
        return _layer_op(node, call, module, shapes[0]) if single and not has_hooks(layer) else None
    if call is not None:
        op = _call_op(node, call, module, shapes[0])
        return None if op is None else _function_op(op, node)
    operands = tuple(source.name for source in node.all_input_nodes)
    channels = shapes[-1][0]
    if node.target in _ADDITIONS and not node.kwargs and all(isinstance(value, fx.Node) for value in node.args):
        if all(shape == shapes[-1] for shape in shapes):
            operands = tuple(value.name for value in node.args if isinstance(value, fx.Node))  # x + x reads x twice
            return LinearOp(node=node.name, kind=ADD, operands=operands, groups=channels)
    elif node.target in (torch.clone, "clone") and not node.kwargs:
        return LinearOp(node=node.name, kind=IDENTITY, operands=operands, groups=channels)
    elif node.target is F.pad and (amounts := pad_amounts(node)) is not None:
        left, _, top, _ = amounts
        return LinearOp(node=node.name, kind=PAD, operands=operands, groups=channels, padding=(top, left))
    return None


def is_identity(layer: nn.Module) -> bool:
    """Return True for a layer that returns its input in evaluation mode."""
    known = torch_class_of(layer)
    if known is not None:
        return known in (nn.Identity, *_DROPOUTS) and not has_hooks(layer)
    return returns_its_input(layer)


def pad_amounts(node: fx.Node) -> tuple[int, int, int, int] | None:
    """Return (left, right, top, bottom), in pixels, of a call of `F.pad` with zeros; None for other padding."""
    values = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | dict(node.kwargs)
    amounts = values.get("pad")
    if values.get("mode", "constant") != "constant" or values.get("value") not in (None, 0, 0.0):
        return None
    if not isinstance(amounts, (tuple, list)) or len(amounts) != 4 or not all(isinstance(n, int) for n in amounts):
        return None
    left, right, top, bottom = (int(n) for n in amounts)  # type: ignore[arg-type]
    return left, right, top, bottom


def _layer_op(node: fx.Node, call: Call | None, module: fx.GraphModule, shape: tuple[int, ...]) -> LinearOp | None:
    layer, path = module.get_submodule(str(node.target)), str(node.target)
    if call is not None:
        op = _call_op(node, call, module, shape) if _is_exact(layer) else None
        return None if op is None else replace(op, layer=path)
    op = LinearOp(
        node=node.name, kind=IDENTITY, operands=(node.all_input_nodes[0].name,), groups=shape[0], layer=path
    )
    if torch_class_of(layer) is nn.ZeroPad2d:
        left, _, top, _ = cast(nn.ZeroPad2d, layer).padding
        return replace(op, kind=PAD, padding=(top, left))
    return op if is_identity(layer) else None


def _is_exact(layer: nn.Module) -> bool:
    return torch_class_of(layer) in _EXACT_CLASSES or isinstance(layer, UncountedNorm)


def _function_op(op: LinearOp, node: fx.Node) -> LinearOp:
    """Return the op of a function called without a module: rigid if it pads or takes other nodes than its operand."""
    kind = CONV_FUNCTION if op.kind == CONV else op.kind
    is_alone = len(node.all_input_nodes) == 1 and isinstance(node.args[0] if node.args else None, fx.Node)
    return replace(op, kind=kind, is_rigid=op.padding != (0, 0) or not is_alone)


def _call_op(node: fx.Node, call: Call, module: fx.GraphModule, shape: tuple[int, ...]) -> LinearOp | None:
    op = LinearOp(node=node.name, kind=IDENTITY, operands=(call.source.name,), groups=shape[0])
    if call.function == "conv2d":
        return _convolution(op, call, module)
    if call.function == "avg_pool2d":
        return _average_pool(op, call)
    if call.function == "adaptive_avg_pool2d":
        return _adaptive_pool(op, call, shape)
    return _batch_norm(op, call) if call.function == "batch_norm" else None


def _convolution(op: LinearOp, call: Call, module: fx.GraphModule) -> LinearOp | None:
    tensors, stride, dilation = _tensor_paths(call, "weight", "bias"), call.pair("stride"), call.pair("dilation")
    if not tensors or not tensors[0] or stride is None or dilation is None:
        return None
    height, width = attribute(module, tensors[0]).shape[2:]
    whole = tuple(d * (k - 1) for d, k in zip(dilation, (height, width), strict=True))  # padding="same", both sides
    if call["padding"] == "same":
        padding: Pair | None = (whole[0] // 2, whole[1] // 2)
    else:
        padding = (0, 0) if call["padding"] == "valid" else call.pair("padding")
    if padding is None:
        return None
    pads = whole if call["padding"] == "same" else padding
    if pads != (0, 0) and call["padding_mode"] not in (None, "zeros"):
        return None
    return replace(
        op, kind=CONV, groups=call["groups"], kernel=(height, width), dilation=dilation, stride=stride,
        padding=padding, shifts=tensors[1] != "", tensors=tensors,
    )  # fmt: skip


def _tensor_paths(call: Call, *names: str) -> tuple[str, ...] | None:
    """Return the paths of the call's tensors, "" for a missing one; None if the graph computes one of the tensors."""
    tensors = tuple("" if call[name] is None else call[name] for name in names)
    return tensors if all(isinstance(path, str) for path in tensors) else None


def _average_pool(op: LinearOp, call: Call) -> LinearOp | None:
    kernel, stride, padding = call.pair("kernel_size"), call.stride, call.pair("padding")
    if kernel is None or stride is None or padding is None:
        return None
    if padding != (0, 0) and not call["count_include_pad"]:
        return None
    return replace(op, kind=AVG_POOL, kernel=kernel, stride=stride, padding=padding, divisor=call["divisor_override"])


def _adaptive_pool(op: LinearOp, call: Call, shape: tuple[int, ...]) -> LinearOp | None:
    given = call["output_size"]
    sizes = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    made = [whole if size is None else size for size, whole in zip(sizes, shape[1:], strict=True)]
    if not all(isinstance(size, int) for size in made):
        return None
    if any(whole % size for size, whole in zip(made, shape[1:], strict=True)):
        return None  # the windows differ in size
    window = (shape[1] // made[0], shape[2] // made[1])
    return replace(op, kind=AVG_POOL, kernel=window, stride=window)


def _batch_norm(op: LinearOp, call: Call) -> LinearOp | None:
    tensors = _tensor_paths(call, "running_mean", "running_var", "weight", "bias")
    if not tensors or not tensors[0] or not tensors[1] or call["training"] or not isinstance(call["eps"], float):
        return None
    return replace(op, kind=SCALE, shifts=True, tensors=tensors, eps=call["eps"])


def _explains_output(op: LinearOp, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Return True if the op's figures explain its output's size; a pool in ceil mode has windows that are cut off."""
    if op.kind in (PAD, IDENTITY, ADD, SCALE):
        return True
    for axis in (0, 1):
        last = (after[1 + axis] - 1) * op.stride[axis] - op.padding[axis] + (op.kernel[axis] - 1) * op.dilation[axis]
        if last > before[1 + axis] - 1 + op.padding[axis] + (op.kind == CONV):  # "same" may pad one more behind
            return False
    return True


# -- computing an op ----------------------------------------------------------------------------------------


def compute(op: LinearOp, module: fx.GraphModule, operands: Sequence[Tensor]) -> Tensor:
    """Return the op's output (N, C, H, W) in the operands' precision, computed without the op's own padding.

    The caller pads or crops the operands to what the op reads.
    """
    if op.kind == ADD:
        return operands[0] + operands[1]
    (x,) = operands
    tensors: list[Any] = [attribute(module, path).detach().to(x) if path else None for path in op.tensors]
    if op.kind in (CONV, CONV_FUNCTION):
        weight, bias = tensors
        return F.conv2d(x, weight, bias, op.stride, 0, op.dilation, op.groups)
    if op.kind == SCALE:
        mean, variance, weight, bias = tensors
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=op.eps)
    if op.kind == AVG_POOL:
        return F.avg_pool2d(x, op.kernel, op.stride, divisor_override=op.divisor)
    return x
