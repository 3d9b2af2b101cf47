"""The cost of an image by kinds of layers, against its phases' totals, which add the same up in another way."""

from __future__ import annotations

import json
from functools import cache

import pytest

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.estimate import LINEAR_LAYERS, OTHER_LAYERS, RELU_LAYERS, CostEstimate, Share
from deepreduce.cost.layers import Layer
from deepreduce.cost.link import LINKS, Link
from deepreduce.cost.model import CostModel, Phase
from deepreduce.errors import UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.network.cost_layers import layers_of
from tests.helpers.report_examples import random_estimate


@cache
def layers_of_named(name: str) -> list[Layer]:
    spec = resolve_spec(name)
    return list(layers_of(trace_network(build_model(spec, device="meta"), (3, 64, 64), spec=spec)))


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v2"])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_shares_add_up_to_the_totals_of_the_phases(name: str, link: Link, model: CostModel) -> None:
    layers = layers_of_named(name)
    found, online, offline = model.estimate(layers, link), model.online.total(layers), model.offline.total(layers)
    assert found.latency == pytest.approx(online.latency(link))
    assert found.rounds == pytest.approx(online.messages / 2)
    assert (found.online_bytes, found.offline_bytes) == pytest.approx((online.bytes, offline.bytes))
    assert found.offline_seconds == pytest.approx(offline.seconds)
    assert found.bytes == pytest.approx(found.online_bytes + found.offline_bytes)
    assert found.latency == pytest.approx(sum(share.seconds for share in found.shares))


def test_each_kind_of_layer_has_its_own_share() -> None:
    rates = {"comparisons": 1e-3, "macs": 1e-9, "query": 7.0}
    model = CostModel(name="toy", source="test", online=Phase(seconds=rates))
    layers = layers_of_named("resnet20")
    shares = {share.kind: share.compute_seconds for share in model.estimate(layers, LINKS["loopback"]).shares}
    spec = resolve_spec("resnet20")
    network = trace_network(build_model(spec, device="meta"), (3, 64, 64), spec=spec)
    assert shares == {
        RELU_LAYERS: pytest.approx(1e-3 * network.relu_count),
        LINEAR_LAYERS: pytest.approx(1e-9 * network.macs),
        OTHER_LAYERS: 7.0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_an_estimate_reads_back_as_it_was(seed: int) -> None:
    estimate = random_estimate(seed)
    assert CostEstimate.from_json(json.loads(json.dumps(estimate.to_json()))) == estimate


@pytest.mark.parametrize("value", [{}, {"ReLU": {}}, {"ReLU": 1, "linear": 2, "other": 3}, [], None])
def test_what_is_no_estimate_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="this is no cost estimate"):
        CostEstimate.from_json(value)  # type: ignore[arg-type]


def test_parts_of_one_kind_become_one() -> None:
    parts = [
        Share(kind=LINEAR_LAYERS, compute_seconds=1.0),
        Share(kind=LINEAR_LAYERS, compute_seconds=2.0, rounds=1.0),
    ]
    found = {share.kind: share for share in CostEstimate.of(parts).shares}
    assert found[LINEAR_LAYERS] == Share(kind=LINEAR_LAYERS, compute_seconds=3.0, rounds=1.0)
    assert found[RELU_LAYERS] == Share(kind=RELU_LAYERS)
