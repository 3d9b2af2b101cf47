"""Costs of networks, each collapsed as its preset makes it cheapest."""

from __future__ import annotations

import torch

from deepreduce.cost.builtin import CHEETAH
from deepreduce.cost.link import LINKS
from deepreduce.cost.model import CostModel, Phase
from deepreduce.cost.preset import Preset, preset_named
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, collapse, cull_plan
from deepreduce.transforms.collapse.choose import macs
from deepreduce.transforms.collapse.costs import collapse_cost, cost_estimator, estimate_costs, no_estimates


def resnet18() -> Network:
    spec = resolve_spec("resnet18", width=16)
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


def padded_once(network: Network) -> Network:
    """Without ReLUs in S1, padded so that the stem and S1 can collapse exactly."""
    return apply_plan(network, cull_plan(network, ["S1"]).merge(ReductionPlan(pad_once=True)))


def test_a_network_costs_what_its_cheapest_collapse_costs() -> None:
    network = resnet18()
    delphi = preset_named("delphi-lan")
    whole, reduced = (estimate_costs(n, [delphi])["delphi-lan"] for n in (network, padded_once(network)))
    assert reduced.online_bytes < whole.online_bytes
    assert reduced.latency < whole.latency
    # 21 layers, of which the stem and S1 are one where a layer costs a second
    model = CostModel(name="layers", source="test", online=Phase(seconds={"multiplying_layers": 1.0}))
    preset = Preset(model=model, link=delphi.link)
    latencies = [estimate_costs(n, [preset])["layers-lan"].latency for n in (network, padded_once(network))]
    assert latencies == [21, 17]


def test_each_preset_has_its_own_estimate_and_no_preset_none() -> None:
    network = padded_once(resnet18())
    presets = [preset_named(name) for name in ("cheetah-lan", "delphi-wan")]
    together = cost_estimator(presets)(network)
    assert list(together) == ["cheetah-lan", "delphi-wan"]
    assert together == {preset.name: estimate_costs(network, [preset])[preset.name] for preset in presets}
    assert cost_estimator([])(network) == no_estimates(network) == {}


def test_a_protocol_without_a_model_collapses_by_multiply_accumulates() -> None:
    (layer, *_) = layers_of(resnet18())
    assert collapse_cost("aby3", LINKS["lan"]) is macs and macs(layer) == layer.macs
    assert collapse_cost("cheetah", LINKS["wan"])(layer) == CHEETAH.latency_of(LINKS["wan"])(layer)


def test_estimating_leaves_the_network_as_it_is() -> None:
    network = padded_once(resnet18())
    before = [str(node) for node in network.module.graph.nodes]
    estimate_costs(network, [preset_named("cheetah-lan")])
    assert [str(node) for node in network.module.graph.nodes] == before
    assert all(p.device == torch.device("meta") for p in collapse(network).network.module.parameters())
