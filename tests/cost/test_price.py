"""What an image costs, told apart by kinds of layers: against the estimate, which adds the same up otherwise."""

from __future__ import annotations

import json
from functools import cache

import pytest

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.layers import Layer
from deepreduce.cost.link import LINKS, Link
from deepreduce.cost.model import CostModel, Phase
from deepreduce.cost.price import LINEAR_LAYERS, OTHER_LAYERS, RELU_LAYERS, CostEstimate, Share
from deepreduce.errors import UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.network.cost_layers import layers_of
from tests.helpers.report_examples import random_price


@cache
def layers_of_named(name: str) -> list[Layer]:
    spec = resolve_spec(name)
    return list(layers_of(trace_network(build_model(spec, device="meta"), (3, 64, 64), spec=spec)))


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v2"])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_its_parts_add_up_to_the_estimate(name: str, link: Link, model: CostModel) -> None:
    layers = layers_of_named(name)
    price, estimate = model.price(layers, link), model.estimate(layers)
    assert price.latency == pytest.approx(estimate.latency(link))
    assert price.rounds == pytest.approx(estimate.rounds)
    assert (price.online_bytes, price.offline_bytes) == pytest.approx((estimate.online_bytes, estimate.offline_bytes))
    assert price.offline_seconds == pytest.approx(estimate.offline_seconds)
    assert price.bytes == pytest.approx(price.online_bytes + price.offline_bytes)
    assert price.latency == pytest.approx(sum(share.seconds for share in price.shares))


def test_each_kind_of_layer_has_its_own_share() -> None:
    rates = {"comparisons": 1e-3, "macs": 1e-9, "query": 7.0}
    model = CostModel(name="toy", source="test", online=Phase(seconds=rates))
    layers = layers_of_named("resnet20")
    shares = {share.kind: share.compute_seconds for share in model.price(layers, LINKS["loopback"]).shares}
    spec = resolve_spec("resnet20")
    network = trace_network(build_model(spec, device="meta"), (3, 64, 64), spec=spec)
    assert shares == {
        RELU_LAYERS: pytest.approx(1e-3 * network.relu_count),
        LINEAR_LAYERS: pytest.approx(1e-9 * network.macs),
        OTHER_LAYERS: 7.0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_price_reads_back_as_it_was(seed: int) -> None:
    price = random_price(seed)
    assert CostEstimate.from_json(json.loads(json.dumps(price.to_json()))) == price


@pytest.mark.parametrize("value", [{}, {"ReLU": {}}, {"ReLU": 1, "linear": 2, "other": 3}, [], None])
def test_what_is_no_price_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="this is no price"):
        CostEstimate.from_json(value)  # type: ignore[arg-type]


def test_parts_of_one_kind_become_one() -> None:
    parts = [
        Share(kind=LINEAR_LAYERS, compute_seconds=1.0),
        Share(kind=LINEAR_LAYERS, compute_seconds=2.0, rounds=1.0),
    ]
    found = {share.kind: share for share in CostEstimate.of(parts).shares}
    assert found[LINEAR_LAYERS] == Share(kind=LINEAR_LAYERS, compute_seconds=3.0, rounds=1.0)
    assert found[RELU_LAYERS] == Share(kind=RELU_LAYERS)
