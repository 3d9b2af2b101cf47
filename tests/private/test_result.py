"""Figures of a run are those of whole queries, though its layers vary."""

from __future__ import annotations

import json

import pytest

from deepreduce.cost.link import LINKS, Link
from deepreduce.private.result import OverLink, Spread
from tests.helpers.private_runs import REFILL, answer, run_of

SLOW = Link(name="slow", bits_per_second=20e6, round_trip_s=30e-3)


def test_seconds_over_a_link_are_those_of_whole_queries() -> None:
    found = run_of([answer(2.0, None), answer(9.0, None), answer(3.0, 1)])
    wan = [
        seconds + 8 * 8_000 * (25 + refill) / 400e6 + 49 * 0.02
        for seconds, refill in ((2.0, 0), (9.0, 0), (3.0, REFILL))
    ]
    assert found.seconds_over(LINKS["wan"]) == pytest.approx(sorted(wan)[1])


def test_kinds_are_sums_over_their_layers_the_slowest_first() -> None:
    relu, convolution, reveal = run_of([answer(1.0, None)]).kinds
    assert (relu.kind, relu.layers, relu.messages) == ("relu", 2, 44)
    assert relu.seconds == pytest.approx(0.2)
    assert relu.bytes == 2 * (2 * 10 * 8_000)  # both parties, both layers
    assert {convolution.kind, reveal.kind} == {"convolution", "reveal"}


def test_computed_delays_are_added_only_where_the_kernel_adds_none() -> None:
    seconds = Spread.of([2.0, 1.5, 3.0])
    assert seconds == Spread(median=2.0, low=1.5, high=3.0, count=3)
    without, with_delays = (OverLink(link=SLOW, delays=delays, seconds=seconds) for delays in (False, True))
    assert without.total(100) == 2.0 + 100 * 0.015
    assert with_delays.total(100) == 2.0


def test_json_holds_the_run_in_plain_values() -> None:
    over_link = OverLink(link=SLOW, delays=True, seconds=Spread.of([4.0]))
    found = run_of([answer(1.0, None), answer(3.0, None)], over_link=over_link)
    value = json.loads(json.dumps(found.to_json()))
    assert (value["seconds"]["median"], value["messages"]) == (2.0, 49)
    assert value["bytes"] == found.bytes == sum(layer["bytes"] for layer in value["layers"])
    assert value["links"]["wan"]["seconds"] == found.seconds_over(LINKS["wan"]) and value["links"]["wan"]["computed"]
    assert value["over_link"]["total_seconds"] == 4.0
    assert run_of([answer(1.0, None)]).to_json()["over_link"] is None
