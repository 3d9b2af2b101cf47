"""Convert between PyTorch's order of dimensions and the stored one: four dimensions are channels-last.

A feature map is stored as (batch, height, width, channels); tensors of other ranks are stored as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

Value = Any
"""A JAX array, a NumPy array (a public mask) or a number."""


def to_torch(x: Value) -> Value:
    """Reorder a stored tensor to PyTorch's dimensions."""
    return _permute(x, (0, 3, 1, 2)) if x.ndim == 4 else x


def to_stored(x: Value) -> Value:
    """Reorder a tensor with PyTorch's dimensions to the stored ones."""
    return _permute(x, (0, 2, 3, 1)) if x.ndim == 4 else x


def _permute(x: Value, axes: tuple[int, ...]) -> Value:
    # Masks are constants and transposed at once: XLA would only change the layout in memory, which SPU ignores.
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(np.transpose(x, axes))
    return jnp.transpose(x, axes)


def stored_axis(x: Value, dim: int) -> int:
    """Return the axis of the stored tensor that is PyTorch's dimension `dim`."""
    return (0, 3, 1, 2)[dim % 4] if x.ndim == 4 else dim % x.ndim


def align(x: Value, shape: tuple[int, ...]) -> Value:
    """Reshape an operand so that it broadcasts to a stored tensor of `shape` as it does in PyTorch."""
    rank, own = len(shape), getattr(x, "ndim", 0)
    if own in (0, rank) or 4 not in (own, rank):
        return x
    if rank > 4:
        return to_torch(x)
    return to_stored(x.reshape((1,) * (4 - own) + x.shape))


def in_torch_layout(function: Callable[..., Value]) -> Callable[..., Value]:
    """Let a kernel that expects PyTorch's dimensions take and return stored tensors."""

    def run(x: Value, *args: Any, shape: tuple[int, ...]) -> Value:
        return to_stored(function(to_torch(x), *args, shape=shape))

    return run
