"""One call, however it is written: the same function, source, sizes and tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import trace_network
from deepreduce.network.calls import Call, call_of


class Written(nn.Module):
    """`write` calls an operation on the output of a stem, with the tensors or the layer of this module."""

    def __init__(self, write: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), groups=2)
        self.weight, self.bias = nn.Parameter(self.layer.weight.detach()), nn.Parameter(self.layer.bias.detach())
        self.pool = nn.AvgPool2d(2)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, self.stem(x))


def calls(write: Callable[[Any, Tensor], Tensor]) -> list[Call | None]:
    """The calls after the stem."""
    module = trace_network(Written(write), (3, 8, 8)).module
    nodes = [node for node in module.graph.nodes if node.op.startswith("call_")]
    return [call_of(node, module) for node in nodes[1:]]


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net.layer(x),
        lambda net, x: F.conv2d(x, net.weight, net.bias, 2, (1, 2), 1, 2),
        lambda net, x: torch.conv2d(input=x, weight=net.weight, bias=net.bias, groups=2, stride=2, padding=[1, 2]),
        lambda net, x: torch.ops.aten.conv2d.default(x, net.weight, net.bias, [2, 2], [1, 2], [1, 1], 2),
    ],
)
def test_a_convolution_is_the_same_call_as_module_function_and_aten_operation(
    write: Callable[[Any, Tensor], Tensor],
) -> None:
    (call,) = calls(write)
    assert call is not None and (call.function, call.source.name, call["groups"]) == ("conv2d", "stem", 2)
    assert (call.stride, call.pair("padding"), call.pair("dilation")) == ((2, 2), (1, 2), (1, 1))
    prefix = "layer." if call["weight"] == "layer.weight" else ""
    assert (call["weight"], call["bias"]) == (f"{prefix}weight", f"{prefix}bias")


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net.pool(x),
        lambda net, x: F.avg_pool2d(x, 2),
        lambda net, x: F.avg_pool2d(x, kernel_size=(2, 2), stride=None),
        lambda net, x: torch.ops.aten.avg_pool2d.default(x, [2, 2]),
    ],
)
def test_a_pool_without_a_stride_moves_by_its_window(write: Callable[[Any, Tensor], Tensor]) -> None:
    (call,) = calls(write)
    assert call is not None and call.function == "avg_pool2d"
    assert call.stride == call.pair("kernel_size") == (2, 2)
    assert call["count_include_pad"] is True and call["divisor_override"] is None


def test_an_option_that_is_computed_or_a_word_has_no_pair() -> None:
    (*_, computed) = calls(lambda net, x: F.avg_pool2d(x, x.size(2)))
    assert computed is not None and computed.pair("kernel_size") is None
    (same,) = calls(lambda net, x: F.conv2d(x, net.weight, groups=2, padding="same"))
    assert same is not None and same["padding"] == "same" and same.pair("padding") is None


def test_other_calls_and_a_source_that_is_no_node_are_none() -> None:
    assert calls(lambda net, x: F.relu(x + 1)) == [None, None]
    assert calls(lambda net, x: x.mean()) != [None]
    assert calls(lambda net, x: x * F.avg_pool2d(torch.ones(1, 1, 8, 8), 8)) == [None]
