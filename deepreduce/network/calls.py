"""One view of a graph node's call, whether it is written as a module, a function, a method or an ATen operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "linear": ("input", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": (
        "input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
    ),
    "adaptive_max_pool2d": ("input", "output_size", "return_indices"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "mean": ("input", "dim", "keepdim"),
}  # fmt: skip
"""The functions that `call_of` knows, with their parameters in order."""

_FUNCTIONS: Mapping[Any, str] = {
    F.conv2d: "conv2d",
    F.linear: "linear",
    F.batch_norm: "batch_norm",
    F.max_pool2d: "max_pool2d", torch.max_pool2d: "max_pool2d", F.max_pool2d_with_indices: "max_pool2d",
    F.avg_pool2d: "avg_pool2d",
    F.adaptive_max_pool2d: "adaptive_max_pool2d", F.adaptive_max_pool2d_with_indices: "adaptive_max_pool2d",
    F.adaptive_avg_pool2d: "adaptive_avg_pool2d",
    torch.mean: "mean", "mean": "mean",
}  # fmt: skip

_DEFAULTS: Mapping[str, Any] = {
    "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "training": False, "eps": 1e-5,
    "ceil_mode": False, "count_include_pad": True, "divisor_override": None, "keepdim": False, "dim": None,
}  # fmt: skip

_TENSORS = ("weight", "bias", "running_mean", "running_var")

_MODULES: tuple[tuple[type[nn.Module], str, tuple[str, ...]], ...] = (
    (nn.Conv2d, "conv2d", ("stride", "padding", "dilation", "groups", "padding_mode")),
    (nn.Linear, "linear", ()),
    (nn.modules.batchnorm._BatchNorm, "batch_norm", ("eps",)),
    (nn.MaxPool2d, "max_pool2d", ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    (nn.AvgPool2d, "avg_pool2d", _PARAMETERS["avg_pool2d"][1:]),
    (nn.AdaptiveMaxPool2d, "adaptive_max_pool2d", ("output_size",)),
    (nn.AdaptiveAvgPool2d, "adaptive_avg_pool2d", ("output_size",)),
)
"""Module classes, the function that each calls, and the attributes that it passes to the function."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of `function` on the output of the node `source`.

    `options` maps the parameter names of torch.nn.functional to the arguments: plain values, the paths of tensors
    that the network holds (weights, statistics), or nodes for arguments that the graph computes.
    """

    function: str
    source: fx.Node
    options: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.options.get(name, _DEFAULTS.get(name))

    def pair(self, name: str) -> tuple[int, int] | None:
        """Return (height, width) of an option given as one or two integers; None for any other value."""
        value = self[name]
        sizes = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
        if len(sizes) == 1:
            sizes = (sizes[0], sizes[0])
        if len(sizes) != 2 or any(isinstance(size, bool) or not isinstance(size, int) for size in sizes):
            return None
        return sizes

    @property
    def stride(self) -> tuple[int, int] | None:
        """The (height, width) stride of a convolution or pool; a pool without a stride moves by its window's size."""
        is_window = self.function in ("max_pool2d", "avg_pool2d") and not self.options.get("stride")
        return self.pair("kernel_size" if is_window else "stride")


def call_of(node: fx.Node, module: fx.GraphModule) -> Call | None:
    """Return the node's call of one of the known functions; None for any other node."""
    if node.op == "call_module":
        return _module_call(node, module.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method"):
        return None
    if isinstance(node.target, torch._ops.OpOverload):
        function = node.target.overloadpacket.__name__
        names = tuple({"self": "input"}.get(a.name, a.name) for a in node.target._schema.arguments)
    else:
        function = _FUNCTIONS.get(node.target, "")
        names = _PARAMETERS.get(function, ())
    if function not in _PARAMETERS:
        return None
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    source = given.pop("input", None)
    if not isinstance(source, fx.Node):
        return None
    options = {name: _tensor_path(value) if name in _TENSORS else value for name, value in given.items()}
    return Call(function=function, source=source, options=options)


def _module_call(node: fx.Node, layer: nn.Module) -> Call | None:
    for kind, function, attributes in _MODULES:
        if isinstance(layer, kind) and node.all_input_nodes:
            options = {name: getattr(layer, name) for name in attributes}
            tensors = [name for name in _PARAMETERS[function] if name in _TENSORS]
            options |= {name: f"{node.target}.{name}" for name in tensors if getattr(layer, name) is not None}
            return Call(function=function, source=node.all_input_nodes[0], options=options)
    return None


def _tensor_path(value: Any) -> Any:
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else value
