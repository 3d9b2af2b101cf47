"""What a forward pass may ask of a value, and what it is told."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.errors import NetworkTraceError
from deepreduce.network import trace_network
from tests.helpers.brought import SHAPE, traced, two

ASKED: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "size": (lambda x: int(x.size(2)), 8),
    "shape": (lambda x: tuple(x.shape[1:]), (4, 8, 8)),
    "length": (lambda x: len(x.shape), 4),
    "comparison": (lambda x: bool(x.shape[1] % 3 == 1), True),
    "arithmetic": (lambda x: float(x.size(1) / 8 + 1), 1.5),
    "index": (lambda x: [5, 6, 7, 8, 9][x.size(1)], 9),
    "minimum": (lambda x: min(int(x.size(1)), x.dim() + 1), 4),
    "format": (lambda x: f"{x.size(1):02d}", "04"),
    "type": (
        lambda x: (isinstance(x, torch.Tensor), isinstance(x.shape, tuple), torch.is_tensor(x.shape)),
        (True, True, False),
    ),
    "precision": (lambda x: x.dtype == torch.float32, True),
    "device": (lambda x: (bool(x.device.type == "cpu"), bool(x.is_cuda)), (True, False)),
    "one size of two": (lambda x: bool(x.unflatten(1, (2, 2)).shape[2] == 2), True),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_the_same_for_all_images_is_answered(name: str) -> None:
    ask, expected = ASKED[name]
    answers = []

    def between(self: nn.Module, x: Tensor) -> Tensor:
        answer = ask(x)
        answers.append(bool(answer) if expected is True else answer)
        return F.relu(x)

    trace_network(two(between)(), SHAPE)
    assert answers == [expected]


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda x: int(x.size(0)), "number of images"),
        (lambda x: bool(x.shape[0] > 1), "number of images"),
        (lambda x: bool(x.size(0) < 100), "number of images"),
        (lambda x: len(x), "number of images"),
        (lambda x: bool(x.flatten(0, 1).shape[0] == 4), "number of images"),
        (lambda x: bool(x.sum() > 0), "values of a tensor"),
        (lambda x: x.max().item() + 0 > 1 or 1 / 0, "values of a tensor"),
        (lambda x: list(x.nonzero()), "values of a tensor"),
    ],
)
def test_what_differs_is_refused_for_its_reason(ask: Callable[[Tensor], Any], reason: str) -> None:
    def between(self: nn.Module, x: Tensor) -> Tensor:
        ask(x)
        return F.relu(x)

    with pytest.raises(NetworkTraceError, match=rf"test_values\.py:\d+.*{reason}"):
        trace_network(two(between)(), SHAPE)


def test_assignments_outlive_pickling() -> None:
    network, module = traced("assignment to a part")
    file = io.BytesIO()
    torch.save(network.module, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert operator.setitem in {node.target for node in loaded.graph.nodes}
    images = torch.randn(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(loaded(images), module(images))


def test_overwriting_that_nobody_sees_is_written_as_none() -> None:
    targets = {node.target for node in traced("residual in place")[0].module.graph.nodes}
    assert operator.add in targets and operator.iadd not in targets
    seen = {node.target for node in traced("augmented assignment")[0].module.graph.nodes}
    assert {operator.iadd, operator.imul} <= seen
