"""A fit finds rates that are there, keeps totals, and is judged on what it has not seen."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from operator import attrgetter

import pytest

from deepreduce.cost.fit import MeasuredLayer, MeasuredNetwork, fit_model, judge, median_error
from deepreduce.cost.layers import ADD, RELU, Layer
from deepreduce.cost.link import LINKS
from deepreduce.cost.model import Amounts, CostModel, Phase
from deepreduce.errors import UserError
from tests.cost.test_features import conv

TRUTH = CostModel(
    name="truth",
    source="made up",
    online=Phase(
        seconds={
            "multiplied": 2e-3, "rotated": 1e-3, "comparisons": 2e-5, "comparing_layers": 0.01, "other_layers": 1e-3,
            "query": 0.5,
        },
        bytes={"sent": 185_000, "returned": 280_000, "comparisons": 98.5, "query": 160},
        serial_bytes={"sent": 185_000, "returned": 280_000, "comparisons": 77, "query": 160},
        messages={"multiplying_layers": 6, "comparing_layers": 40, "query": 1},
    ),
)  # fmt: skip


def relu(channels: int, size: int) -> Layer:
    return Layer(name="relu", kind=RELU, in_shape=(channels, size, size), out_shape=(channels, size, size))


def network(name: str, layers: list[Layer], *, noise: float = 0.0, seed: int = 0) -> MeasuredNetwork:
    """What would be measured if TRUTH were so, up to a share of noise."""
    draws = random.Random(seed)

    def cost(model: CostModel, layer: Layer) -> MeasuredLayer:
        one = model.online.total([layer])
        return MeasuredLayer(
            layer=layer,
            cost=Amounts(
                seconds=(one.seconds - 0.5) * (1 + noise * draws.uniform(-1, 1)),
                bytes=one.bytes - 160,
                serial_bytes=one.serial_bytes - 160,
                messages=one.messages - 1,
            ),
        )

    measured = tuple(cost(TRUTH, layer) for layer in layers)
    query = Amounts(
        seconds=sum(one.cost.seconds for one in measured) + 0.5,
        bytes=sum(one.cost.bytes for one in measured) + 160,
        serial_bytes=sum(one.cost.serial_bytes for one in measured) + 160,
        messages=sum(one.cost.messages for one in measured) + 1,
    )
    return MeasuredNetwork(name=name, layers=measured, query=query)


AMOUNTS = [attrgetter("seconds"), attrgetter("bytes"), attrgetter("messages"), *(
    partial(Amounts.latency, link=link) for link in LINKS.values()
)]  # fmt: skip
"""What an estimate is judged by."""


WIDE = [
    conv(c, m, s, kernel=k)
    for c, m, s, k in (
        (3, 8, 32, 3),
        (8, 16, 32, 1),
        (16, 16, 32, 3),
        (32, 32, 16, 3),
        (64, 64, 8, 3),
        (128, 128, 4, 3),
        (3, 16, 32, 11),
    )
]
RELUS = [relu(c, s) for c, s in ((8, 32), (16, 16), (64, 8), (128, 4))]
ADDS = [Layer(name="add", kind=ADD, in_shape=(c, 8, 8), out_shape=(c, 8, 8)) for c in (8, 16)]
UNSEEN = [conv(24, 48, 12), relu(48, 12), conv(48, 24, 12, kernel=5), relu(24, 12), ADDS[0]]


def test_a_fit_without_noise_estimates_networks_it_has_not_seen() -> None:
    model = fit_model([network("seen", WIDE + RELUS + ADDS)], protocol="cheetah", name="mine", source="test")
    (verdict,) = judge(model, [network("unseen", UNSEEN)])
    assert all(abs(verdict.error(of)) < 0.01 for of in AMOUNTS)
    assert model.online.bytes["comparisons"] == pytest.approx(98.5)
    assert model.online.seconds["query"] == pytest.approx(0.5)


def test_a_fit_with_noise_keeps_the_total_of_what_was_measured() -> None:
    seen = network("seen", WIDE + RELUS + ADDS, noise=0.4)
    (verdict,) = judge(fit_model([seen], protocol="cheetah", name="mine", source="test"), [seen])
    assert abs(verdict.error(attrgetter("seconds"))) < 0.02


def test_the_median_error_is_that_of_the_middle_network() -> None:
    model = fit_model([network("seen", WIDE + RELUS + ADDS)], protocol="cheetah", name="mine", source="test")
    found = network("slow", UNSEEN)
    slow = replace(found, query=replace(found.query, seconds=2 * found.query.seconds))
    verdicts = judge(model, [network("a", UNSEEN), network("b", UNSEEN), slow])
    seconds = attrgetter("seconds")
    assert verdicts[2].error(seconds) == pytest.approx(-0.5, abs=0.01)
    assert median_error(verdicts, seconds) < 0.01 < median_error(verdicts[2:], seconds)
    # over a link the bytes and messages, which are as estimated, take part of the time
    assert -0.5 < verdicts[2].error(partial(Amounts.latency, link=LINKS["wan"])) < -0.3


def test_a_protocol_without_features_and_a_fit_to_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="no cost model for protocol 'gazelle'"):
        fit_model([network("seen", WIDE)], protocol="gazelle", name="mine", source="test")
    with pytest.raises(UserError, match="measure at least one network"):
        fit_model([], protocol="cheetah", name="mine", source="test")
