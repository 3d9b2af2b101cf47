"""Following a module's graph: its sites, their names, stages and blocks, and what can't be followed."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.errors import ModelError, NetworkTraceError
from deepreduce.models import build_model, default_input_size, resolve_spec
from deepreduce.network import trace_network
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


def test_a_graph_that_depends_on_data_is_an_error_with_its_line_and_the_way_out() -> None:
    with pytest.raises(NetworkTraceError) as caught:
        trace_network(zoo.Untraceable(), (3, 8, 8))
    message = str(caught.value)
    assert "zoo.py:" in message and "if x.mean() > 0:" in message
    assert "torch.fx.wrap" in message
    assert "\n" not in message


def test_modes_of_the_network_stay_as_they_were_even_frozen_batch_norms() -> None:
    module = zoo.OwnDevice().train()
    module.bn.eval()
    trace_network(module, (3, 8, 8))
    assert module.training and not module.bn.training
    with pytest.raises(ModelError):
        trace_network(module, (5, 8, 8))
    assert module.training and not module.bn.training


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


@pytest.mark.parametrize("name", ["vit_h_14", "inception_v3", "resnet18", "regnet_y_400mf"])
def test_torchvisions_networks_take_their_default_input_size(name: str) -> None:
    spec = resolve_spec(f"torchvision:{name}")
    size = default_input_size(spec)
    network = trace_network(build_model(spec, device="meta"), (3, size, size), spec=spec)
    assert network.output_shape == (1000,)
