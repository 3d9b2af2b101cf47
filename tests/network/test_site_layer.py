"""A site layer is a ReLU site: whole in every graph, counted by its action, and what else it computes is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import ReluSite, analyze_network, trace_network
from deepreduce.network.inplace import is_inplace
from deepreduce.network.linear_ops import linear_ops
from deepreduce.network.site_layer import SiteLayer, site_layer_of
from deepreduce.sites import SiteAction
from tests.helpers.zoo import conv

SITE = ReluSite(name="act", stage="S1", block=None, shape=(4, 8, 8), relu_count=256, kind="relu", node="act")


@dataclass(frozen=True)
class Sigmoid(SiteAction):
    """No action that is registered."""

    kind: ClassVar[str] = "sigmoid"

    def relu_count(self, site: ReluSite) -> int:
        """Return a quarter, whatever that means."""
        return site.elements // 4


class Odd(SiteLayer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, F.relu(x), torch.sigmoid(x))


def network_of(layer: nn.Module) -> nn.Module:
    return nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), layer, nn.Flatten(), nn.LazyLinear(3))


def built(layer: nn.Module) -> nn.Module:
    module = network_of(layer).eval()
    with torch.no_grad():
        module(torch.zeros(1, 3, 8, 8))
    return module


def test_tracing_keeps_it_whole_and_its_action_counts() -> None:
    network = trace_network(built(Odd(Sigmoid(), SITE)), (3, 8, 8))
    assert [(site.name, site.relu_count) for site in network.sites] == [("1", 256), ("act", 64)]
    assert network.relu_count == 256 + 64 == analyze_network(network).relu_count
    layers = [site_layer_of(node, network.module) for node in network.module.graph.nodes]
    assert [layer.site_name for layer in layers if layer is not None] == ["act"]


def test_what_it_computes_besides_is_reported_as_elsewhere() -> None:
    network = trace_network(built(Odd(Sigmoid(), SITE)), (3, 8, 8))
    assert network.unsupported == {"comparison": 1, "sigmoid": 1}
    assert network.unsupported_elements == {"comparison": 256, "sigmoid": 256}


def test_a_table_of_the_analysis_says_what_stands_there() -> None:
    report = analyze_network(trace_network(built(Odd(Sigmoid(), SITE)), (3, 8, 8)))
    assert [cost.action for cost in report.sites] == ["", "sigmoid"]
    assert "4x8x8, sigmoid" in report.to_text() and "4x8x8, sigmoid" in report._repr_html_()
    whole, acted = report.to_json()["sites"]
    assert "action" not in whole and acted["action"] == "sigmoid"


def test_it_is_not_linear_and_overwrites_where_it_says_so() -> None:
    for inplace in (False, True):
        network = trace_network(built(Odd(Sigmoid(), SITE, inplace=inplace)), (3, 8, 8))
        (node,) = (n for n in network.module.graph.nodes if site_layer_of(n, network.module) is not None)
        assert is_inplace(node, network.module) is inplace
        assert node.name not in linear_ops(network)
        assert ("inplace=True" in repr(network.module.get_submodule(str(node.target)))) is inplace
