"""Channel masks compute y = m * relu(z) + (1 - m) * z for whole channels, and refuse what has no channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, ChannelMask, SiteAction
from deepreduce.transforms import apply_plan, normalise_plan
from tests.helpers.zoo import CLASSES, TOYS, Capped, SharedModule, conv


def masked(network: Network, **actions: SiteAction) -> Network:
    return apply_plan(network, ReductionPlan(sites=tuple(actions.items())))


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


FIRST, SECOND = torch.tensor([True, False, True, False]), torch.tensor([False, False, False, True])


def formula(m: Tensor, z: Tensor, relu: nn.Module | None = None) -> Tensor:
    """z (batch, 4, H, W)."""
    m = m.float().view(1, 4, 1, 1)
    return m * (F.relu(z) if relu is None else relu(z)) + (1 - m) * z


def test_a_module_that_is_called_twice_is_two_sites_with_masks_of_their_own() -> None:
    torch.manual_seed(0)
    module = SharedModule().eval()
    network = trace_network(module, (3, 8, 8))
    reduced = masked(network, **{"relu": ChannelMask.of(FIRST), "relu#2": ChannelMask.of(SECOND)})
    assert [site.relu_count for site in reduced.sites] == [2 * 64, 64]
    with torch.no_grad():
        x = formula(SECOND, module.conv2(formula(FIRST, module.conv1(images()))))
        assert torch.equal(reduced.as_module().eval()(images()), module.fc(x.mean(dim=(2, 3))))


def test_a_relu6_keeps_its_cap_and_a_channel_without_it_has_none() -> None:
    torch.manual_seed(0)
    module = Capped().eval()
    with torch.no_grad():
        module.conv1.weight.mul_(20)  # so that the cap matters
    reduced = masked(trace_network(module, (3, 8, 8)), relu=ChannelMask.of(FIRST))
    assert [(site.kind, site.cap) for site in reduced.sites] == [("relu6", 6.0)] * 2
    with torch.no_grad():
        z = module.conv1(images())
        assert bool((z > 6).any())
        x = F.relu6(module.conv2(formula(FIRST, z, nn.ReLU6())))
        assert torch.equal(reduced.as_module().eval()(images()), module.fc(x.mean(dim=(2, 3))))


class OtherCap(nn.Module):
    """A cap that is not 6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (50 * self.conv(x)).clamp(0, 2.5).mean((2, 3))


def test_any_cap_is_kept() -> None:
    torch.manual_seed(0)
    module = OtherCap().eval()
    network = trace_network(module, (3, 8, 8))
    (site,) = network.sites
    assert site.cap == 2.5
    with torch.no_grad():
        expected = formula(FIRST, 50 * module.conv(images()), nn.Hardtanh(0, 2.5)).mean((2, 3))
        assert torch.equal(masked(network, **{site.name: ChannelMask.of(FIRST)}).as_module()(images()), expected)


class Perceptron(nn.Module):
    """Features (4,) of an image, a feature map, and tokens (4, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = conv(3, 4), nn.Linear(4 * 64, 4), nn.Linear(4, 5)
        self.last = nn.Linear(20, CLASSES)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.fc1(self.conv(x).flatten(1)))
        tokens = self.relu2(self.fc2(x)[:, None].expand(-1, 4, -1))
        return self.last(tokens.flatten(1))


def test_features_are_channels_of_one_element() -> None:
    torch.manual_seed(0)
    module = Perceptron().eval()
    network = trace_network(module, (3, 8, 8))
    reduced = masked(network, relu1=ChannelMask.of(FIRST))
    assert [site.relu_count for site in reduced.sites] == [2, 20]
    with torch.no_grad():
        z = module.fc1(module.conv(images()).flatten(1))
        x = torch.where(FIRST, F.relu(z), z)
        expected = module.last(F.relu(module.fc2(x)[:, None].expand(-1, 4, -1)).flatten(1))
        assert torch.equal(reduced.as_module().eval()(images()), expected)


def test_a_site_without_channels_is_refused() -> None:
    network = trace_network(Perceptron(), (3, 8, 8))
    with pytest.raises(
        PlanError, match=r"'relu2': a channel_mask is for outputs \(C, H, W\) or \(C,\) .*is \(4, 5\)$"
    ):
        masked(network, relu2=ChannelMask.of(FIRST))


class Folded(nn.Module):
    """Its ReLU sees parts of the image as if they were a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = conv(3, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.relu(x.reshape(-1, 2, 8, 8)).reshape(x.shape).mean((2, 3))


def test_a_site_without_a_batch_dimension_is_refused() -> None:
    network = trace_network(Folded(), (3, 8, 8))
    assert [(site.shape, site.has_batch) for site in network.sites] == [((2, 2, 8, 8), False)]
    with pytest.raises(PlanError, match=r"this one's is \(2, 2, 8, 8\) without a batch dimension"):
        masked(network, relu=ChannelMask.of([True, False]))
    assert masked(network, relu=IDENTITY).relu_count == 0


def test_a_mask_of_another_size_is_refused_with_both_shapes() -> None:
    network = TOYS["basic"].network()
    with pytest.raises(PlanError, match=r"'relu' is of shape \(4, 8, 8\) .* its channel_mask of \(3,\); .*\(4,\)"):
        masked(network, relu=ChannelMask.of([True, False, True]))


def test_a_mask_of_everything_is_no_action_and_one_of_nothing_the_identity() -> None:
    network = TOYS["basic"].network()
    everything, nothing = (ReductionPlan(sites=(("relu", ChannelMask.of([kept] * 4)),)) for kept in (True, False))
    assert normalise_plan(network, everything) == ReductionPlan()
    assert normalise_plan(network, nothing) == ReductionPlan(sites=(("relu", IDENTITY),))
    assert apply_plan(network, nothing).sites == apply_plan(network, normalise_plan(network, nothing)).sites
    with pytest.raises(PlanError, match="is already what"):
        apply_plan(network, everything)
