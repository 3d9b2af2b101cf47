"""Linear calls and their figures, held against what the network really computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deepreduce.network import Network, trace_network
from deepreduce.network.linear_ops import LinearOp, compute, is_identity, linear_ops, pad_amounts
from tests.helpers.linear_nets import SIZES, Drawn, drawing, drawn_network, hooked, images, odd_regions


def counting(layer: nn.Module) -> nn.Module:
    """The layer with a hook that a graph can't hold, because it has state of its own."""
    calls = [0]

    def hook(_: nn.Module, given: Any, made: Tensor) -> Tensor:
        calls[0] += 1
        return calls[0] * made

    layer.register_forward_hook(hook)
    return layer


class Values(fx.Interpreter):
    """Keeps the output of every node."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.module, garbage_collect_values=False)
        self.kept: dict[str, Any] = {}
        with torch.no_grad():
            self.run(images(network))

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        self.kept[n.name] = made.clone() if isinstance(made, Tensor) else made  # it may be overwritten later
        return made


def padding_of(op: LinearOp, source: Tensor, made: Tensor) -> list[int]:
    """(left, right, top, bottom): zeros that the op's figures put around what it reads."""
    amounts = []
    for axis in (1, 0):
        last = (made.shape[2 + axis] - 1) * op.stride[axis] + (op.kernel[axis] - 1) * op.dilation[axis]
        amounts += [op.padding[axis], last - op.padding[axis] - (source.shape[2 + axis] - 1)]
    return amounts


@drawing
@given(odd_regions, st.sampled_from(SIZES))
def test_an_op_computes_what_its_call_does(drawn: Drawn, size: int) -> None:
    network = drawn_network(drawn, size)
    values = Values(network).kept
    for name, op in linear_ops(network).items():
        made = values[name]
        operands = [F.pad(values[operand], padding_of(op, values[operand], made)) for operand in op.operands]
        torch.testing.assert_close(compute(op, network.module, operands), made)


@pytest.mark.parametrize(
    "layer",
    [
        counting(nn.Conv2d(3, 3, 1)),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.AvgPool2d(3, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        nn.AdaptiveAvgPool2d(3),  # of 8 positions: the windows differ
        nn.MaxPool2d(2),
        nn.ReflectionPad2d(1),
        nn.Sigmoid(),
    ],
)
def test_what_no_convolution_computes_is_no_op(layer: nn.Module) -> None:
    assert linear_ops(trace_network(nn.Sequential(nn.ReLU(), layer), (3, 8, 8))) == {}


def test_identities_are_the_layers_that_return_their_input() -> None:
    x = torch.randn(2, 3, 4, 4)
    for layer in (nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()):
        assert is_identity(layer) and torch.equal(layer.eval()(x), x)
    assert not any(is_identity(layer) for layer in (nn.ReLU(), nn.Flatten(), hooked(nn.Identity())))


def test_only_zeros_of_known_amounts_are_padding() -> None:
    def amounts(**options: Any) -> Any:
        class Padded(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return F.pad(x, **options)

        (node,) = (n for n in trace_network(Padded(), (3, 8, 8)).module.graph.nodes if n.op == "call_function")
        return pad_amounts(node)

    assert amounts(pad=(1, 2, 3, -1)) == (1, 2, 3, -1) == amounts(pad=[1, 2, 3, -1], value=0.0)
    assert amounts(pad=(1, 1, 1, 1), mode="reflect") is None
    assert amounts(pad=(1, 1, 1, 1), value=1.0) is None
    assert amounts(pad=(1, 1)) is None
