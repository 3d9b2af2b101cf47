"""List the ATen operations that can be lowered, and the arguments that are read of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from deepreduce.network.operations import Role, operations_of
from deepreduce.private.lowering.program import UnsupportedError

SAME = {*operations_of(Role.SAME), "copy"}
"""Operations that return their input's values."""

NORMS, SPLITS = operations_of(Role.BATCH_NORM), operations_of(Role.SPLIT)

_OTHER_NAMES = {"max_pool2d_with_indices": "max_pool2d", "expand_copy": "expand"}

_SUM, _REDUCTION = ("self", "other", "alpha"), ("self", "dim", "keepdim")
_INTERPOLATION = ("self", "output_size", "align_corners", "scales_h", "scales_w")
_STATISTICS = ("input", "weight", "bias", "running_mean", "running_var")

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
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
    # momentum is listed because it may have any value: statistics are only read
    "native_batch_norm": (*_STATISTICS, "training", "momentum", "eps"),
    "_native_batch_norm_legit_no_training": (*_STATISTICS, "momentum", "eps"),
    "cudnn_batch_norm": (*_STATISTICS, "training", "exponential_average_factor", "epsilon"),
    "_batch_norm_no_update": (*_STATISTICS, "momentum", "eps"),
    "leaky_relu": ("self", "negative_slope"), "_prelu_kernel": ("self", "weight"), "softshrink": ("self", "lambd"),
    "hardsigmoid": ("self",), "hardswish": ("self",), "abs": ("self",),
    "maximum": ("self", "other"), "minimum": ("self", "other"), "amax": ("self", "dim", "keepdim"),
    "adaptive_max_pool2d": ("self", "output_size"),
    "sigmoid": ("self",), "silu": ("self",), "tanh": ("self",), "gelu": ("self", "approximate"),
    "elu": ("self", "alpha", "scale", "input_scale"), "_softmax": ("self", "dim", "half_to_float"),
    "celu": ("self", "alpha"), "glu": ("self", "dim"),
    "upsample_nearest2d": ("self", "output_size", "scales_h", "scales_w"),
    "_upsample_nearest_exact2d": ("self", "output_size", "scales_h", "scales_w"),
    "upsample_bilinear2d": _INTERPOLATION, "_upsample_bilinear2d_aa": _INTERPOLATION,
    "upsample_bicubic2d": _INTERPOLATION, "_upsample_bicubic2d_aa": _INTERPOLATION,
    "reflection_pad1d": ("self", "padding"), "reflection_pad2d": ("self", "padding"),
    "reflection_pad3d": ("self", "padding"), "replication_pad1d": ("self", "padding"),
    "replication_pad2d": ("self", "padding"), "replication_pad3d": ("self", "padding"),
    "flip": ("self", "dims"), "roll": ("self", "shifts", "dims"), "repeat": ("self", "repeats"),
    "stack": ("tensors", "dim"), "pixel_shuffle": ("self", "upscale_factor"),
    "pixel_unshuffle": ("self", "downscale_factor"), "channel_shuffle": ("self", "groups"),
    "native_channel_shuffle": ("self", "groups"),
    "split": ("self", "split_size", "dim"), "split_with_sizes": ("self", "split_sizes", "dim"),
    "unbind": ("self", "dim"),
}  # fmt: skip
"""Operation -> the arguments that are read, by the names and in the order of its schema."""

_STORAGE = {"memory_format", "layout", "device", "pin_memory", "non_blocking", "implicit"}
"""Arguments about how values are stored, which change none of them."""


def operation_of(node: fx.Node) -> tuple[str, dict[str, Any]]:
    """Return the operation that a node calls, and its arguments of `ARGUMENTS` by name, in the schema's order.

    Raises `UnsupportedError` for an operation that is not listed, and for an argument that would be ignored although
    it is not at its default.
    """
    assert isinstance(node.target, OpOverload)
    called: str = node.target.overloadpacket.__name__
    name = _OTHER_NAMES.get(called, called)
    if name not in ARGUMENTS:
        raise UnsupportedError(f"computes {called}, which is not supported")
    taken = {}
    for position, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, default)
        if argument.name in ARGUMENTS[name]:
            taken[argument.name] = value
        elif argument.name not in _STORAGE and not _equals(value, default):
            raise UnsupportedError(f"computes {called} with {argument.name}={value}, which is not supported")
    return name, taken


def _equals(value: Any, default: Any) -> bool:
    if isinstance(value, (fx.Node, torch.dtype)) or isinstance(default, torch.dtype):
        return value is default
    return bool(value == default)
