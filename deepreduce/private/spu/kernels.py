"""Each tensor operation as a JAX function. Needs jax; PyTorch is not imported here, nor in the parties.

Tensors of four dimensions are channels-last, (batch, height, width, channels); dimensions are named as PyTorch names
them. The functions take ATen's arguments in ATen's order, and last the shape of the result as PyTorch has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from deepreduce.private.lowering.program import Argument, Layer, Program, Ref, UnsupportedError

Value = Any
"""An array of JAX's, or a number."""

_LOWEST = -float(2**20)
"""Pads a max-pool: below every activation, and far from what 64 bits can't hold."""


def layer_function(layer: Layer, masks: Mapping[str, NDArray[Any]]) -> Callable[..., tuple[Value, ...]]:
    """The layer as a function of its inputs and weights, in that order, to its outputs."""

    def run(*given: Value) -> tuple[Value, ...]:
        values: dict[str, Value] = dict(zip((*layer.inputs, *layer.weights), given, strict=True))
        for op in layer.ops:
            args = [_resolved(argument, values, masks) for argument in op.args]
            try:
                values[op.output] = KERNELS[op.name](*args, shape=op.shape)
            except UnsupportedError:
                raise
            except Exception as error:  # of JAX's, over arguments that nobody thought of
                said = str(error).strip().partition("\n")[0]
                raise UnsupportedError(
                    f"computes {op.name} in a way that is not expressed ({type(error).__name__}: {said})"
                ) from error
        return tuple(values[name] for name in layer.outputs)

    return run


