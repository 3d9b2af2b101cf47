"""A lowered network computes what PyTorch computes, and what can't be lowered is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.errors import UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.transforms import apply_plan
from tests.helpers.actions import EXAMPLES, random_plan
from tests.helpers.plain_engine import assert_agrees, calibrated, lowered
from tests.helpers.private_layers import ACTIVATIONS, BETWEEN, MIXING, MOVES, SUPPORTED, MaskedPolynomials, between
from tests.helpers.zoo import STEPS, TOYS, WRITTEN, OptionA, RandomGraph

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")

STEP = st.tuples(st.sampled_from([*STEPS, "shuffle"]), st.sampled_from([2, 4]))


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_toy_computes_what_pytorch_computes(name: str) -> None:
    assert_agrees(TOYS[name].network())


@settings(max_examples=25)
@given(steps=st.lists(STEP, min_size=1, max_size=6), flat=st.booleans())
def test_a_random_graph_computes_what_pytorch_computes(steps: list[tuple[str, int]], flat: bool) -> None:
    torch.manual_seed(0)
    assert_agrees(trace_network(calibrated(RandomGraph(steps, flat=flat), (3, 8, 8)), (3, 8, 8)), images=1)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16_bn"])
def test_a_network_of_the_zoo_computes_what_pytorch_computes(name: str) -> None:
    torch.manual_seed(0)
    spec = resolve_spec(name, num_classes=10, in_channels=3, width=8)
    module = calibrated(build_model(spec, seed=0), (3, 32, 32))
    assert_agrees(trace_network(module, (3, 32, 32), spec=spec), images=1)


def test_masks_and_polynomials_compute_what_pytorch_computes() -> None:
    torch.manual_seed(0)
    network = trace_network(MaskedPolynomials(), (3, 8, 8))
    assert_agrees(network)
    found = lowered(network)
    assert {array.dtype.kind for array in found.masks.values()} == {"i"}
    assert {array.dtype.kind for array in found.weights.values()} == {"f"}
    assert "square" in {layer.kind for layer in found.program.layers}


def test_the_network_is_left_as_it_was() -> None:
    network = TOYS["basic"].network()
    network.module.train()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    lowered(network)
    assert network.module.training
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Mish(), "act computes mish"),
        (nn.LogSoftmax(dim=1), "act computes _log_softmax"),
        (nn.GroupNorm(2, 4), "act computes native_group_norm"),
        (nn.ConvTranspose2d(4, 4, 2), "act is a transposed convolution"),
        (nn.InstanceNorm2d(4), "act normalises by the image's own statistics"),
    ],
)
def test_a_layer_that_is_not_supported_is_named(layer: nn.Module, message: str) -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), layer, nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.conv(x)).mean(dim=(2, 3)))

    with pytest.raises(UserError, match=message):
        lowered(trace_network(Strange(), (3, 8, 8)))


@settings(max_examples=15)
@given(
    steps=st.lists(STEP, min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from([*EXAMPLES, "any"]),
)
def test_a_random_masked_graph_computes_what_pytorch_computes(
    steps: list[tuple[str, int]], seed: int, kind: str
) -> None:
    torch.manual_seed(0)
    network = trace_network(calibrated(RandomGraph(steps), (3, 8, 8)), (3, 8, 8))
    assert_agrees(apply_plan(network, random_plan(network, kind, seed)), images=1)


@pytest.mark.parametrize("name", ["in-place", "in-place, shared", "overwriting", "capped"])
def test_the_layers_of_masks_have_the_names_of_their_sites_and_masks_are_public(name: str) -> None:
    network = TOYS[name].network()
    masked = apply_plan(network, random_plan(network, "pixel_mask", 0))
    found = lowered(masked)
    assert_agrees(masked)
    layers = {layer.name: layer.kind for layer in found.program.layers}
    assert {site.name for site in masked.sites} <= set(layers)
    assert {array.dtype.kind for array in found.masks.values()} == {"i"}  # the numbers of elements
    assert len(found.masks) == 2 * len([s for s in masked.sites if s.relu_count < s.elements])  # there and back


# -- operations between layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", BETWEEN)
def test_an_operation_between_layers_computes_what_pytorch_computes(call: Callable[[Tensor, Any], Tensor]) -> None:
    assert_agrees(between(call))


@pytest.mark.parametrize("name", [*ACTIVATIONS, *MOVES])
def test_an_activation_or_a_move_computes_what_pytorch_computes(name: str) -> None:
    assert_agrees(between({**ACTIVATIONS, **MOVES}[name]))


@pytest.mark.parametrize("name", MIXING)
def test_images_that_change_each_others_logits_are_refused_together_and_run_alone(name: str) -> None:
    network = between(MIXING[name])
    assert_agrees(network, images=1)
    with pytest.raises(UserError, match=r"computes other logits for an image if others .*; give a batch of 1"):
        lowered(network, batch=2)


def test_a_number_of_images_that_a_network_can_not_take_is_refused() -> None:
    network = between(MIXING["a broadcast over images"])
    with pytest.raises(UserError, match=r"can't take 3 images in one query \(RuntimeError: .*\); give a batch of 1"):
        lowered(network, batch=3)


def test_a_batch_changes_no_weight_and_no_layer_but_its_values() -> None:
    one, three = (lowered(TOYS["bottleneck"].network(), batch=batch) for batch in (1, 3))
    assert (one.program.batch, three.program.batch) == (1, 3)
    assert one.weights.keys() == three.weights.keys()
    assert all(np.array_equal(one.weights[key], three.weights[key]) for key in one.weights)
    for value, shape in one.program.shapes.items():
        wanted = shape if value in one.weights else (3 * shape[0], *shape[1:])
        assert three.program.shapes[value] == wanted, value


def test_shortcuts_of_option_a_compute_what_pytorch_computes_and_are_analyzed() -> None:
    torch.manual_seed(0)
    network = trace_network(OptionA(), (3, 8, 8))
    assert_agrees(network)
    assert network.relu_count == 4 * 8 * 8 + 2 * 8 * 4 * 4 + 8 * 4 * 4
    assert {"pad", "getitem"} <= {layer.name for layer in layers_of(network)}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("form", [0, 1])
def test_modules_and_functions_compute_what_pytorch_computes(name: str, form: int) -> None:
    assert_agrees(trace_network(calibrated(WRITTEN[name][form](), (3, 16, 16)), (3, 16, 16)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, net: x.int().float(), "int_1 converts values that depend on the image to torch.int32"),
        (lambda x, net: x.to(torch.long).float(), "to converts values that depend on the image to torch.int64"),
        (lambda x, net: torch.div(x, 2, rounding_mode="floor"), "div computes div with rounding_mode=floor"),
        (lambda x, net: x // 2, "floordiv computes floor_divide"),
        (lambda x, net: x.view(torch.int32).float(), "view computes view with dtype=torch.int32"),
        (lambda x, net: 2**x, "raises to a power that is a tensor"),
        (lambda x, net: x**5, "raises to the power of 5"),
        (lambda x, net: x / (x * x + 1), "truediv divides by values that depend on the image"),
        (lambda x, net: torch.clamp(x, max=net.scale), "clamp clamps by bounds that are tensors"),
        (lambda x, net: (x * 1j).real, "mul has the argument 1j"),
        (lambda x, net: (x + 0).copy_(x[:, :1]), "copy_ copies a tensor into one of another shape"),
        (lambda x, net: (x + 0).copy_(net.four.view(1, 4, 6, 6)[:, :, :6] * 0), "another shape|over values that"),
        (lambda x, net: x[:, net.places, net.places], "getitem indexes by more than one list"),
        (lambda x, net: x.mean() * x.mean().item() * x, "its graph can't be traced"),
        (
            lambda x, net: F.batch_norm(x, net.bn.running_mean, net.bn.running_var, training=True),
            "normalises by the image's own statistics",
        ),
    ],
)
def test_an_operation_between_layers_that_is_not_supported_is_named(
    call: Callable[[Tensor, Any], Tensor], message: str
) -> None:
    with pytest.raises(UserError, match=f"Between can't be run privately: .*{message}"):
        lowered(between(call))
