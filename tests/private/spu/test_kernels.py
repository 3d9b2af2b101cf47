"""The engine's own simulation of two parties computes what PyTorch computes.

Tests of the lowering run in plain JAX, which has operations that SPU lacks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import Network, trace_network
from deepreduce.private.approximations import ERRORS
from deepreduce.private.lowering.lower import Lowered
from deepreduce.private.lowering.operations import ARGUMENTS, NORMS, SAME, SPLITS
from deepreduce.private.lowering.rewrite import REWRITES
from deepreduce.private.protocol import protocol_named
from deepreduce.transforms import apply_plan
from tests.helpers.actions import random_plan
from tests.helpers.plain_engine import calibrated, lowered
from tests.helpers.private_layers import ACTIVATIONS, BETWEEN, MOVES, MaskedPolynomials, between
from tests.helpers.private_networks import needs_engine
from tests.helpers.zoo import TOYS, WRITTEN, OptionA

pytestmark = needs_engine

SHAPE = (4, 12, 10)


def simulated(found: Lowered, image: Tensor) -> np.ndarray[Any, Any]:
    """Return logits (1, classes) for one image (1, C, H, W): each layer by two threads with shares, under Semi2k."""
    from spu.utils.simulation import Simulator, sim_jax

    from deepreduce.private.spu.engine import runtime_config
    from deepreduce.private.spu.layer_function import layer_function

    simulator, program = Simulator(2, runtime_config(protocol_named("semi2k"))), found.program
    values: dict[str, Any] = dict(found.weights)
    values[program.image] = image.permute(0, 2, 3, 1).numpy()
    for layer in program.layers:
        given = [values[name] for name in (*layer.inputs, *layer.weights)]
        made = sim_jax(simulator, layer_function(layer, found.masks))(*given)
        values.update(zip(layer.outputs, made, strict=True))
    return np.asarray(values[program.logits])


def agrees(network: Network) -> None:
    image = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.module.eval()(image).numpy()
    np.testing.assert_allclose(simulated(lowered(network), image), expected, rtol=1e-2, atol=5e-3)


LAYERS = {
    "padded": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 6, 5, stride=3),
    "dilated": lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "oblong": lambda: nn.Conv2d(4, 6, (1, 3), padding=(0, 1), stride=(2, 1)),
    "padded to the same size": lambda: nn.Conv2d(4, 6, (3, 5), padding="same"),
    "two groups": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "two groups, pointwise": lambda: nn.Conv2d(4, 8, 1, groups=2, stride=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, stride=2),
    "depthwise, twice the channels": lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False),
    "batch-norm": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
    "max-pool": lambda: nn.MaxPool2d(2),
    "max-pool, padded": lambda: nn.MaxPool2d(3, 2, 1),
    "max-pool, ceiling": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max-pool, dilated": lambda: nn.MaxPool2d(2, dilation=2),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "average, padding left out": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average, adaptive": lambda: nn.AdaptiveAvgPool2d((5, 3)),
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_engine_computes_a_layer_as_pytorch_does(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(LAYERS[name](), nn.Flatten(), nn.LazyLinear(5))
    module.eval()(torch.zeros(1, *SHAPE))
    agrees(trace_network(calibrated(module, SHAPE), SHAPE))


class Written(nn.Module):
    """Operations that networks have between their layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(12, 5)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.register_buffer("mask", torch.rand(6, 12, 10) > 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        masked = torch.where(self.mask, F.relu(y), y)
        short = F.pad(x[:, 1::2, ::2, ::2], (0, 0, 0, 0, 1, 3))
        long = torch.cat([masked[:, :3, ::2, ::2], y[:, 3:, 1::2, 1::2]], 1) * self.scale
        joined = torch.cat([short, long - 0.5 * long**2], 1)
        return self.fc(joined.clamp(-2, 3).mean((2, 3)))


def test_the_engine_computes_operations_between_layers_as_pytorch_does() -> None:
    agrees(trace_network(Written(), SHAPE))


def together(calls: Sequence[Callable[[Tensor, Any], Tensor]]) -> Network:
    """Return a network whose classifier reads what several operations make of the same feature maps."""
    return between(lambda x, net: torch.cat([call(x, net).flatten(1) for call in calls], 1))


SOME = ["leaky_relu", "hardswish", "silu", "softmax", "bilinear", "nearest", "pixel_shuffle", "flip", "reflect"]


def test_the_engine_computes_activations_and_moves_as_pytorch_does() -> None:
    agrees(together([{**ACTIVATIONS, **MOVES}[name] for name in SOME]))


@pytest.mark.slow
@pytest.mark.parametrize("calls", [ACTIVATIONS, MOVES])
def test_the_engine_computes_all_activations_and_moves(calls: dict[str, Callable[[Tensor, Any], Tensor]]) -> None:
    agrees(together(list(calls.values())))


def simulated_kernel(kernel: str, x: np.ndarray[Any, Any], *args: Any) -> np.ndarray[Any, Any]:
    """Return what two threads with shares compute under Semi2k."""
    from spu.utils.simulation import Simulator, sim_jax

    from deepreduce.private.spu.engine import runtime_config
    from deepreduce.private.spu.kernels import KERNELS

    simulator = Simulator(2, runtime_config(protocol_named("semi2k")))
    return np.asarray(sim_jax(simulator, lambda given: KERNELS[kernel](given, *args, shape=given.shape))(x))


def test_approximations_are_as_close_as_promised_however_large_the_input() -> None:
    x = np.concatenate([np.linspace(-limit, limit, 101, dtype=np.float32) for limit in (3, 20, 600, 30_000)])
    given, size = torch.from_numpy(x), np.maximum(np.abs(x), 1)
    assert set(ERRORS) == {"sigmoid", "silu", "tanh", "gelu", "elu", "_softmax"}
    for name, function in (("sigmoid", torch.sigmoid), ("silu", F.silu), ("tanh", torch.tanh), ("elu", F.elu)):
        error = np.abs(simulated_kernel(name, x) - function(given).numpy())
        assert np.all(error <= bound_of(name) * (size if "|x|" in ERRORS[name] else 1)), name
    for form in ("none", "tanh"):
        error = np.abs(simulated_kernel("gelu", x, form) - F.gelu(given, approximate=form).numpy())
        assert np.all(error <= bound_of("gelu") * size), form
    rows = np.stack([x[:100], x[100:200], x[200:300], x[300:400]])
    error = np.abs(simulated_kernel("_softmax", rows, -1) - torch.from_numpy(rows).softmax(-1).numpy())
    assert np.all(error <= bound_of("_softmax"))


def bound_of(name: str) -> float:
    return float(ERRORS[name].partition(" ")[0])


def masked(name: str, kind: str) -> Network:
    network = TOYS[name].network()
    return apply_plan(network, random_plan(network, kind, 0))


NETWORKS: dict[str, Callable[[], Network]] = {
    **{f"between {number}": partial(between, call) for number, call in enumerate(BETWEEN)},
    **{
        f"{name}, form {form}": lambda name=name, form=form: trace_network(  # type: ignore[misc]
            calibrated(WRITTEN[name][form](), (3, 16, 16)), (3, 16, 16)
        )
        for name in WRITTEN
        for form in (0, 1)
    },
    "option A": lambda: trace_network(OptionA(), (3, 8, 8)),
    **{
        f"toy {name} under {kind}": lambda name=name, kind=kind: masked(name, kind)  # type: ignore[misc]
        for name in ("in-place", "inverted", "basic")
        for kind in ("channel_mask", "pixel_mask", "first_channels")
    },
    "masks and polynomials": lambda: trace_network(MaskedPolynomials(), (3, 8, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_engine_computes_all_that_can_be_lowered(name: str) -> None:
    torch.manual_seed(0)
    agrees(NETWORKS[name]())


def test_every_operation_of_the_table_has_a_function_that_takes_its_arguments() -> None:
    from deepreduce.private.spu.kernels import KERNELS

    rewritten = set(REWRITES) - {"upsample_bilinear2d"}
    assert set(KERNELS) == set(ARGUMENTS) - SAME - NORMS - SPLITS - {"index"} - rewritten
    for name, function in KERNELS.items():
        if name in REWRITES:
            continue  # with other arguments: the weights of rows and columns
        given = ARGUMENTS[name][:3] if name == "addmm" else ARGUMENTS[name]  # beta and alpha go into its weights
        inspect.signature(function).bind(*given, shape=())
