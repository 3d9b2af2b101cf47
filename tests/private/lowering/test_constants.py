"""Numbers of the server's never become public."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepreduce.errors import UserError
from deepreduce.private.lowering.constants import find_number_read
from tests.helpers.plain_engine import lowered
from tests.helpers.private_layers import Between, between, five

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, net: torch.where(net.alpha > 0, F.relu(x), x),
            "where uses a mask computed from alpha, which is the s",
        ),
        (lambda x, net: torch.where(net.beta > 0, F.relu(x), x), "where uses a mask that forward computes, perhaps"),
        (lambda x, net: x * (net.alpha > 0), "mul uses a mask computed from alpha"),
        (lambda x, net: x * (net.alpha > 0).int(), "mul uses a mask computed from alpha"),
        (lambda x, net: x[:, net.alpha.flatten().argsort()], "getitem uses a mask computed from alpha"),
        (lambda x, net: x[:, net.alpha.flatten() > -9], "getitem uses a mask computed from alpha"),
        (
            lambda x, net: torch.where((net.alpha * 2).split(2)[0][:1] > 0, F.relu(x), x),
            "where uses a mask computed from",
        ),
    ],
)
def test_a_mask_computed_from_the_servers_numbers_is_refused_with_the_repair(
    call: Callable[[Tensor, Any], Tensor], message: str
) -> None:
    with pytest.raises(UserError, match=f"{message}.*masks are public.*register it as a boolean buffer"):
        lowered(between(call))


def test_a_parameter_read_as_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="item makes scale a public number, but it is the server's"):
        lowered(between(lambda x, net: x * (2 * net.scale).item()))


def test_a_boolean_buffer_and_what_is_computed_from_it_are_public() -> None:
    found = lowered(between(lambda x, net: torch.where(net.wide, five(x), x[:, net.mask][:, :1, None])))
    assert [array.dtype.kind for array in found.masks.values()] == ["i", "b"]  # a mask of channels is their numbers


def test_weights_are_stored_in_float32_and_four_dimensions_channels_last() -> None:
    found = lowered(between(lambda x, net: five(x) * net.four))
    (name,) = [name for name in found.weights if found.weights[name].shape == (2, 6, 6, 2)]
    expected = Between(lambda x, net: x).four.permute(0, 2, 3, 1)  # (2, 6, 6, 2)
    np.testing.assert_array_equal(found.weights[name], expected)
    assert {array.dtype for array in found.weights.values()} == {np.dtype(np.float32)}
    assert found.masks == {}


def test_the_first_call_that_reads_a_number_is_found_and_the_tensor_that_it_reads() -> None:
    network = between(lambda x, net: x * (2 * net.scale).item())
    assert find_number_read(network.module) == ("item", "scale")
    assert find_number_read(between(lambda x, net: x * net.scale).module) is None
