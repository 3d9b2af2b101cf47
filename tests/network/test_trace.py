"""Following a module's graph: its sites, their names, stages and blocks, and what can't be followed."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.errors import ModelError, NetworkTraceError, PlanError
from deepreduce.models import build_model, default_input_size, resolve_spec
from deepreduce.network import ReluSite, trace_network
from tests.helpers import zoo
from tests.helpers.zoo import TOYS


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_reports_its_other_non_linearities_by_name_and_count(name: str) -> None:
    network = TOYS[name].network()
    assert dict(network.unsupported) == dict(TOYS[name].unsupported)
    assert network.unsupported_elements.keys() == network.unsupported.keys()


@pytest.mark.parametrize("name", TOYS)
def test_the_traced_module_computes_what_the_original_does(name: str) -> None:
    torch.manual_seed(0)
    module = TOYS[name].build().eval()
    network = trace_network(module, TOYS[name].input_shape)
    images = torch.randn(2, *TOYS[name].input_shape)
    with torch.no_grad():
        assert torch.equal(network.as_module()(images), module(images))
    assert network.output_shape == (zoo.CLASSES,)


def test_a_module_called_twice_is_two_sites_of_one_name() -> None:
    assert [site.name for site in TOYS["shared module"].network().sites] == ["relu", "relu#2"]


def test_sites_are_named_by_module_or_by_caller_and_function() -> None:
    assert [site.name for site in TOYS["functional"].network().sites] == ["relu", "relu#2", "clamp"]
    assert [site.name for site in TOYS["in-place"].network().sites] == ["relu", "relu#2", "relu#3", "relu#4"]
    assert [site.name for site in TOYS["basic"].network().sites[:3]] == ["relu", "blocks.0.relu1", "blocks.0.relu2"]


@pytest.mark.parametrize("name", TOYS)
def test_names_are_unique_and_counts_are_of_shapes(name: str) -> None:
    sites = TOYS[name].network().sites
    assert len({site.name for site in sites}) == len({site.node for site in sites}) == len(sites)
    assert all(site.relu_count == math.prod(site.shape) for site in sites)


def test_a_cap_is_told_from_a_plain_relu() -> None:
    assert {site.kind for site in TOYS["capped"].network().sites} == {"relu6"}
    assert {site.kind for site in TOYS["functional"].network().sites} == {"relu"}


def test_blocks_are_the_modules_in_which_branches_meet() -> None:
    for name, relus_per_block in (("basic", 2), ("bottleneck", 3), ("inverted", 2), ("pre-activation", 2)):
        blocks = [site.block for site in TOYS[name].network().sites]
        assert blocks[0] is None  # the stem
        assert blocks[1:] == [f"blocks.{index}" for index in range(4) for _ in range(relus_per_block)]
    assert {site.block for site in TOYS["chain"].network().sites} == {None}


class Gated(nn.Module):
    """A chain that multiplies by a weight: no branches meet in it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(x * self.scale)
        return x


def test_a_product_with_a_weight_is_no_join_of_branches() -> None:
    network = trace_network(nn.Sequential(Gated(), nn.Flatten()), (3, 4, 4))
    assert [site.block for site in network.sites] == [None, None, None]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: torch.clamp(x, 0), "relu"),
        (lambda x: x.clamp(min=0, max=6), "relu6"),
        (lambda x: F.hardtanh(x, 0.0, 1.0), "relu6"),
        (lambda x: F.threshold(x, 0, 0), "relu"),
        (lambda x: nn.functional.relu6(x, inplace=True), "relu6"),
    ],
)
def test_what_computes_a_relu_is_a_site(function: object, kind: str) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)  # type: ignore[operator, no-any-return]

    (site,) = trace_network(Module(), (3, 4, 4)).sites
    assert (site.kind, site.relu_count) == (kind, 3 * 4 * 4)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.clamp(max=0), "clamp"),
        (lambda x: x.clamp(min=torch.zeros(())), "clamp"),
        (lambda x: x.clamp(-1, 1), "clamp"),
        (lambda x: torch.maximum(x, 2 * x), "max"),
        (lambda x: F.softsign(x), "abs"),
        (lambda x: torch.log1p(x), "log1p"),
        (lambda x: torch.erfinv(x), "erfinv"),
        (lambda x: x.std(dim=1), "std"),
        (lambda x: 1 / x, "reciprocal"),
    ],
)
def test_what_is_neither_relu_nor_linear_is_reported(function: object, name: str) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)  # type: ignore[operator, no-any-return]

    network = trace_network(Module(), (3, 4, 4))
    assert network.sites == ()
    assert name in network.unsupported


