"""Tables of tensor operations by their cost in private inference: ReLUs, other non-linearities, linear operations.

The tables name ATen operations, the few hundred that execute every PyTorch network. So the module, function, method
and in-place forms of one non-linearity all share one entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

RELU = {"relu", "relu_"}

NON_LINEAR = {
    # activations
    "gelu": "gelu", "silu": "silu", "mish": "mish", "hardswish": "hardswish", "hardsigmoid": "hardsigmoid",
    "sigmoid": "sigmoid", "tanh": "tanh", "elu": "elu", "celu": "elu", "leaky_relu": "leaky_relu",
    "prelu": "prelu", "_prelu_kernel": "prelu", "rrelu": "rrelu", "rrelu_with_noise": "rrelu",
    "softplus": "softplus", "softshrink": "softshrink", "hardshrink": "hardshrink", "hardtanh": "hardtanh",
    "log_sigmoid_forward": "log_sigmoid", "threshold": "threshold", "glu": "glu",
    "_softmax": "softmax", "_safe_softmax": "softmax", "_log_softmax": "log_softmax",
    "_scaled_dot_product_flash_attention": "softmax",
    "_scaled_dot_product_flash_attention_for_cpu": "softmax",
    "_scaled_dot_product_efficient_attention": "softmax",
    "_scaled_dot_product_cudnn_attention": "softmax",
    "_scaled_dot_product_fused_attention_overrideable": "softmax",
    "_native_multi_head_attention": "softmax",
    "_transformer_encoder_layer_fwd": "transformer_encoder_layer",
    # comparisons
    "max_pool2d_with_indices": "max_pool", "max_pool3d_with_indices": "max_pool", "max_pool2d": "max_pool",
    "adaptive_max_pool2d": "max_pool", "adaptive_max_pool3d": "max_pool", "fractional_max_pool2d": "max_pool",
    "max": "max", "amax": "max", "maximum": "max", "min": "min", "amin": "min", "minimum": "min",
    "argmax": "argmax", "argmin": "argmin", "topk": "topk", "sort": "sort", "median": "median",
    "clamp": "clamp", "clamp_min": "clamp", "clamp_max": "clamp",
    "gt": "comparison", "ge": "comparison", "lt": "comparison", "le": "comparison", "eq": "comparison",
    "ne": "comparison", "where": "where", "sign": "sign", "abs": "abs", "round": "round", "floor": "floor",
    "ceil": "ceil",
    # other functions of the data
    "exp": "exp", "log": "log", "sqrt": "sqrt", "rsqrt": "rsqrt", "reciprocal": "reciprocal", "pow": "pow",
    "erf": "erf", "sin": "sin", "cos": "cos", "linalg_vector_norm": "norm", "norm": "norm", "cumsum": "cumsum",
    # normalisation by statistics of the data itself
    "native_layer_norm": "layer_norm", "native_group_norm": "group_norm", "_fused_rms_norm": "rms_norm",
    # recurrent cells
    "lstm": "lstm", "gru": "gru", "mkldnn_rnn_layer": "lstm", "_thnn_fused_lstm_cell": "lstm",
    "rnn_tanh": "rnn", "rnn_relu": "rnn",
}  # fmt: skip
"""ATen operation -> the name under which it is reported."""

LINEAR = {
    # sums, scalings and averages
    "add", "sub", "rsub", "mul", "div", "neg", "sum", "mean", "addcmul", "lerp", "matmul", "dot",
    "convolution", "_convolution", "convolution_overrideable", "mm", "bmm", "linear", "addmm", "baddbmm", "addbmm",
    "addmv", "mv", "_trilinear", "embedding", "_embedding_bag", "masked_fill",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d",
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "_batch_norm_no_update", "native_dropout",
    "upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d",
    "_upsample_bilinear2d_aa", "upsample_bicubic2d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    # moves, views and casts: the same values in another place, shape or type
    "alias", "as_strided", "cat", "clone", "col2im", "constant_pad_nd", "contiguous", "copy", "detach", "diagonal",
    "expand", "flip", "gather", "im2col", "index", "index_select", "index_put", "_index_put_impl", "lift_fresh",
    "lift_fresh_copy", "narrow", "permute", "reflection_pad1d", "reflection_pad2d", "repeat", "replication_pad1d",
    "replication_pad2d", "_reshape_alias", "roll", "select", "select_scatter", "slice", "slice_scatter", "split",
    "split_with_sizes", "squeeze", "stack", "t", "_to_copy", "transpose", "tril", "triu", "unbind", "unfold",
    "unsqueeze", "_unsafe_index", "_unsafe_view", "view", "scatter",
    # independent of the data
    "empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like", "new_empty",
    "new_empty_strided", "new_full", "new_ones", "new_zeros", "fill", "zero", "bernoulli", "normal", "uniform",
    "_local_scalar_dense", "_assert_async",
}  # fmt: skip
"""Operations without comparison or interpolation. An operation in no table is reported by its own name."""


def classify(func: Any, args: tuple[Any, ...]) -> str | None:
    """Return `"relu"`, `"relu6"` (any cap), the name of another non-linearity, or None for a linear operation.

    An unknown operation counts as a non-linearity: a count of zero needs a reason. A clamp at 0 from below,
    `threshold(x, 0, 0)` and `hardtanh(x, 0, cap)` compute ReLUs and count as ReLUs.
    """
    name: str = func.overloadpacket.__name__
    if name in RELU:
        return "relu"
    base = name.removesuffix("_") if not name.startswith("__") else name
    if base in ("clamp", "clamp_min", "hardtanh"):
        low, high = _bounds(base, args)
        if not isinstance(low, Tensor) and low == 0:
            return "relu" if high is None else "relu6"
    if base == "threshold" and tuple(args[1:3]) == (0, 0):
        return "relu"
    if base == "native_batch_norm" or base == "_native_batch_norm_legit":
        training = args[5] if base == "native_batch_norm" else args[-3]
        return "instance_norm" if training is True else None
    if base == "div" and len(args) > 1 and isinstance(args[1], Tensor) and args[1].dim() > 0:
        return "division"
    if base == "pow" and len(args) > 1 and not isinstance(args[1], Tensor) and args[1] == 1:
        return None
    if base in LINEAR or not _has_tensor(args):
        return None
    return NON_LINEAR.get(base, NON_LINEAR.get(name, base))


def cap_of(func: Any, args: tuple[Any, ...]) -> float:
    """Return the upper bound of the output of a call that is classified as "relu6"."""
    return float(_bounds(func.overloadpacket.__name__.removesuffix("_"), args)[1])


def _has_tensor(args: tuple[Any, ...]) -> bool:
    return any(_has_tensor(tuple(a)) if isinstance(a, (tuple, list)) else isinstance(a, Tensor) for a in args)


def _bounds(base: str, args: tuple[Any, ...]) -> tuple[Any, Any]:
    low = args[1] if len(args) > 1 else (-1 if base == "hardtanh" else None)
    high = args[2] if len(args) > 2 else (1 if base == "hardtanh" else None)
    return low, (None if base == "clamp_min" else high)


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    image, weight, transposed = args[0], args[1], bool(args[6])
    # every weight is used once per input position (transposed) or output position
    positions = math.prod(image.shape[2:]) if transposed else math.prod(out.shape[2:])
    return int(out.shape[0] * positions * weight.numel())


def _matmul(args: tuple[Any, ...], out: Any) -> int:
    return int(out.numel() * args[0].shape[-1])


def _attention(args: tuple[Any, ...], out: Any) -> int:
    query, key, value = args[:3]
    return int(math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


MACS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "convolution": _convolution,
    "mm": _matmul,
    "bmm": _matmul,
    "linear": _matmul,
    "addmm": lambda args, out: _matmul(args[1:], out),
    "baddbmm": lambda args, out: _matmul(args[1:], out),
    "addmv": lambda args, out: int(args[1].numel()),
    "mv": lambda args, out: int(args[0].numel()),
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}
"""ATen operation -> function that counts a call's multiply-accumulates from its arguments and first output."""


def mac_count(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Return the multiply-accumulates of one executed ATen operation; an element-wise operation has none."""
    counter = MACS.get(func.overloadpacket.__name__)
    if counter is None:
        return 0
    return counter(args, out[0] if isinstance(out, (tuple, list)) else out)


def output_elements(out: Any) -> int:
    """Return the number of elements of an operation's first output."""
    first = out[0] if isinstance(out, (tuple, list)) else out
    return int(first.numel()) if isinstance(first, torch.Tensor) else 0