def _resolved(argument: Argument, values: Mapping[str, Value], masks: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(argument, Ref):
        return values[argument.name] if argument.name in values else masks[argument.name]
    return [_resolved(item, values, masks) for item in argument] if isinstance(argument, tuple) else argument


def example_inputs(program: Program, layer: Layer) -> list[NDArray[np.float32]]:
    """Zeros of the shapes that the layer's function takes."""
    return [np.zeros(program.shapes[name], np.float32) for name in (*layer.inputs, *layer.weights)]


def output_shapes(program: Program, layer: Layer, masks: Mapping[str, NDArray[Any]]) -> None:
    """Raises `UnsupportedError` where the layer uses an operation in a way that is not expressed."""
    shapes = jax.eval_shape(layer_function(layer, masks), *example_inputs(program, layer))
    for name, found in zip(layer.outputs, shapes, strict=True):
        if found.shape != program.shapes[name]:
            ops = ", ".join(op.name for op in layer.ops)
            raise UnsupportedError(
                f"computes {ops} in a way that is not expressed (its output is {found.shape}, as stored, and should"
                f" be {program.shapes[name]})"
            )


# -- layouts ------------------------------------------------------------------------------------------------


def _to_torch(x: Value) -> Value:
    return _transposed(x, (0, 3, 1, 2)) if x.ndim == 4 else x


def _to_stored(x: Value) -> Value:
    return _transposed(x, (0, 2, 3, 1)) if x.ndim == 4 else x


def _transposed(x: Value, axes: tuple[int, ...]) -> Value:
    """With the axes in that order. Masks, which are constants, are transposed here and now.

    XLA would do it by another layout of the same memory, which SPU does not look at.
    """
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(np.transpose(x, axes))
    return jnp.transpose(x, axes)


def _axis(x: Value, dim: int) -> int:
    """Where PyTorch's dimension lies in what is stored."""
    return (0, 3, 1, 2)[dim % 4] if x.ndim == 4 else dim % x.ndim


def _fitted(x: Value, shape: tuple[int, ...]) -> Value:
    """An operand so that it broadcasts to what is stored of `shape` as PyTorch's would to that."""
    rank, own = len(shape), getattr(x, "ndim", 0)
    if own in (0, rank) or 4 not in (own, rank):
        return x
    if rank > 4:
        return _to_torch(x)
    return _to_stored(x.reshape((1,) * (4 - own) + x.shape))


def _elementwise(function: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    def run(a: Value, b: Value, alpha: float = 1, *, shape: tuple[int, ...]) -> Value:
        a, b = _fitted(a, shape), _fitted(b, shape)
        return function(a, b if alpha == 1 else b * float(alpha))

    return run


def _moving(function: Callable[..., Value]) -> Callable[..., Value]:
    """An operation on the tensor as PyTorch has it."""

    def run(x: Value, *args: Any, shape: tuple[int, ...]) -> Value:
        return _to_stored(function(_to_torch(x), *args, shape=shape))

    return run


# -- layers that multiply -----------------------------------------------------------------------------------


def _convolution(
    x: Value, weight: Value, bias: Value | None, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int, *, shape: tuple[int, ...],
) -> Value:  # fmt: skip
    if 1 < groups < x.shape[-1]:  # XLA makes three spatial dimensions of that, of which SPU knows two
        weight, groups = _widened(weight, groups), 1
    out = jax.lax.conv_general_dilated(
        x, weight, stride, [(p, p) for p in padding], rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
    return out if bias is None else out + bias


def _widened(weight: Value, groups: int) -> Value:
    """The weight (height, width, inputs of a group, outputs) of a convolution without groups: zeros elsewhere."""
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


# -- activations --------------------------------------------------------------------------------------------


def _relu(x: Value, *, shape: tuple[int, ...]) -> Value:
    return jnp.maximum(x, 0.0)


def _clamp(x: Value, low: float | None = None, high: float | None = None, *, shape: tuple[int, ...]) -> Value:
    if any(isinstance(bound, jax.Array | np.ndarray) for bound in (low, high)):
        raise UnsupportedError("clamps by bounds that are tensors")
    x = x if low is None else jnp.maximum(x, float(low))
    return x if high is None else jnp.minimum(x, float(high))


def _power(x: Value, exponent: Value, *, shape: tuple[int, ...]) -> Value:
    if not isinstance(exponent, (int, float)):
        raise UnsupportedError("raises to a power that is a tensor")
    if exponent not in (2, 3, 4):
        raise UnsupportedError(f"raises to the power of {exponent}; 2, 3 and 4 can be expressed")
    square = x * x
    return square if exponent == 2 else square * x if exponent == 3 else square * square


def _divide(x: Value, divisor: Value, *, shape: tuple[int, ...]) -> Value:
    if not isinstance(divisor, (int, float)):
        raise UnsupportedError("divides by values that depend on the image")
    return x * (1.0 / divisor)


def _where(condition: Value, a: Value, b: Value, *, shape: tuple[int, ...]) -> Value:
    if not isinstance(condition, np.ndarray):
        raise UnsupportedError("chooses by values that depend on the image")
    return jnp.where(_fitted(condition, shape), _fitted(a, shape), _fitted(b, shape))


# -- pooling ------------------------------------------------------------------------------------------------


def _windows(x: Value, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
             shape: tuple[int, ...], fill: float) -> list[Value]:  # fmt: skip
    """For each place in the window, what all windows have there: (batch, out height, out width, channels)."""
    (kh, kw), (sh, sw), (dh, dw) = (_pair(value) for value in (kernel, stride or kernel, dilation))
    (ph, pw), (out_h, out_w) = _pair(padding), shape[2:]
    # windows may reach beyond the padding (ceil_mode) or not use all of the image
    below = max((out_h - 1) * sh + (kh - 1) * dh + 1 - x.shape[1] - ph, 0)
    right = max((out_w - 1) * sw + (kw - 1) * dw + 1 - x.shape[2] - pw, 0)
    pad = np.pad if isinstance(x, np.ndarray) else jnp.pad  # counts are numbers, not part of the traced function
    padded = pad(x, ((0, 0), (ph, below), (pw, right), (0, 0)), constant_values=fill)
    return [
        padded[:, i * dh : i * dh + (out_h - 1) * sh + 1 : sh, j * dw : j * dw + (out_w - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]


def _pair(value: list[int]) -> tuple[int, int]:
    return (value[0], value[-1])


def _max_pool(
    x: Value, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool,
    *, shape: tuple[int, ...],
) -> Value:  # fmt: skip
    found = jnp.stack(_windows(x, kernel, stride, padding, dilation, shape, _LOWEST))
    while len(found) > 1:  # halves against each other: the fewest rounds
        half = len(found) // 2
        won = jnp.maximum(found[:half], found[half : 2 * half])
        found = jnp.concatenate([won, found[2 * half :]]) if len(found) % 2 else won
    return found[0]


def _avg_pool(
    x: Value, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool, count_include_pad: bool,
    divisor: int | None, *, shape: tuple[int, ...],
) -> Value:  # fmt: skip
    total = sum(_windows(x, kernel, stride, padding, [1, 1], shape, 0.0))
    if divisor is not None:
        return total * (1.0 / divisor)
    inside = np.ones((*x.shape[:3], 1), np.float32)
    if count_include_pad:
        (ph, pw), inside = _pair(padding), np.ones_like(inside)
        inside = np.pad(inside, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=1.0)
        padding = [0, 0]
    counts = np.asarray(sum(_windows(inside, kernel, stride, padding, [1, 1], shape, 0.0)))
    # a single factor is cheaper than one for each place
    return total * (1.0 / float(counts.flat[0]) if np.ptp(counts) == 0 else 1.0 / counts)


def _adaptive_avg_pool(x: Value, size: list[int], *, shape: tuple[int, ...]) -> Value:
    rows, columns = (
        [(math.floor(i * n / out), math.ceil((i + 1) * n / out)) for i in range(out)]
        for n, out in zip(x.shape[1:3], shape[2:], strict=True)
    )
    sums = [[jnp.sum(x[:, a:b, c:d], axis=(1, 2)) for c, d in columns] for a, b in rows]
    total = jnp.stack([jnp.stack(row, axis=1) for row in sums], axis=1)
    counts = np.array([[(b - a) * (d - c) for c, d in columns] for a, b in rows], np.float32)[None, :, :, None]
    return total * (1.0 / float(counts.flat[0]) if np.ptp(counts) == 0 else 1.0 / counts)


def _sum(x: Value, dims: list[int] | None = None, keepdim: bool = False, *, shape: tuple[int, ...]) -> Value:
    chosen = list(range(x.ndim)) if not dims else [dim % x.ndim for dim in dims]
    if x.ndim != 4 or (not keepdim and sorted(chosen) not in ([0, 1, 2, 3], [2, 3], [1, 2, 3])):
        return _to_stored(jnp.sum(_to_torch(x), axis=tuple(chosen), keepdims=keepdim))
    return jnp.sum(x, axis=tuple(_axis(x, dim) for dim in chosen), keepdims=keepdim)


def _mean(x: Value, dims: list[int] | None = None, keepdim: bool = False, *, shape: tuple[int, ...]) -> Value:
    total = _sum(x, dims, keepdim, shape=shape)
    return total * (total.size / x.size)


# -- the same values elsewhere ------------------------------------------------------------------------------


def _concatenate(parts: list[Value], dim: int = 0, *, shape: tuple[int, ...]) -> Value:
    return jnp.concatenate(parts, axis=_axis(parts[0], dim))


def _reshape(x: Value, *args: Any, shape: tuple[int, ...]) -> Value:
    return jnp.reshape(x, shape)


def _pad(x: Value, pad: list[int], fill: float = 0.0, *, shape: tuple[int, ...]) -> Value:
    widths = [(0, 0)] * x.ndim
    for place in range(len(pad) // 2):  # pairs, the last dimension first
        widths[x.ndim - 1 - place] = (pad[2 * place], pad[2 * place + 1])
    grown = jnp.pad(x, [(max(before, 0), max(after, 0)) for before, after in widths], constant_values=float(fill))
    # negative amounts cut off
    kept = [
        slice(max(-before, 0), size - max(-after, 0))
        for (before, after), size in zip(widths, grown.shape, strict=True)
    ]
    return grown[tuple(kept)]


def _slice(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1,
           *, shape: tuple[int, ...]) -> Value:  # fmt: skip
    axis = _axis(x, dim)
    # ATen's end may be 2**63 - 1, which JAX can't take
    return x[(slice(None),) * axis + (slice(*slice(start, end, step).indices(x.shape[axis])),)]


def _select(x: Value, dim: int, index: int, *, shape: tuple[int, ...]) -> Value:
    return x[(slice(None),) * (dim % x.ndim) + (index,)]


def _index_select(x: Value, dim: int, places: Value, *, shape: tuple[int, ...]) -> Value:
    if not isinstance(places, np.ndarray):
        raise UnsupportedError("takes places that depend on the image")
    return jnp.take(x, places, axis=_axis(x, dim))


def _transpose(x: Value, a: int = 0, b: int = 1, *, shape: tuple[int, ...]) -> Value:
    return jnp.swapaxes(x, a, b)


def _permute(x: Value, dims: list[int], *, shape: tuple[int, ...]) -> Value:
    return jnp.transpose(x, [dim % x.ndim for dim in dims])


def _expand(x: Value, *args: Any, shape: tuple[int, ...]) -> Value:
    return jnp.broadcast_to(x, shape)


_reshaped = _moving(_reshape)

KERNELS: dict[str, Callable[..., Value]] = {
    "convolution": _convolution,
    "addmm": _linear,
    "mm": _matmul,
    "bmm": _matmul,
    "relu": _relu,
    "hardtanh": _clamp,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda x, high, *, shape: _clamp(x, None, high, shape=shape),
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive_avg_pool,
    "mean": _mean,
    "sum": _sum,
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
    "permute": _moving(_permute),
    "transpose": _moving(_transpose),
    "t": _moving(lambda x, *, shape: x.T),
    "slice": _slice,
    "select": _moving(_select),
    "index_select": _index_select,
    "expand": _moving(_expand),
    "constant_pad_nd": _moving(_pad),
}
"""Operation -> its function; the names are those of `deepreduce.private.lowering.operations.KIND_OF`."""
