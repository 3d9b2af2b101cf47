"""A cost model adds up layers, linearly, and what a query costs once."""

from __future__ import annotations

import json

import pytest

from deepreduce.cost.link import LINKS
from deepreduce.cost.model import CostModel, Phase
from deepreduce.errors import UserError
from tests.cost.test_fit import RELUS, TRUTH, WIDE, relu


def test_latency_adds_computing_bytes_and_one_way_delays() -> None:
    cost = TRUTH.online.total([relu(8, 32)])
    assert cost.messages == 41
    expected = 0.5 + 8_192 * 2e-5 + 0.01 + 8 * (8_192 * 77 + 160) / 400e6 + 41 * 0.02
    assert cost.latency(LINKS["wan"]) == pytest.approx(expected)
    assert cost.latency(LINKS["loopback"]) == cost.seconds


def test_layers_add_up_to_the_network_but_for_what_a_query_costs_once() -> None:
    layers = WIDE + RELUS
    latency = TRUTH.latency_of(LINKS["lan"])
    once, whole = TRUTH.online.once, TRUTH.online.total(layers)
    assert sum(map(latency, layers)) + once.latency(LINKS["lan"]) == pytest.approx(whole.latency(LINKS["lan"]))


def test_a_model_survives_json_and_what_is_none_is_refused() -> None:
    again = CostModel.from_json(json.loads(json.dumps(TRUTH.to_json())))
    assert again == TRUTH
    with pytest.raises(UserError, match="no cost model"):
        CostModel.from_json({"name": "x"})
    with pytest.raises(UserError, match="unknown feature of a cost model 'relus'"):
        Phase(seconds={"relus": 1.0})
    with pytest.raises(UserError, match="not negative"):
        Phase(bytes={"macs": -1.0})
