"""What is the server's never becomes public."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepreduce.errors import UserError
from tests.helpers.plain_engine import lowered
from tests.helpers.private_layers import between, five

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


@pytest.mark.parametrize(
    ("call", "said"),
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
def test_a_mask_made_of_the_servers_numbers_is_refused_with_the_repair(
    call: Callable[[Tensor, Any], Tensor], said: str
) -> None:
    with pytest.raises(UserError, match=f"{said}.*masks are public.*register it as a boolean buffer"):
        lowered(between(call))


def test_a_parameter_read_as_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="item makes scale a public number, but it is the server's"):
        lowered(between(lambda x, net: x * (2 * net.scale).item()))


def test_a_boolean_buffer_is_public_and_what_is_computed_of_it_too() -> None:
    found = lowered(between(lambda x, net: torch.where(net.wide, five(x), x[:, net.mask][:, :1, None])))
    assert [array.dtype.kind for array in found.masks.values()] == ["i", "b"]  # a mask of channels is their numbers
