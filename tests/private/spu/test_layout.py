"""Stored tensors are channels-last, and broadcast as PyTorch's do."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")

from deepreduce.private.spu.layout import align, in_torch_layout, stored_axis, to_stored, to_torch

SHAPES = {"scalar": (), "row": (5,), "channels": (3, 1, 1), "matrix": (4, 5), "map": (3, 4, 5), "whole": (2, 3, 4, 5)}


def test_four_dimensions_are_stored_channels_last_and_come_back() -> None:
    x = np.arange(120).reshape(2, 3, 4, 5)
    assert to_stored(x).shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(to_torch(to_stored(x)), x)
    for dim in range(-4, 4):
        assert to_stored(x).shape[stored_axis(to_stored(x), dim)] == x.shape[dim]
    assert to_stored(x[0]) is not None and to_stored(x[0]).shape == (3, 4, 5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_operand_broadcasts_to_the_stored_tensor_as_in_pytorch(shape: tuple[int, ...]) -> None:
    x, operand = np.ones((2, 3, 4, 5)), np.arange(np.prod(shape, dtype=int)).reshape(shape)
    stored = to_stored(operand) if operand.ndim == 4 else operand
    np.testing.assert_array_equal(to_stored(x) * align(stored, x.shape), to_stored(x * operand))


def test_a_stored_tensor_broadcasts_to_five_dimensions_as_in_pytorch() -> None:
    x, operand = np.ones((7, 2, 3, 4, 5)), np.arange(120).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(x * align(to_stored(operand), x.shape), x * operand)


def test_a_kernel_in_torch_layout_sees_pytorchs_dimensions() -> None:
    x = np.arange(120).reshape(2, 3, 4, 5)
    flip = in_torch_layout(lambda value, dim, *, shape: np.flip(value, dim))
    np.testing.assert_array_equal(flip(to_stored(x), 1, shape=x.shape), to_stored(np.flip(x, 1)))
