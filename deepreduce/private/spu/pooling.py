"""Pool and reduce feature maps (batch, height, width, channels) as JAX functions, with ATen's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from deepreduce.private.spu.layout import Value, stored_axis, to_stored, to_torch

_LOWEST = -float(2**20)
"""Pads a max-pool: below every activation, and well within the engine's 64-bit range."""


def _windows(x: Value, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
             shape: tuple[int, ...], fill: float) -> list[Value]:  # fmt: skip
    """Return one tensor (batch, out height, out width, channels) for each position in the window."""
    (kh, kw), (sh, sw), (dh, dw) = (_pair(value) for value in (kernel, stride or kernel, dilation))
    (ph, pw), (out_h, out_w) = _pair(padding), shape[2:]
    # windows may reach beyond the padding (ceil_mode) or leave part of the image out
    below = max((out_h - 1) * sh + (kh - 1) * dh + 1 - x.shape[1] - ph, 0)
    right = max((out_w - 1) * sw + (kw - 1) * dw + 1 - x.shape[2] - pw, 0)
    pad = np.pad if isinstance(x, np.ndarray) else jnp.pad  # window sizes are constants, not traced
    padded = pad(x, ((0, 0), (ph, below), (pw, right), (0, 0)), constant_values=fill)
    return [
        padded[:, i * dh : i * dh + (out_h - 1) * sh + 1 : sh, j * dw : j * dw + (out_w - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]


def _pair(value: list[int]) -> tuple[int, int]:
    return (value[0], value[-1])


def max_pool(
    x: Value, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool,
    *, shape: tuple[int, ...],
) -> Value:  # fmt: skip
    """Return the largest value of each window."""
    found = jnp.stack(_windows(x, kernel, stride, padding, dilation, shape, _LOWEST))
    while len(found) > 1:  # compare halves: the fewest rounds
        half = len(found) // 2
        won = jnp.maximum(found[:half], found[half : 2 * half])
        found = jnp.concatenate([won, found[2 * half :]]) if len(found) % 2 else won
    return found[0]


def avg_pool(
    x: Value, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool, count_include_pad: bool,
    divisor: int | None, *, shape: tuple[int, ...],
) -> Value:  # fmt: skip
    """Return the mean of each window, or its sum over `divisor`."""
    total = sum(_windows(x, kernel, stride, padding, [1, 1], shape, 0.0))
    if divisor is not None:
        return total * (1.0 / divisor)
    inside = np.ones((*x.shape[:3], 1), np.float32)
    if count_include_pad:
        ph, pw = _pair(padding)
        inside = np.pad(inside, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=1.0)
        padding = [0, 0]
    counts = np.asarray(sum(_windows(inside, kernel, stride, padding, [1, 1], shape, 0.0)))
    # one factor is cheaper than a factor for each position
    return total * (1.0 / float(counts.flat[0]) if np.ptp(counts) == 0 else 1.0 / counts)


def adaptive_avg_pool(x: Value, size: list[int], *, shape: tuple[int, ...]) -> Value:
    """Return the means over a grid of windows that covers the image."""
    rows, columns = _grid(x, shape)
    sums = [[jnp.sum(x[:, a:b, c:d], axis=(1, 2)) for c, d in columns] for a, b in rows]
    total = jnp.stack([jnp.stack(row, axis=1) for row in sums], axis=1)
    counts = np.array([[(b - a) * (d - c) for c, d in columns] for a, b in rows], np.float32)[None, :, :, None]
    return total * (1.0 / float(counts.flat[0]) if np.ptp(counts) == 0 else 1.0 / counts)


def adaptive_max_pool(x: Value, size: list[int], *, shape: tuple[int, ...]) -> Value:
    """Return the largest values over a grid of windows that covers the image."""
    rows, columns = _grid(x, shape)
    found = [[jnp.max(x[:, a:b, c:d], axis=(1, 2)) for c, d in columns] for a, b in rows]
    return jnp.stack([jnp.stack(row, axis=1) for row in found], axis=1)


def _grid(x: Value, shape: tuple[int, ...]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the (first, end) of the rows and of the columns of an adaptive pool's windows."""
    rows, columns = (
        [(math.floor(i * n / out), math.ceil((i + 1) * n / out)) for i in range(out)]
        for n, out in zip(x.shape[1:3], shape[2:], strict=True)
    )
    return rows, columns


def max_over(x: Value, dims: list[int] | None = None, keepdim: bool = False, *, shape: tuple[int, ...]) -> Value:
    """Return the largest value over the dimensions `dims` (none: all)."""
    return _reduce(jnp.max, x, dims, keepdim)


def sum_over(x: Value, dims: list[int] | None = None, keepdim: bool = False, *, shape: tuple[int, ...]) -> Value:
    """Return the sum over the dimensions `dims` (None: all)."""
    return _reduce(jnp.sum, x, dims, keepdim)


def _reduce(function: Callable[..., Value], x: Value, dims: list[int] | None, keepdim: bool) -> Value:
    chosen = list(range(x.ndim)) if not dims else [dim % x.ndim for dim in dims]
    if x.ndim != 4 or (not keepdim and sorted(chosen) not in ([0, 1, 2, 3], [2, 3], [1, 2, 3])):
        return to_stored(function(to_torch(x), axis=tuple(chosen), keepdims=keepdim))
    return function(x, axis=tuple(stored_axis(x, dim) for dim in chosen), keepdims=keepdim)


def mean_over(x: Value, dims: list[int] | None = None, keepdim: bool = False, *, shape: tuple[int, ...]) -> Value:
    """Return the mean over the dimensions `dims` (None: all)."""
    total = sum_over(x, dims, keepdim, shape=shape)
    return total * (total.size / x.size)
