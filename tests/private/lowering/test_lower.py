"""What the bridge makes of a network computes what PyTorch computes, op by op; what it can't express it names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn import functional as F

from deepreduce.errors import UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.private.lowering.operations import KIND_OF, NORMS, SAME, SPLITS, TAKEN, operation_of
from deepreduce.private.lowering.program import Program, UnsupportedError
from deepreduce.transforms import apply_plan, cull_plan
from tests.helpers.plain_engine import calibrated, logits_of, lowered
from tests.helpers.zoo import STEPS, TOYS, WRITTEN, OptionA, RandomGraph

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


# -- what networks write between their layers ----------------------------------------------------------------


class Between(nn.Module):
    """A convolution to feature maps (4, 6, 6), what `call` makes of them and of the numbers below, a classifier."""

    def __init__(self, call: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.fc, self.call = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LazyLinear(3), call
        self.matrix, self.bias = nn.Parameter(torch.randn(144, 5)), nn.Parameter(torch.randn(5))
        self.alpha, self.scale = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.tensor(0.5))
        self.register_buffer("beta", torch.randn(4, 1, 1))
        self.register_buffer("four", torch.randn(2, 2, 6, 6))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("wide", torch.rand(2, 2, 6, 6) > 0.5)
        self.register_buffer("places", torch.tensor([-1, 0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.call(self.conv(x), self).flatten(1))


def between(call: Callable[[Tensor, Any], Tensor]) -> Network:
    module = Between(call).eval()
    with torch.no_grad():
        module(torch.zeros(1, 3, 8, 8))
    return trace_network(module, (3, 8, 8))


def five(x: Tensor) -> Tensor:
    """(batch, 2, 2, 6, 6)"""
    return x.view(-1, 2, 2, 6, 6)


BETWEEN: list[Callable[[Tensor, Any], Tensor]] = [
    lambda x, net: five(x) * net.four,
    lambda x, net: net.four - five(x),
    lambda x, net: five(x) + five(x).sum(1),
    lambda x, net: five(x).sum(2, keepdim=True),
    lambda x, net: five(x).mean((1, 4)),
    lambda x, net: torch.where(net.wide, F.relu(five(x)), five(x)),
    lambda x, net: torch.addmm(net.bias, x.flatten(1), net.matrix, beta=0.5, alpha=2),
    lambda x, net: torch.addmm(net.bias[None], x.flatten(1), net.matrix),
    lambda x, net: x.double().float(),
    lambda x, net: x.mean((2, 3), keepdim=True).squeeze()[None],
    lambda x, net: x.mean((2, 3), keepdim=True).squeeze((2, 3)),
    lambda x, net: x[:, net.mask],
    lambda x, net: x[:, net.places],
    lambda x, net: x[:, [3, 1]],
    lambda x, net: x / net.beta,
    lambda x, net: x[:, 1::2, ::3, 1:-1],
    lambda x, net: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
    lambda x, net: net.bn(net.bn(x).clone()),
    lambda x, net: x * (net.alpha > 0).float(),
]


@pytest.mark.parametrize("call", BETWEEN)
def test_what_stands_between_layers_computes_what_pytorch_computes(call: Callable[[Tensor, Any], Tensor]) -> None:
    agrees(between(call))


def test_shortcuts_of_option_a_compute_what_pytorch_computes_and_are_analyzed() -> None:
    torch.manual_seed(0)
    network = trace_network(OptionA(), (3, 8, 8))
    agrees(network)
    assert network.relu_count == 4 * 8 * 8 + 2 * 8 * 4 * 4 + 8 * 4 * 4
    assert {"pad", "getitem"} <= {layer.name for layer in layers_of(network)}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("form", [0, 1])
def test_modules_and_functions_compute_what_pytorch_computes(name: str, form: int) -> None:
    agrees(trace_network(calibrated(WRITTEN[name][form](), (3, 16, 16)), (3, 16, 16)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, net: x.int().float(), "int_1 turns values that depend on the image into torch.int32"),
        (lambda x, net: x.to(torch.long).float(), "to turns values that depend on the image into torch.int64"),
        (lambda x, net: torch.div(x, 2, rounding_mode="floor"), "div computes div with rounding_mode=floor"),
        (lambda x, net: x // 2, "floordiv computes floor_divide"),
        (lambda x, net: x.view(torch.int32).float(), "view computes view with dtype=torch.int32"),
        (lambda x, net: 2**x, "raises to a power that is a tensor"),
        (lambda x, net: x**5, "raises to the power of 5"),
        (lambda x, net: x / (x * x + 1), "truediv divides by values that depend on the image"),
        (lambda x, net: torch.clamp(x, max=net.scale), "clamp clamps by bounds that are tensors"),
        (lambda x, net: (x * 1j).real, "mul is given 1j"),
        (lambda x, net: x[:, net.places, net.places], "getitem indexes by more than one list"),
        (lambda x, net: x.mean() * x.mean().item() * x, "its graph can't be followed"),
        (
            lambda x, net: F.batch_norm(x, net.bn.running_mean, net.bn.running_var, training=True),
            "normalises by statistics of the image itself",
        ),
    ],
)
def test_what_stands_between_layers_and_cannot_be_expressed_is_named(
    call: Callable[[Tensor, Any], Tensor], said: str
) -> None:
    with pytest.raises(UserError, match=f"Between can't be run privately: .*{said}"):
        lowered(between(call))


# -- who knows what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, net: torch.where(net.alpha > 0, F.relu(x), x), "where takes a mask made of alpha, which is the s"),
        (lambda x, net: torch.where(net.beta > 0, F.relu(x), x), "where takes a mask that forward computes, perhaps"),
        (lambda x, net: x * (net.alpha > 0), "mul takes a mask made of alpha"),
        (lambda x, net: x * (net.alpha > 0).int(), "mul takes a mask made of alpha"),
        (lambda x, net: x[:, net.alpha.flatten().argsort()], "getitem takes a mask made of alpha"),
        (lambda x, net: x[:, net.alpha.flatten() > -9], "getitem takes a mask made of alpha"),
        (lambda x, net: torch.where((net.alpha * 2).split(2)[0][:1] > 0, F.relu(x), x), "where takes a mask made of"),
    ],
)
def test_a_mask_made_of_the_servers_numbers_is_refused_with_the_repair(
    call: Callable[[Tensor, Any], Tensor], said: str
) -> None:
    with pytest.raises(UserError, match=f"{said}.*masks are public.*register it as a boolean buffer"):
        lowered(between(call))


def test_a_parameter_read_as_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="item makes a public number of scale, which is the server's"):
        lowered(between(lambda x, net: x * (2 * net.scale).item()))


def test_a_boolean_buffer_is_public_and_what_is_computed_of_it_too() -> None:
    found = lowered(between(lambda x, net: torch.where(net.wide, five(x), x[:, net.mask][:, :1, None])))
    assert [array.dtype.kind for array in found.masks.values()] == ["i", "b"]  # a mask of channels is their numbers


# -- the table of operations ---------------------------------------------------------------------------------


def test_every_operation_of_the_table_has_a_function_that_takes_its_arguments() -> None:
    from deepreduce.private.spu.kernels import KERNELS

    assert set(KIND_OF) == set(KERNELS) == set(TAKEN) - SAME - NORMS - SPLITS - {"index"}
    for name, function in KERNELS.items():
        given = TAKEN[name][:3] if name == "addmm" else TAKEN[name]  # beta and alpha go into its weights
        inspect.signature(function).bind(*given, shape=())


def overloads() -> Iterator[tuple[str, OpOverload]]:
    """Every way to call the operations of the table with tensors."""
    for name in (*TAKEN, "max_pool2d_with_indices", "expand_copy"):
        packet = getattr(torch.ops.aten, name)
        for overload in map(packet.__getattr__, packet.overloads()):
            types = [str(argument.type) for argument in overload._schema.arguments]
            writes = any(a.alias_info is not None and a.alias_info.is_write for a in overload._schema.arguments)
            if any("Tensor" in kind for kind in types) and not writes:
                yield name, overload


OTHERS = {"int": 7, "bool": True, "float": 0.25, "number": 3, "str": "floor", "Optional[str]": "floor"}


def another(argument: Any) -> Any:
    """A value for an argument that is not its default."""
    kind, default = str(argument.type), argument.default_value
    if argument.name in ("dtype", "out_dtype"):
        return torch.float64
    return not default if kind == "bool" else OTHERS.get(kind, [7])


def call_with(overload: OpOverload, changed: str) -> fx.Node:
    """A call with that argument changed, and all others at their defaults where they have any."""
    graph = fx.Graph()
    given = {
        argument.name: graph.placeholder(argument.name)
        if "Tensor" in str(argument.type)
        else another(argument)
        if argument.name == changed
        else argument.default_value
        for argument in overload._schema.arguments
    }
    named = {a.name for a in overload._schema.arguments if a.kwarg_only}
    args = tuple(value for name, value in given.items() if name not in named)
    return graph.call_function(overload, args, {name: given[name] for name in named})


def test_an_argument_that_the_functions_ignore_must_be_at_its_default() -> None:
    # in a process of its own: torch.export stumbles over overloads that nothing but looking at them has loaded
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        refused = process.submit(refused_arguments).result()
    assert {("div", "rounding_mode"), ("sum", "dtype"), ("mean", "dtype"), ("view", "dtype")} <= refused


def refused_arguments() -> set[tuple[str, str]]:
    """(operation, argument) of all that is refused for an argument; every other one is checked on the way."""
    harmless = {"memory_format", "layout", "device", "pin_memory", "non_blocking", "implicit"}
    refused = set()
    for called, overload in overloads():
        for argument in overload._schema.arguments:
            if "Tensor" in str(argument.type):
                continue
            node = call_with(overload, argument.name)
            name = {"max_pool2d_with_indices": "max_pool2d", "expand_copy": "expand"}.get(called, called)
            if argument.name in TAKEN[name] or argument.name in harmless:
                _, taken = operation_of(node)
                assert list(taken) == [a.name for a in overload._schema.arguments if a.name in TAKEN[name]]
                assert argument.name in harmless or taken[argument.name] == another(argument)
                continue
            with pytest.raises(UnsupportedError, match=f"computes {called} with {argument.name}="):
                operation_of(node)
            refused.add((called, argument.name))
    return refused


def test_an_operation_that_is_not_in_the_table_is_refused() -> None:
    graph = fx.Graph()
    with pytest.raises(UnsupportedError, match="computes erf, which the engine is not taught"):
        operation_of(graph.call_function(torch.ops.aten.erf.default, (graph.placeholder("x"),)))


def test_whatever_goes_wrong_while_shapes_are_followed_names_the_layer_and_the_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from deepreduce.private.spu.kernels import KERNELS

    network = TOYS["chain"].network()
    site = network.sites[0].name

    def broken(x: Any, *, shape: tuple[int, ...]) -> Any:
        raise ValueError("no such thing\nand more")

    monkeypatch.setitem(KERNELS, "relu", broken)
    with pytest.raises(
        UserError, match=rf"{site} computes relu in a way .* \(ValueError: no such thing\)$"
    ) as caught:
        lowered(network)
    assert isinstance(caught.value.__cause__, UnsupportedError)
    assert isinstance(caught.value.__cause__.__cause__, ValueError)
    monkeypatch.setitem(KERNELS, "relu", lambda x, *, shape: x[:, 1:])
    with pytest.raises(UserError, match=rf"{site} computes relu in a way that is not expressed \(its output is"):
        lowered(network)
