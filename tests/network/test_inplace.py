"""Calls that overwrite a tensor, and between which of its readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import trace_network
from deepreduce.network.inplace import Overwrites, is_inplace


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (nn.ReLU(inplace=True), True),
        (nn.ReLU(), False),
        (nn.Conv2d(4, 4, 1), False),
        (lambda x: F.relu(x, True), True),
        (lambda x: F.relu(x, inplace=True), True),
        (F.relu, False),
        (lambda x: x.mul_(2), True),
        (lambda x: x.mul(2), False),
        (lambda x: torch.add(x, 1, out=x), True),
        (lambda x: x + 1, False),
    ],
)
def test_a_call_that_may_overwrite_its_input_is_in_place(call: Callable[[Tensor], Tensor], expected: bool) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.call = nn.Conv2d(3, 4, 1), call

        def forward(self, x: Tensor) -> Tensor:
            return self.call(self.conv(x))

    module = trace_network(Module(), (3, 4, 4)).module
    (*_, node, _) = module.graph.nodes
    assert is_inplace(node, module) is expected


class Overwriting(nn.Module):
    """A tensor that is overwritten through a view of it, between its two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.before, self.after = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        made = self.conv(x)
        before = self.before(made)
        made.flatten(1).mul_(2.0)
        return before + self.after(made)


def test_a_view_shares_the_memory_that_is_overwritten_and_a_result_of_its_own_does_not() -> None:
    overwrites = Overwrites(trace_network(Overwriting(), (3, 4, 4)).module)
    assert not overwrites.occur_between("conv", "before")
    assert overwrites.occur_between("conv", "after")
    assert overwrites.occur_between("flatten", "after")
    assert not overwrites.occur_between("before", "add")
    assert not overwrites.occur_between("conv", "mul_")
    assert overwrites.occur_between("conv", "mul_", reader_too=True)
