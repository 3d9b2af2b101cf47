"""Which calls of a graph map feature maps linearly, every place alike: what a convolution could do instead."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deepreduce.cost.layers import ADD, BATCH_NORM, CONV, POOL
from deepreduce.network.network import Network

IDENTITY, PAD = "identity", "pad"

Pair = tuple[int, int]

_ADDITIONS = {operator.add, operator.iadd, torch.add}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# torchvision's and timm's, which tracing keeps whole; in evaluation they give their input
_STOCHASTIC = {"StochasticDepth", "DropBlock2d", "DropPath"}


@dataclass(frozen=True, kw_only=True)
class LinearOp:
    """One call that maps feature maps (C, H, W) linearly, in evaluation mode.

    Along each axis (height, width), output position q reads its operands at q * stride - padding + t * dilation for
    t < kernel, and zeros outside of them. `groups` is the number of blocks of channels that do not mix. `shifts`
    tells that something is added that does not depend on the image (a bias). `layer` is the path of the module that
    is called, "" for a function.
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


def linear_ops(network: Network) -> dict[str, LinearOp]:
    """Every linear call of the network's graph by the name of its node, in graph order.

    Convolutions, batch-norms, average pools, additions of feature maps of one shape, zero padding (or cropping), and
    what does nothing in evaluation. What a convolution can't express is left out: padding that is not with zeros,
    pools that leave the padding out of the average.
    """
    found = {}
    for node in network.module.graph.nodes:
        operands = tuple(source.name for source in node.all_input_nodes)
        shapes = [network.node_shapes.get(name, ()) for name in (*operands, node.name)]
        if not operands or any(len(shape) != 3 for shape in shapes):
            continue
        op = _linear_op(node, network.module, shapes)
        if op is not None and _gives(op, shapes[0], shapes[-1]):
            found[node.name] = op
    return found


def _linear_op(node: fx.Node, module: fx.GraphModule, shapes: Sequence[tuple[int, ...]]) -> LinearOp | None:
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        single = len(node.all_input_nodes) == 1 == len(node.args) and not node.kwargs
        return _of_layer(node, layer, shapes[0]) if single else None
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
    """True for a layer that gives its input in evaluation."""
    return isinstance(layer, (nn.Identity, *_DROPOUTS)) or type(layer).__name__ in _STOCHASTIC


def pad_amounts(node: fx.Node) -> tuple[int, int, int, int] | None:
    """(left, right, top, bottom) of a call of `F.pad` with zeros; None for other padding."""
    values = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | dict(node.kwargs)
    amounts = values.get("pad")
    if values.get("mode", "constant") != "constant" or values.get("value") not in (None, 0, 0.0):
        return None
    if not isinstance(amounts, (tuple, list)) or len(amounts) != 4 or not all(isinstance(n, int) for n in amounts):
        return None
    left, right, top, bottom = (int(n) for n in amounts)  # type: ignore[arg-type]
    return left, right, top, bottom


def _of_layer(node: fx.Node, layer: nn.Module, shape: tuple[int, ...]) -> LinearOp | None:
    op = LinearOp(
        node=node.name,
        kind=IDENTITY,
        operands=(node.all_input_nodes[0].name,),
        groups=shape[0],
        layer=str(node.target),
    )
    if type(layer) is nn.Conv2d:
        return _convolution(op, layer)
    if type(layer) is nn.AvgPool2d:
        return _average_pool(op, layer)
    if type(layer) is nn.AdaptiveAvgPool2d:
        return _adaptive_pool(op, layer, shape)
    if type(layer) is nn.BatchNorm2d:
        return replace(op, kind=BATCH_NORM, shifts=True) if layer.running_mean is not None else None
    if type(layer) is nn.ZeroPad2d:
        left, _, top, _ = layer.padding
        return replace(op, kind=PAD, padding=(top, left))
    return op if is_identity(layer) else None


def _convolution(op: LinearOp, layer: nn.Conv2d) -> LinearOp | None:
    kernel, dilation = pair(layer.kernel_size), pair(layer.dilation)
    if layer.padding == "same":
        padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    else:
        padding = (0, 0) if layer.padding == "valid" else pair(layer.padding)
    if padding != (0, 0) and layer.padding_mode != "zeros":
        return None
    return replace(
        op, kind=CONV, groups=layer.groups, kernel=kernel, dilation=dilation, stride=pair(layer.stride),
        padding=padding, shifts=layer.bias is not None,
    )  # fmt: skip


def _average_pool(op: LinearOp, layer: nn.AvgPool2d) -> LinearOp | None:
    padding = pair(layer.padding)
    if padding != (0, 0) and not layer.count_include_pad:
        return None
    return replace(op, kind=POOL, kernel=pair(layer.kernel_size), stride=pair(layer.stride), padding=padding)


def _adaptive_pool(op: LinearOp, layer: nn.AdaptiveAvgPool2d, shape: tuple[int, ...]) -> LinearOp | None:
    made = [whole if size is None else size for size, whole in zip(pair(layer.output_size), shape[1:], strict=True)]
    if any(whole % size for size, whole in zip(made, shape[1:], strict=True)):
        return None  # its windows are of several sizes
    window = (shape[1] // made[0], shape[2] // made[1])
    return replace(op, kind=POOL, kernel=window, stride=window)


def _gives(op: LinearOp, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether the op's figures explain its output's size: a pool that rounds up reads a window that is cut off."""
    if op.kind in (PAD, IDENTITY, ADD, BATCH_NORM):
        return True
    for axis in (0, 1):
        last = (after[1 + axis] - 1) * op.stride[axis] - op.padding[axis] + (op.kernel[axis] - 1) * op.dilation[axis]
        if last > before[1 + axis] - 1 + op.padding[axis] + (op.kind == CONV):  # "same" may pad one more behind
            return False
    return True


def pair(value: object) -> Pair:
    """(height, width) of a figure that torch takes as one number or two."""
    if isinstance(value, (tuple, list)):
        height, width = value
        return height, width
    assert isinstance(value, int) or value is None
    return value, value  # type: ignore[return-value]


# -- computing them -----------------------------------------------------------------------------------------


def compute(op: LinearOp, module: fx.GraphModule, operands: Sequence[Tensor]) -> Tensor:
    """The op's output (N, C, H, W) in the operands' precision, without any padding of its own.

    Operands are given as far as the op reads them: whoever calls has padded or cropped them.
    """
    if op.kind == ADD:
        return operands[0] + operands[1]
    (x,) = operands
    layer = module.get_submodule(op.layer) if op.layer else None
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, layer.weight.detach().to(x), _like(layer.bias, x), op.stride, 0, op.dilation, op.groups)
    if isinstance(layer, nn.BatchNorm2d):
        mean, variance, weight, bias = (
            _like(tensor, x) for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        )
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=layer.eps)
    if op.kind == POOL:
        return F.avg_pool2d(x, op.kernel, op.stride, divisor_override=getattr(layer, "divisor_override", None))
    return x


def _like(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(x)
