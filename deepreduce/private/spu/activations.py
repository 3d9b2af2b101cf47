"""Compute activations as JAX functions, with ATen's arguments.

ReLU6, hardsigmoid, hardswish, leaky ReLU, PReLU and the like are exact, up to the rounding of fixed-point numbers.
The functions in `deepreduce.private.approximations` are not: the engine approximates exp, the reciprocal and erf.
Their inputs are clamped to where these are right, so that no input gives a wrong value.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from deepreduce.private.lowering.program import UnsupportedError
from deepreduce.private.spu.layout import Value, align, stored_axis

_FAR = 16.0
"""Beyond it exp(-x) and 1 - sigmoid(x) are less than a unit in the last place; the engine's exp fails beyond 20."""

_FAR_GELU = 6.0
"""Beyond it gelu(x) is x or 0 to nine digits; the powers of its tanh form would leave the engine's range."""


# -- exact --------------------------------------------------------------------------------------------------


def relu(x: Value, *, shape: tuple[int, ...]) -> Value:
    """Return max(x, 0)."""
    return jnp.maximum(x, 0.0)


def clamp(x: Value, low: float | None = None, high: float | None = None, *, shape: tuple[int, ...]) -> Value:
    """Return x between two numbers."""
    if any(isinstance(bound, jax.Array | np.ndarray) for bound in (low, high)):
        raise UnsupportedError("clamps by bounds that are tensors")
    x = x if low is None else jnp.maximum(x, float(low))
    return x if high is None else jnp.minimum(x, float(high))


def leaky_relu(x: Value, slope: float = 0.01, *, shape: tuple[int, ...]) -> Value:
    """Return x where it is positive, else slope * x: one comparison."""
    positive = jnp.maximum(x, 0.0)
    return positive + float(slope) * (x - positive)


def prelu(x: Value, slope: Value, *, shape: tuple[int, ...]) -> Value:
    """Return x where it is positive, else the server's slope * x."""
    positive = jnp.maximum(x, 0.0)
    return positive + align(slope, shape) * (x - positive)


def hardsigmoid(x: Value, *, shape: tuple[int, ...]) -> Value:
    """Return relu6(x + 3) / 6."""
    return jnp.minimum(jnp.maximum(x + 3.0, 0.0), 6.0) * (1.0 / 6.0)


def hardswish(x: Value, *, shape: tuple[int, ...]) -> Value:
    """Return x * relu6(x + 3) / 6."""
    return x * hardsigmoid(x, shape=shape)


def absolute(x: Value, *, shape: tuple[int, ...]) -> Value:
    """Return |x|: one comparison."""
    return 2.0 * jnp.maximum(x, 0.0) - x


def softshrink(x: Value, lambd: float = 0.5, *, shape: tuple[int, ...]) -> Value:
    """Return x less its part in [-lambd, lambd]."""
    return x - clamp(x, -float(lambd), float(lambd), shape=shape)


# -- approximated by the engine -----------------------------------------------------------------------------


def sigmoid(x: Value, *, shape: tuple[int, ...]) -> Value:
    """Return 1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(clamp(x, -_FAR, _FAR, shape=shape))


def silu(x: Value, *, shape: tuple[int, ...]) -> Value:
    """Return x * sigmoid(x)."""
    return x * sigmoid(x, shape=shape)


def tanh(x: Value, *, shape: tuple[int, ...]) -> Value:
    """Return 2 * sigmoid(2 * x) - 1, which the engine computes more exactly than its own tanh."""
    return 2.0 * sigmoid(2.0 * x, shape=shape) - 1.0


def gelu(x: Value, approximate: str = "none", *, shape: tuple[int, ...]) -> Value:
    """Return x * Phi(x), Phi by the engine's erf, or by tanh as PyTorch's `approximate="tanh"` does."""
    if approximate == "none":
        return 0.5 * x * (1.0 + jax.scipy.special.erf(x * (1.0 / math.sqrt(2.0))))
    near = clamp(x, -_FAR_GELU, _FAR_GELU, shape=shape)
    inner = math.sqrt(2.0 / math.pi) * (near + 0.044715 * near * near * near)
    return x * sigmoid(2.0 * inner, shape=shape)


def elu(
    x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0, *, shape: tuple[int, ...]
) -> Value:
    """Return scale * x where it is positive, else scale * alpha * (exp(input_scale * x) - 1)."""
    positive = jnp.maximum(x, 0.0)
    negative = jnp.maximum((x - positive) * float(input_scale), -_FAR)
    return float(scale) * positive + float(scale * alpha) * (jnp.exp(negative) - 1.0)


def softmax(x: Value, dim: int, half_to_float: bool = False, *, shape: tuple[int, ...]) -> Value:
    """Return exp(x) over its sum along one dimension."""
    if half_to_float:
        raise UnsupportedError("converts a softmax to another type")
    axis = stored_axis(x, dim)
    exps = jnp.exp(jnp.maximum(x - jnp.max(x, axis=axis, keepdims=True), -_FAR))
    return exps * (1.0 / jnp.sum(exps, axis=axis, keepdims=True))
