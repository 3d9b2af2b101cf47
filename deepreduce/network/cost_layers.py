"""The layers of a network as the plain values that cost models take."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn import functional as F

from deepreduce.cost.layers import (
    ACTIVATION,
    AVG_POOL,
    CONV,
    LINEAR,
    MAX_POOL,
    MOVE,
    OTHER,
    PRODUCT,
    RELU,
    RELU6,
    SCALE,
    SQUARE,
    Layer,
)
from deepreduce.network.calls import Call, call_of
from deepreduce.network.linear_ops import CONV_FUNCTION, IDENTITY, PAD, linear_ops
from deepreduce.network.meta_run import attribute
from deepreduce.network.network import Network
from deepreduce.network.operations import ACTIVATION_COSTS
from deepreduce.network.site_layer import site_layer_of

_KINDS = {
    "conv2d": CONV, "linear": LINEAR, "batch_norm": SCALE, "max_pool2d": MAX_POOL,
    "adaptive_max_pool2d": MAX_POOL, "avg_pool2d": AVG_POOL, "adaptive_avg_pool2d": AVG_POOL,
}  # fmt: skip
"""Function name -> kind of cost layer, for calls of modules and functions alike."""

_ACTIVATION_MODULES: Mapping[type[nn.Module], str] = {
    nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu", nn.Hardsigmoid: "hardsigmoid", nn.Hardswish: "hardswish",
    nn.Softshrink: "softshrink", nn.Sigmoid: "sigmoid", nn.SiLU: "silu", nn.Tanh: "tanh", nn.GELU: "gelu",
    nn.ELU: "elu", nn.SELU: "selu", nn.CELU: "celu", nn.Softmax: "softmax", nn.Softmax2d: "softmax",
}  # fmt: skip

_ACTIVATION_FUNCTIONS = {
    function: name
    for name in ACTIVATION_COSTS
    for function in (getattr(F, name, None), getattr(torch, name, None), name)  # a method has the same name
    if function is not None
}

_SQUARES = (torch.square, "square")
_MULTIPLICATIONS = (operator.mul, torch.mul, "mul")
_POWERS = (operator.pow, torch.pow, "pow")

_LINEAR_KINDS = {CONV_FUNCTION: CONV, IDENTITY: MOVE, PAD: MOVE}
"""Kind of a `LinearOp` -> kind of cost layer, where they differ."""


def layers_of(network: Network) -> tuple[Layer, ...]:
    """Return every layer of the network for one image, in execution order.

    A site with an action has the layers that the action gives.
    """
    found = node_layers(network)
    nodes = {node.name: node for node in network.module.graph.nodes}
    layers: list[Layer] = []
    for name, layer in found.items():
        at_site = site_layer_of(nodes[name], network.module)
        layers += [layer] if at_site is None else at_site.action.layers(layer)
    return tuple(layers)


def node_layers(network: Network) -> dict[str, Layer]:
    """Return the layer of every graph node that computes a tensor from another node's tensor, by the node's name.

    A layer is named by its ReLU site, else by the path of its module or the name of its node, with "#2" for a
    second call. A function has the same kind as the module that calls it.
    """
    shapes = network.node_shapes
    macs = {layer.node: layer.macs for layer in network.linear_layers}
    relus = {site.node: RELU6 if site.kind == "relu6" else RELU for site in network.sites}
    linear = {node: _LINEAR_KINDS.get(op.kind, op.kind) for node, op in linear_ops(network).items()}
    site_names = {site.node: site.name for site in network.sites}
    calls = Counter[str]()
    layers = {}
    for node in network.module.graph.nodes:
        call = call_of(node, network.module)
        source = call.source if call is not None else _source(node)
        out_shape = _output_shape(node, shapes)
        if node.op in ("placeholder", "get_attr", "output") or source is None or source.name not in shapes:
            continue
        if out_shape is None and node.name not in macs:
            continue
        name = str(node.target) if node.op == "call_module" else str(node.name)
        calls[name] += 1
        before, after = shapes[source.name], out_shape or ()
        activation = None if node.name in relus else _activation(node, network)
        kind = relus.get(node.name) or linear.get(node.name) or _kind(call, before, macs.get(node.name, 0))
        kind = SQUARE if _is_square(node) else kind
        kind = ACTIVATION if activation is not None else kind
        compared, levels = ACTIVATION_COSTS[activation] if activation is not None else (0, 0)
        layers[node.name] = Layer(
            name=site_names.get(node.name) or (name if calls[name] == 1 else f"{name}#{calls[name]}"),
            kind=kind,
            in_shape=before,
            out_shape=after,
            kernel=_kernel(call, network, before, after) if call and kind in (CONV, AVG_POOL, MAX_POOL) else (1, 1),
            groups=call["groups"] if call and kind == CONV else 1,
            macs=macs.get(node.name, 0),
            compared=compared,
            levels=levels,
        )
    return layers


def _is_square(node: fx.Node) -> bool:
    """Return whether a node multiplies a tensor with itself."""
    if node.op not in ("call_function", "call_method") or not node.args:
        return False
    if node.target in _SQUARES:
        return True
    if len(node.args) < 2:
        return False
    first, second = node.args[:2]
    if node.target in _MULTIPLICATIONS:
        return first is second
    return node.target in _POWERS and isinstance(second, (int, float)) and second == 2


def _activation(node: fx.Node, network: Network) -> str | None:
    """Return the name (of `ACTIVATION_COSTS`) of the activation that a node computes; None for any other node."""
    if node.op == "call_module":
        return _ACTIVATION_MODULES.get(type(network.module.get_submodule(str(node.target))))
    return _ACTIVATION_FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None


def _source(node: fx.Node) -> fx.Node | None:
    """Return the node that a call reads: an activation if there is one, else a tensor that the network holds."""
    sources = sorted(node.all_input_nodes, key=lambda source: source.op == "get_attr")
    return sources[0] if sources else None


def _output_shape(node: fx.Node, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the shape of a call's output, of its first part if it has several; None if it is no tensor (a size)."""
    parts = [user.name for user in node.users if user.target is operator.getitem]
    return next((shapes[name] for name in (node.name, *parts) if name in shapes), None)


def _kind(call: Call | None, before: tuple[int, ...], macs: int) -> str:
    if call is not None and call.function in _KINDS:
        return _KINDS[call.function]
    if call is not None and _averages_positions(call, before):
        return AVG_POOL
    return PRODUCT if macs else OTHER


def _averages_positions(call: Call, before: tuple[int, ...]) -> bool:
    """Return True for a mean over height and width, which pools the whole feature map."""
    dims = call["dim"]
    if len(before) != 3 or not isinstance(dims, (tuple, list)) or not all(isinstance(dim, int) for dim in dims):
        return False
    return sorted(dim % 4 for dim in dims) == [2, 3]


def _kernel(call: Call, network: Network, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int]:
    """Return the (height, width) of the window of a convolution or pool."""
    if call.function == "conv2d":
        weight = call["weight"]  # (out, in, height, width)
        size = (
            attribute(network.module, weight).shape if isinstance(weight, str) else network.node_shapes[weight.name]
        )
        return int(size[-2]), int(size[-1])
    given = call.pair("kernel_size")
    if given is not None:
        return given
    if len(before) != 3:
        return 1, 1
    # an adaptive pool gives an output size only: its windows cover the whole feature map
    height, width = (-(-whole // size) for whole, size in zip(before[1:], (*after[1:], 1, 1)[:2], strict=True))
    return height, width
