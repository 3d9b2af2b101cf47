"""The operations of ATen that can be expressed: what each is to the protocol, and which of its arguments count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from deepreduce.private.lowering.program import UnsupportedError

KIND_OF = {
    "convolution": "convolution",
    "mm": "linear", "addmm": "linear",
    "relu": "relu", "hardtanh": "relu6", "clamp": "clamp", "clamp_min": "clamp", "clamp_max": "clamp",
    "max_pool2d": "max_pool",
    "avg_pool2d": "avg_pool", "_adaptive_avg_pool2d": "avg_pool", "mean": "avg_pool", "sum": "avg_pool",
    "mul": "product", "pow": "product", "bmm": "product",
    "add": "add", "sub": "add", "rsub": "add", "neg": "add", "div": "add", "where": "add",
    "cat": "move", "view": "move", "_unsafe_view": "move", "permute": "move", "transpose": "move", "t": "move",
    "squeeze": "move", "unsqueeze": "move", "slice": "move", "select": "move", "expand": "move",
    "constant_pad_nd": "move", "index_select": "move",
}  # fmt: skip
"""The operations that the parties run -> the kind of layer that one makes."""

SAME = {"clone", "alias", "detach", "lift_fresh_copy", "contiguous", "_to_copy", "copy"}
"""They give the values that they are given."""

NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update"}
SPLITS = {"split", "split_with_sizes", "unbind"}

_OTHER_NAMES = {"max_pool2d_with_indices": "max_pool2d", "expand_copy": "expand"}

_SUM, _REDUCTION = ("self", "other", "alpha"), ("self", "dim", "keepdim")
_STATISTICS = ("input", "weight", "bias", "running_mean", "running_var")

TAKEN: Mapping[str, tuple[str, ...]] = {
    "convolution": (
        "input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups"
    ),
    "mm": ("self", "mat2"), "addmm": ("self", "mat1", "mat2", "beta", "alpha"), "bmm": ("self", "mat2"),
    "relu": ("self",), "hardtanh": ("self", "min_val", "max_val"),
    "clamp": ("self", "min", "max"), "clamp_min": ("self", "min"), "clamp_max": ("self", "max"),
    "max_pool2d": ("self", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": (
        "self", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
    ),
    "_adaptive_avg_pool2d": ("self", "output_size"), "mean": _REDUCTION, "sum": _REDUCTION,
    "mul": ("self", "other"), "pow": ("self", "exponent"),
    "add": _SUM, "sub": _SUM, "rsub": _SUM, "neg": ("self",), "div": ("self", "other"),
    "where": ("condition", "self", "other"),
    "cat": ("tensors", "dim"), "view": ("self", "size"), "_unsafe_view": ("self", "size"),
    "permute": ("self", "dims"), "transpose": ("self", "dim0", "dim1"), "t": ("self",),
    "squeeze": ("self", "dim"), "unsqueeze": ("self", "dim"), "slice": ("self", "dim", "start", "end", "step"),
    "select": ("self", "dim", "index"), "expand": ("self", "size"), "constant_pad_nd": ("self", "pad", "value"),
    "index_select": ("self", "dim", "index"), "index": ("self", "indices"),
    "clone": ("self",), "alias": ("self",), "detach": ("self",), "lift_fresh_copy": ("self",),
    "contiguous": ("self",), "_to_copy": ("self", "dtype"), "copy": ("self", "src"),
    # how statistics are updated does not matter to who only reads them
    "native_batch_norm": (*_STATISTICS, "training", "momentum", "eps"),
    "_native_batch_norm_legit_no_training": (*_STATISTICS, "momentum", "eps"),
    "cudnn_batch_norm": (*_STATISTICS, "training", "exponential_average_factor", "epsilon"),
    "_batch_norm_no_update": (*_STATISTICS, "momentum", "eps"),
    "split": ("self", "split_size", "dim"), "split_with_sizes": ("self", "split_sizes", "dim"),
    "unbind": ("self", "dim"),
}  # fmt: skip
"""The arguments of each operation that count, by the names of its schema and in its order."""

_WHERE_STORED = {"memory_format", "layout", "device", "pin_memory", "non_blocking", "implicit"}
"""Arguments that say how values are stored, or allowed to be shaped, and change none."""


def operation_of(node: fx.Node) -> tuple[str, dict[str, Any]]:
    """The operation that a node calls and the arguments that count, by name and in the schema's order.

    Raises `UnsupportedError` for an operation that is not taught, and for an argument that would be ignored and is
    not at its default.
    """
    assert isinstance(node.target, OpOverload)
    called: str = node.target.overloadpacket.__name__
    name = _OTHER_NAMES.get(called, called)
    if name not in TAKEN:
        raise UnsupportedError(f"computes {called}, which the engine is not taught")
    taken = {}
    for place, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, default)
        if argument.name in TAKEN[name]:
            taken[argument.name] = value
        elif argument.name not in _WHERE_STORED and not _is(value, default):
            raise UnsupportedError(f"computes {called} with {argument.name}={value}, which is not expressed")
    return name, taken


def _is(value: Any, default: Any) -> bool:
    if isinstance(value, (fx.Node, torch.dtype)) or isinstance(default, torch.dtype):
        return value is default
    return bool(value == default)
