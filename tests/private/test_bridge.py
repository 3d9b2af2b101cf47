"""What the bridge makes of a network computes what PyTorch computes, op by op; what it can't express it names."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.errors import UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.private.program import Program
from deepreduce.transforms import apply_plan, cull_plan
from tests.private.plain import calibrated, logits_of, lowered
from tests.zoo import STEPS, TOYS, RandomGraph

pytest.importorskip("jax", reason="the bridge makes JAX functions: pip install 'deepreduce[private]'")

STEP = st.tuples(st.sampled_from([*STEPS, "shuffle"]), st.sampled_from([2, 4]))
EXPRESSED = [name for name in TOYS if name not in ("others",)]


def agrees(network: Network, *, images: int = 2) -> None:
    found = lowered(network)
    network.module.eval()
    torch.manual_seed(1)
    for _ in range(images):
        image = torch.randn(1, *network.input_shape)
        with torch.no_grad():
            expected = network.module(image).numpy()
        np.testing.assert_allclose(logits_of(found, image), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EXPRESSED)
def test_a_toy_computes_what_pytorch_computes(name: str) -> None:
    agrees(TOYS[name].network())


@settings(max_examples=25)
@given(steps=st.lists(STEP, min_size=1, max_size=6), flat=st.booleans())
def test_a_random_graph_computes_what_pytorch_computes(steps: list[tuple[str, int]], flat: bool) -> None:
    torch.manual_seed(0)
    agrees(trace_network(calibrated(RandomGraph(steps, flat=flat), (3, 8, 8)), (3, 8, 8)), images=1)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16_bn"])
def test_a_network_of_the_zoo_computes_what_pytorch_computes(name: str) -> None:
    torch.manual_seed(0)
    spec = resolve_spec(name, num_classes=10, in_channels=3, width=8)
    module = calibrated(build_model(spec, seed=0), (3, 32, 32))
    agrees(trace_network(module, (3, 32, 32), spec=spec), images=1)


class Pools(nn.Module):
    """Every kind of pooling, with strides, padding and sizes that do not divide."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 4, 3), pool, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.conv(x)).flatten(1))


POOLS = {
    "max": nn.MaxPool2d(2),
    "max 3, 2, 1": nn.MaxPool2d(3, 2, 1),
    "max ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max dilated": nn.MaxPool2d(2, dilation=2),
    "avg": nn.AvgPool2d(2),
    "avg 3, 2, 1": nn.AvgPool2d(3, 2, 1),
    "avg without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "avg ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
    "avg padded ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "avg divisor": nn.AvgPool2d((2, 3), divisor_override=5),
    "global": nn.AdaptiveAvgPool2d(1),
    "adaptive": nn.AdaptiveAvgPool2d((3, 4)),
    "wider": nn.AdaptiveAvgPool2d(20),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling_computes_what_pytorch_computes(name: str) -> None:
    torch.manual_seed(0)
    module = Pools(POOLS[name])
    module(torch.zeros(1, 3, 12, 13))
    agrees(trace_network(module, (3, 12, 13)))


class MaskedPolynomials(nn.Module):
    """What a plan may make of a site: a ReLU for some channels, for some pixels, and a polynomial."""

    channels: Tensor
    pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(4))
        self.register_buffer("channels", torch.tensor([0, 2]))
        self.register_buffer("pixels", torch.arange(4 * 8 * 8).reshape(4, 8, 8) % 3 == 0)
        self.coefficients = nn.Parameter(torch.randn(3, 4, 1, 1))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[0](x)
        x = torch.where(self.pixels, F.relu(x), x)
        x = self.convs[1](x)
        a, b, c = self.coefficients[0], self.coefficients[1], self.coefficients[2]
        x = a * x.pow(2) + b * x + c
        x = self.convs[2](x)
        x = torch.cat([F.relu(x[:, self.channels]), x], dim=1)
        return self.fc(x.mean(dim=(2, 3)))


def test_masks_and_polynomials_compute_what_pytorch_computes() -> None:
    torch.manual_seed(0)
    network = trace_network(MaskedPolynomials(), (3, 8, 8))
    agrees(network)
    found = lowered(network)
    assert {array.dtype.kind for array in found.masks.values()} == {"b", "i"}
    assert {array.dtype.kind for array in found.weights.values()} == {"f"}
    assert "product" in {layer.kind for layer in found.program.layers}


def test_layers_have_the_names_of_sites_and_layers_and_batch_norms_are_gone() -> None:
    spec = resolve_spec("resnet18", num_classes=10, in_channels=3, width=4)
    network = trace_network(calibrated(build_model(spec, seed=0), (3, 16, 16)), (3, 16, 16), spec=spec)
    layers = {layer.name: layer.kind for layer in lowered(network).program.layers}
    assert {site.name: "relu" for site in network.sites}.items() <= layers.items()
    assert {layer.name for layer in network.linear_layers} <= set(layers)
    assert "scale" not in layers.values()


def test_a_batch_norm_stays_where_another_layer_reads_the_convolution() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.fc((F.relu(self.bn(x)) + x).mean(dim=(2, 3)))

    network = trace_network(calibrated(Peeking(), (3, 8, 8)), (3, 8, 8))
    agrees(network)
    assert {layer.name: layer.kind for layer in lowered(network).program.layers}["bn"] == "scale"


def test_the_network_is_left_as_it_was() -> None:
    network = TOYS["basic"].network()
    network.module.train()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    lowered(network)
    assert network.module.training
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_the_program_holds_no_weight_and_survives_json() -> None:
    found = lowered(apply_plan(TOYS["basic"].network(), cull_plan(TOYS["basic"].network(), ["S1"])))
    text = json.dumps(found.program.to_json())
    assert Program.from_json(json.loads(text)) == found.program
    numbers = {f"{float(value):.5g}" for array in found.weights.values() for value in array.flat}
    assert not any(number in text for number in numbers if len(number) > 6)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.GELU(), "act computes gelu"),
        (nn.Softmax(dim=1), "act computes _softmax"),
        (nn.GroupNorm(2, 4), "act computes native_group_norm"),
        (nn.ConvTranspose2d(4, 4, 2), "act is a transposed convolution"),
        (nn.InstanceNorm2d(4), "act normalises by statistics of the image itself"),
    ],
)
def test_what_cannot_be_expressed_is_named(layer: nn.Module, said: str) -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), layer, nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.conv(x)).mean(dim=(2, 3)))

    with pytest.raises(UserError, match=said):
        lowered(trace_network(Strange(), (3, 8, 8)))


def test_every_operation_of_the_table_has_a_function() -> None:
    from deepreduce.private.bridge import KIND_OF
    from deepreduce.private.kernels import KERNELS

    assert set(KIND_OF) == set(KERNELS)
