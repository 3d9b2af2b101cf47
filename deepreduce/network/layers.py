"""A network as the plain values that a cost takes."""

from __future__ import annotations

from collections import Counter

from torch import nn

from deepreduce.cost.layers import BATCH_NORM, CONV, LINEAR, MATMUL, MAX_POOL, OTHER, POOL, RELU, RELU6, Layer
from deepreduce.network.linear import linear_ops, pair
from deepreduce.network.network import Network


def layers_of(network: Network) -> tuple[Layer, ...]:
    """Every layer of the network for one image, in the order in which they run."""
    return tuple(node_layers(network).values())


def node_layers(network: Network) -> dict[str, Layer]:
    """The layer of every graph node that makes a tensor of one read from another, by the node's name.

    A layer's own name is that of its ReLU site, else the path of its module or the name of its node, with "#2" for a
    second call.
    """
    macs = {layer.node: layer.macs for layer in network.linear_layers}
    relus = {site.node: RELU6 if site.kind == "relu6" else RELU for site in network.sites}
    linear = {node: op.kind for node, op in linear_ops(network).items()}
    site_names = {site.node: site.name for site in network.sites}
    calls = Counter[str]()
    layers = {}
    for node in network.module.graph.nodes:
        shapes = [network.node_shapes.get(source.name) for source in node.all_input_nodes]
        if node.op in ("placeholder", "get_attr", "output") or not shapes or shapes[0] is None:
            continue
        module = network.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        kind = relus.get(node.name) or linear.get(node.name) or _kind(module, macs.get(node.name, 0))
        name = str(node.target) if node.op == "call_module" else str(node.name)
        calls[name] += 1
        layers[node.name] = Layer(
            name=site_names.get(node.name) or (name if calls[name] == 1 else f"{name}#{calls[name]}"),
            kind=kind,
            in_shape=shapes[0],
            out_shape=network.node_shapes.get(node.name, ()),
            kernel=_kernel(module) if kind in (CONV, POOL, MAX_POOL) else (1, 1),
            groups=module.groups if isinstance(module, nn.Conv2d) else 1,
            macs=macs.get(node.name, 0),
        )
    return layers


def _kind(module: nn.Module | None, macs: int) -> str:
    if isinstance(module, nn.Conv2d):
        return CONV
    if isinstance(module, nn.Linear):
        return LINEAR
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return BATCH_NORM
    if isinstance(module, nn.MaxPool2d):
        return MAX_POOL
    return MATMUL if macs else OTHER


def _kernel(module: nn.Module | None) -> tuple[int, int]:
    size = getattr(module, "kernel_size", None)
    return (1, 1) if size is None else pair(size)
