"""Layers as plain values hold what the network holds, however the network is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.features import product_of
from deepreduce.cost.layers import Layer
from deepreduce.cost.link import LINKS
from deepreduce.cost.preset import preset_named
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.transforms.collapse.costs import estimate_costs
from tests.helpers.zoo import TOYS, WRITTEN


@pytest.mark.parametrize("name", TOYS)
def test_layers_have_the_networks_macs_and_relus(name: str) -> None:
    network = TOYS[name].network()
    layers = layers_of(network)
    assert sum(layer.macs for layer in layers) == network.macs
    relus = [layer for layer in layers if layer.kind in ("relu", "relu6")]
    assert [(layer.name, layer.outputs) for layer in relus] == [(s.name, s.relu_count) for s in network.sites]


def nameless(network: Network) -> list[Layer]:
    return [replace(layer, name="") for layer in layers_of(network)]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_network_of_functions_has_the_layers_and_costs_of_the_one_of_modules(name: str) -> None:
    modules, functions = (trace_network(build().eval(), (3, 16, 16)) for build in WRITTEN[name])
    assert nameless(functions) == nameless(modules)
    presets = [preset_named(f"{model}-{link}") for model in MODELS for link in LINKS]
    assert estimate_costs(functions, presets) == estimate_costs(modules, presets)


class Called(nn.Module):
    """What `call` makes of feature maps of 4 channels, and a classifier."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(3, 3)
        self.kernel = nn.Parameter(torch.randn(6, 2, 3, 5))
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        x = self.call(self.stem(x), self)
        return self.fc(x.mean((2, 3))[:, :3])


Facts = tuple[str, tuple[int, int], int]


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda x, net: F.max_pool2d(x, 3, 2, 1), ("max_pool", (3, 3), 8 * 4 * 8 * 8)),
        (lambda x, net: F.max_pool2d(x, kernel_size=(2, 4)), ("max_pool", (2, 4), 7 * 4 * 8 * 4)),
        (lambda x, net: torch.max_pool2d(x, [2, 2]), ("max_pool", (2, 2), 3 * 4 * 8 * 8)),
        (lambda x, net: torch.ops.aten.max_pool2d.default(x, [2, 2], [1, 1]), ("max_pool", (2, 2), 3 * 4 * 15 * 15)),
        (lambda x, net: F.max_pool2d(x, 2, return_indices=True)[0], ("max_pool", (2, 2), 3 * 4 * 8 * 8)),
        (lambda x, net: F.max_pool2d(x, x.shape[2:]), ("max_pool", (16, 16), 255 * 4)),
        (lambda x, net: F.adaptive_max_pool2d(x, (4, 8)), ("max_pool", (4, 2), 7 * 4 * 4 * 8)),
        (lambda x, net: F.avg_pool2d(x, 2), ("avg_pool", (2, 2), 0)),
        (lambda x, net: F.avg_pool2d(x, 3, 2, 1, False, False), ("avg_pool", (3, 3), 0)),
        (lambda x, net: F.avg_pool2d(x, x.size(2)), ("avg_pool", (16, 16), 0)),
        (lambda x, net: F.adaptive_avg_pool2d(x, 1), ("avg_pool", (16, 16), 0)),
        (lambda x, net: F.adaptive_avg_pool2d(x, (5, 5)), ("avg_pool", (4, 4), 0)),
        (lambda x, net: F.conv2d(x, net.kernel, padding=(1, 2), groups=2), ("convolution", (3, 5), 0)),
        (lambda x, net: torch.conv2d(x, weight=net.kernel, bias=None, groups=2), ("convolution", (3, 5), 0)),
        (lambda x, net: F.conv2d(x, net.kernel * 2, groups=2), ("convolution", (3, 5), 0)),
        (lambda x, net: F.conv2d(weight=net.kernel, input=x, groups=2), ("convolution", (3, 5), 0)),
    ],
)
def test_a_function_has_its_kind_window_and_comparisons(call: Callable[..., Any], facts: Facts) -> None:
    stem, *layers = layers_of(trace_network(Called(call), (3, 16, 16)))
    layer = next(layer for layer in layers if layer.kind != "other")
    assert (layer.kind, layer.kernel, layer.comparisons) == facts
    assert layer.in_shape == stem.out_shape
    if layer.kind == "convolution":
        assert layer.groups == 2 and layer.out_shape[0] == 6
        assert product_of(layer) == (layer.out_shape[1] * layer.out_shape[2], 4 * 3 * 5, 6)


def test_asking_for_a_size_is_no_layer() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 4 * 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.reshape(x.size(0), x.shape[1] * 4 * 4))

    assert [(layer.name, layer.kind) for layer in layers_of(trace_network(Sized(), (3, 4, 4)))] == [
        ("reshape", "other"),
        ("fc", "linear"),
    ]


def test_what_a_layer_reads_is_the_activation_and_not_a_weight_before_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale, self.fc = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((self.scale * self.conv(x)).mean((2, 3)))

    layers = {layer.name: layer for layer in layers_of(trace_network(Scaled(), (3, 8, 8)))}
    assert layers["mul"].in_shape == (4, 6, 6)


class Wrapped(nn.Module):
    """A function as a module."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize(
    ("forms", "compared"),
    [
        ((nn.LeakyReLU(), F.leaky_relu), 1),
        ((nn.Hardswish(), F.hardswish), 2),
        ((nn.Sigmoid(), torch.sigmoid, F.sigmoid, lambda x: x.sigmoid()), 17),
        ((nn.SiLU(), F.silu), 17),
        ((nn.GELU(), F.gelu), 10),
        ((nn.Softmax(1), lambda x: F.softmax(x, 1), lambda x: x.softmax(1)), 11),
    ],
)
def test_an_activation_costs_comparisons_however_it_is_written(
    forms: tuple[Callable[[Tensor], Tensor], ...], compared: int
) -> None:
    for form in forms:
        activation = form if isinstance(form, nn.Module) else Wrapped(form)
        network = trace_network(nn.Sequential(nn.Conv2d(3, 4, 1), activation, nn.Flatten()), (3, 8, 8))
        (layer,) = [layer for layer in layers_of(network) if layer.kind == "activation"]
        assert layer.comparisons == compared * layer.outputs == compared * 4 * 8 * 8