def test_linear_operations_are_not_reported() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(x, (1, 1, 1, 1)).flip(3).roll(1, 2).transpose(2, 3).contiguous()
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0) - x.mean() + x[:, :1].expand(-1, 3, -1, -1)
            a, b, c = x.chunk(3, dim=1)  # older versions of torch.fx don't follow cat of a call's result
            return torch.cat([a, b, c], dim=2).flatten(1) * 0.5

    assert dict(trace_network(Module(), (3, 4, 4)).unsupported) == {}


def test_a_graph_that_depends_on_data_is_an_error_with_its_line_and_the_way_out() -> None:
    with pytest.raises(NetworkTraceError) as caught:
        trace_network(zoo.Untraceable(), (3, 8, 8))
    message = str(caught.value)
    assert "zoo.py:" in message and "if x.mean() > 0:" in message
    assert "torch.fx.wrap" in message
    assert "\n" not in message


def test_an_input_that_does_not_fit_is_an_error_with_its_size() -> None:
    with pytest.raises(ModelError, match=r"can't take an image of 5x8x8 .*give another input size"):
        trace_network(TOYS["basic"].build(), (5, 8, 8))


def test_a_network_of_two_inputs_is_an_error_with_their_names() -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            return F.relu(image * mask)

    with pytest.raises(ModelError, match=r"takes 2 inputs \(image, mask\)"):
        trace_network(Two(), (3, 8, 8))


def test_modes_of_the_network_stay_as_they_were_even_frozen_batch_norms() -> None:
    module = zoo.OwnDevice().train()
    module.bn.eval()
    trace_network(module, (3, 8, 8))
    assert module.training and not module.bn.training
    with pytest.raises(ModelError):
        trace_network(module, (5, 8, 8))
    assert module.training and not module.bn.training


def test_a_network_that_insists_on_its_device_keeps_its_running_statistics() -> None:
    module = zoo.OwnDevice().train()
    trace_network(module, (3, 8, 8))
    assert torch.equal(module.bn.running_mean, torch.zeros(4))
    assert module.bn.num_batches_tracked == 0


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(input=x, p=0.5, training=self.training)
        return F.relu(F.dropout3d(x, 0.5, self.training))


def test_functional_dropout_follows_train_and_eval() -> None:
    network = trace_network(Dropping().eval(), (3, 8, 8)).as_module()
    images = torch.ones(2, 3, 8, 8)
    assert torch.equal(network(images), images)
    network.train()
    assert not torch.equal(network(images), images)


class Tutorial(nn.Module):
    """As many a tutorial has it: a view, which images that are laid out channels-last would break."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).view(-1, 4 * 64))


def test_a_network_that_takes_a_view_is_trained_channels_last_too() -> None:
    module = Tutorial()
    network = trace_network(module, (3, 8, 8)).as_module().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(2, 3, 8, 8)
    logits = network(images.contiguous(memory_format=torch.channels_last))
    logits.sum().backward()
    torch.testing.assert_close(logits, module.to(memory_format=torch.contiguous_format)(images.contiguous()))


def test_a_network_in_training_is_traced_in_training() -> None:
    images = torch.ones(2, 3, 8, 8)
    assert not torch.equal(trace_network(Dropping().train(), (3, 8, 8)).as_module()(images), images)


def test_an_unknown_stage_or_site_is_an_error_with_the_nearest() -> None:
    network = TOYS["basic"].network()
    with pytest.raises(PlanError, match=r"unknown stage 'S3'; .*known: S1, S2"):
        network.sites_of("S3")
    with pytest.raises(PlanError, match=r"did you mean 'blocks.0.relu1'"):
        network.site("block.0.relu1")
    assert isinstance(network.site("relu"), ReluSite)


def test_a_squeezed_map_beside_larger_ones_starts_no_stage() -> None:
    spec = resolve_spec("torchvision:mobilenet_v3_small")
    network = trace_network(build_model(spec, device="meta"), (3, 224, 224), spec=spec)
    gates = [site for site in network.sites if site.shape[1:] == (1, 1)]
    assert gates
    assert {site.stage for site in network.sites} == {"S1", "S2", "S3"}


@pytest.mark.parametrize("name", ["vit_h_14", "inception_v3", "resnet18", "regnet_y_400mf"])
def test_torchvisions_networks_take_their_default_input_size(name: str) -> None:
    spec = resolve_spec(f"torchvision:{name}")
    size = default_input_size(spec)
    network = trace_network(build_model(spec, device="meta"), (3, size, size), spec=spec)
    assert network.output_shape == (1000,)
