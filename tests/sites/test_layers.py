"""Masked layers keep activations in their memory format, overwrite where they must, and have ReLU's gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, ReluSite, trace_network
from deepreduce.sites import KEEP, ChannelMask, PixelMask, SiteAction
from deepreduce.sites.layers import Fading, MaskedRelu, select
from deepreduce.transforms import apply_plan
from tests.helpers.actions import random_plan

SITE = ReluSite(name="relu", stage="S1", block=None, shape=(4, 6, 5), relu_count=120, kind="relu", node="relu")
PIXELS = torch.rand(4, 6, 5, generator=torch.Generator().manual_seed(0)) > 0.5
ACTIONS: list[SiteAction] = [ChannelMask.of([True, False, True, False]), PixelMask.of(PIXELS)]
FORMATS = (torch.contiguous_format, torch.channels_last)


def activations(memory_format: torch.memory_format, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.kind)
def test_activations_stay_in_their_memory_format(
    action: SiteAction, converted: bool, memory_format: torch.memory_format
) -> None:
    layer = action.layer(SITE, inplace=False)
    if converted:
        layer.to(memory_format=memory_format)  # type: ignore[call-overload]
    x = activations(memory_format, 3, 4, 6, 5).requires_grad_()
    y = layer(x)
    assert y.is_contiguous(memory_format=memory_format)
    y.sum().backward()
    assert x.grad is not None and x.grad.is_contiguous(memory_format=memory_format)


def masked_resnet(kind: str) -> Network:
    spec = resolve_spec("resnet18", num_classes=10, width=4)
    network = trace_network(build_model(spec), (3, 16, 16), spec=spec)
    return apply_plan(network, random_plan(network, kind, 0))


@pytest.mark.parametrize("kind", ["channel_mask", "pixel_mask"])
def test_a_masked_network_that_is_trained_channels_last_stays_so_to_its_end(kind: str) -> None:
    module = masked_resnet(kind).as_module().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made: list[Tensor] = []
    layers = [layer for layer in module.modules() if isinstance(layer, MaskedRelu)]
    for layer in layers:
        layer.register_forward_hook(lambda _, given, y: made.append(y))
    module(activations(torch.channels_last, 2, 3, 16, 16)).sum().backward()
    assert len(made) == len(layers) > 5
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in made)


def masks() -> Iterator[tuple[Tensor, Tensor]]:
    for mask in (torch.tensor([True, False, True, False]).view(1, 4, 1, 1), PIXELS[None]):
        yield mask, mask.expand(3, 4, 6, 5)


def test_the_gradient_is_that_of_the_relu_where_it_is_kept_and_passes_elsewhere() -> None:
    for mask, wide in masks():
        x = activations(torch.contiguous_format, 3, 4, 6, 5)
        x[:, :, 0] = 0.0
        x.requires_grad_()
        weights = torch.randn(3, 4, 6, 5)
        (select(mask, F.relu(x), x) * weights).sum().backward()
        assert torch.equal(x.grad, torch.where(wide & (x <= 0), 0.0, weights))


def test_an_in_place_one_overwrites_its_input_and_trains() -> None:
    for action in ACTIONS:
        x = activations(torch.contiguous_format, 2, 4, 6, 5)
        expected = action.layer(SITE, inplace=False)(x.clone())
        assert not torch.equal(x, expected)
        found = action.layer(SITE, inplace=True)(x)
        assert found is x and torch.equal(x, expected)
        convolution = nn.Conv2d(4, 4, 1)
        z = convolution(activations(torch.contiguous_format, 2, 4, 6, 5))
        action.layer(SITE, inplace=True)(z).sum().backward()
        assert convolution.weight.grad is not None


def test_a_mask_is_no_weight_and_moves_with_its_module() -> None:
    layer = ACTIONS[1].layer(SITE, inplace=False)
    assert not layer.state_dict() and not list(layer.parameters())
    assert copy.deepcopy(layer).to("meta").mask.is_meta  # type: ignore[union-attr]
    assert layer.half().mask.dtype == torch.bool  # type: ignore[union-attr]


def test_all_but_the_kept_fade_and_those_that_had_no_relu_stay_without() -> None:
    kept, before = torch.tensor([True, False, False]), torch.tensor([True, True, False])
    layer = Fading(kept=kept.view(1, 3), before=before.view(1, 3), copies=False)
    x = torch.tensor([[-1.0, -1.0, -1.0], [2.0, 2.0, 2.0]])
    for share in (0.0, 0.25, 1.0):
        layer.share = share
        assert torch.equal(layer(x), torch.tensor([[0.0, -share, -1.0], [2.0, 2.0, 2.0]]))


def test_a_mask_that_begins_to_stand_is_the_relu_and_ends_as_the_mask() -> None:
    x = activations(torch.contiguous_format, 2, 4, 6, 5)
    for action in ACTIONS:
        layer = action.annealed(SITE, before=KEEP, copies=False)
        assert layer is not None and torch.equal(layer(x), F.relu(x))
        layer.share = 1.0
        assert torch.equal(layer(x), action.layer(SITE, inplace=False)(x))
        layer.share = 0.5
        assert torch.equal(layer(x)[:, 1] <= 0, x[:, 1] <= 0)


def test_a_layer_that_has_faded_away_gives_a_tensor_of_its_own_where_that_may_be_overwritten() -> None:
    x = torch.tensor([-1.0, 1.0])
    for copies in (False, True):
        layer = Fading(copies=copies)
        layer.share = 1.0
        assert (layer(x) is x) is not copies and torch.equal(layer(x), x)
