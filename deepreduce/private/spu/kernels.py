"""Compute each tensor operation as a JAX function. Imports jax, but not PyTorch, which the parties run without.

Tensors of four dimensions are channels-last (`deepreduce.private.spu.layout`); dimensions are numbered as in PyTorch.
A kernel takes ATen's arguments in ATen's order, and as `shape` the shape of its result in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepreduce.private.lowering.program import UnsupportedError
from deepreduce.private.spu import activations
from deepreduce.private.spu.layout import Value, align, in_torch_layout, stored_axis
from deepreduce.private.spu.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    max_over,
    max_pool,
    mean_over,
    sum_over,
)
from deepreduce.private.spu.resampling import index_select, resample


def _elementwise(function: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    def run(a: Value, b: Value, alpha: float = 1, *, shape: tuple[int, ...]) -> Value:
        a, b = align(a, shape), align(b, shape)
        return function(a, b if alpha == 1 else b * float(alpha))

    return run


# -- layers that multiply -----------------------------------------------------------------------------------


def _convolution(
    x: Value, weight: Value, bias: Value | None, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int, *, shape: tuple[int, ...],
) -> Value:  # fmt: skip
    if 1 < groups < x.shape[-1]:  # XLA would use three spatial dimensions, and SPU supports two
        weight, groups = _expand_groups(weight, groups), 1
    out = jax.lax.conv_general_dilated(
        x, weight, stride, [(p, p) for p in padding], rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
    return out if bias is None else out + bias


def _expand_groups(weight: Value, groups: int) -> Value:
    """Fill a grouped weight (height, width, inputs of a group, outputs) with zeros to one without groups."""
    inputs = weight.shape[2]
    parts = [
        jnp.pad(part, ((0, 0), (0, 0), (group * inputs, (groups - 1 - group) * inputs), (0, 0)))
        for group, part in enumerate(jnp.split(weight, groups, axis=3))
    ]
    return jnp.concatenate(parts, axis=3)


def _linear(x: Value, weight: Value, bias: Value | None, *, shape: tuple[int, ...]) -> Value:
    out = jnp.dot(x, weight)
    return out if bias is None else out + bias


def _matmul(a: Value, b: Value, *, shape: tuple[int, ...]) -> Value:
    return jnp.matmul(a, b)


# -- element-wise -------------------------------------------------------------------------------------------


def _power(x: Value, exponent: Value, *, shape: tuple[int, ...]) -> Value:
    if not isinstance(exponent, (int, float)):
        raise UnsupportedError("raises to a power that is a tensor")
    if exponent not in (2, 3, 4):
        raise UnsupportedError(f"raises to the power of {exponent}; 2, 3 and 4 are supported")
    square = x * x
    return square if exponent == 2 else square * x if exponent == 3 else square * square


def _divide(x: Value, divisor: Value, *, shape: tuple[int, ...]) -> Value:
    if not isinstance(divisor, (int, float)):
        raise UnsupportedError("divides by values that depend on the image")
    return x * (1.0 / divisor)


def _where(condition: Value, a: Value, b: Value, *, shape: tuple[int, ...]) -> Value:
    if not isinstance(condition, np.ndarray):
        raise UnsupportedError("selects by values that depend on the image")
    return jnp.where(align(condition, shape), align(a, shape), align(b, shape))


# -- operations that only move values ------------------------------------------------------------------------


def _concatenate(parts: list[Value], dim: int = 0, *, shape: tuple[int, ...]) -> Value:
    return jnp.concatenate(parts, axis=stored_axis(parts[0], dim))


def _reshape(x: Value, *args: Any, shape: tuple[int, ...]) -> Value:
    return jnp.reshape(x, shape)


def _pad(x: Value, pad: list[int], fill: float = 0.0, *, shape: tuple[int, ...]) -> Value:
    widths = [(0, 0)] * x.ndim
    for pair in range(len(pad) // 2):  # the last dimension comes first
        widths[x.ndim - 1 - pair] = (pad[2 * pair], pad[2 * pair + 1])
    padded = jnp.pad(x, [(max(before, 0), max(after, 0)) for before, after in widths], constant_values=float(fill))
    # negative amounts crop
    kept = [
        slice(max(-before, 0), size - max(-after, 0))
        for (before, after), size in zip(widths, padded.shape, strict=True)
    ]
    return padded[tuple(kept)]


def _slice(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1,
           *, shape: tuple[int, ...]) -> Value:  # fmt: skip
    axis = stored_axis(x, dim)
    # ATen's end may be 2**63 - 1, which JAX does not accept
    return x[(slice(None),) * axis + (slice(*slice(start, end, step).indices(x.shape[axis])),)]


def _select(x: Value, dim: int, index: int, *, shape: tuple[int, ...]) -> Value:
    return x[(slice(None),) * (dim % x.ndim) + (index,)]


def _transpose(x: Value, a: int = 0, b: int = 1, *, shape: tuple[int, ...]) -> Value:
    return jnp.swapaxes(x, a, b)


def _permute(x: Value, dims: list[int], *, shape: tuple[int, ...]) -> Value:
    return jnp.transpose(x, [dim % x.ndim for dim in dims])


def _expand(x: Value, *args: Any, shape: tuple[int, ...]) -> Value:
    return jnp.broadcast_to(x, shape)


_reshaped = in_torch_layout(_reshape)

KERNELS: dict[str, Callable[..., Value]] = {
    "convolution": _convolution,
    "addmm": _linear,
    "mm": _matmul,
    "bmm": _matmul,
    "relu": activations.relu,
    "hardtanh": activations.clamp,
    "clamp": activations.clamp,
    "clamp_min": activations.clamp,
    "clamp_max": lambda x, high, *, shape: activations.clamp(x, None, high, shape=shape),
    "leaky_relu": activations.leaky_relu,
    "_prelu_kernel": activations.prelu,
    "hardsigmoid": activations.hardsigmoid,
    "hardswish": activations.hardswish,
    "softshrink": activations.softshrink,
    "abs": activations.absolute,
    "maximum": _elementwise(jnp.maximum),
    "minimum": _elementwise(jnp.minimum),
    "sigmoid": activations.sigmoid,
    "silu": activations.silu,
    "tanh": activations.tanh,
    "gelu": activations.gelu,
    "elu": activations.elu,
    "_softmax": activations.softmax,
    "upsample_bilinear2d": resample,
    "amax": max_over,
    "max_pool2d": max_pool,
    "adaptive_max_pool2d": adaptive_max_pool,
    "avg_pool2d": avg_pool,
    "_adaptive_avg_pool2d": adaptive_avg_pool,
    "mean": mean_over,
    "sum": sum_over,
    "mul": _elementwise(lambda a, b: a * b),
    "add": _elementwise(lambda a, b: a + b),
    "sub": _elementwise(lambda a, b: a - b),
    "rsub": lambda x, other, alpha=1, *, shape: _elementwise(lambda a, b: a - b)(other, x, alpha, shape=shape),
    "neg": lambda x, *, shape: -x,
    "div": _divide,
    "pow": _power,
    "where": _where,
    "cat": _concatenate,
    "view": _reshaped,
    "_unsafe_view": _reshaped,
    "squeeze": _reshaped,
    "unsqueeze": _reshaped,
    "permute": in_torch_layout(_permute),
    "transpose": in_torch_layout(_transpose),
    "t": in_torch_layout(lambda x, *, shape: x.T),
    "slice": _slice,
    "select": in_torch_layout(_select),
    "index_select": index_select,
    "expand": in_torch_layout(_expand),
    "constant_pad_nd": in_torch_layout(_pad),
}
"""Operation of `deepreduce.private.lowering.operations.ARGUMENTS` -> its kernel."""
