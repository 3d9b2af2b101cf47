"""Figures of a run are those of whole queries, though its layers vary."""

from __future__ import annotations

import dataclasses
import json

import pytest

from deepreduce.cost.link import LINKS, Link
from deepreduce.errors import UserError
from deepreduce.private.result import OverLink, Spread, cost_of_run
from tests.helpers.private_runs import REFILL, answer, run_of

SLOW = Link(name="slow", bits_per_second=20e6, round_trip_s=30e-3)


def test_seconds_over_a_link_are_those_of_whole_queries() -> None:
    found = run_of([answer(2.0, None), answer(9.0, None), answer(3.0, 1)])
    wan = [
        seconds + 8 * 8_000 * (25 + refill) / 400e6 + 49 * 0.02
        for seconds, refill in ((2.0, 0), (9.0, 0), (3.0, REFILL))
    ]
    assert found.seconds_over(LINKS["wan"]) == pytest.approx(sorted(wan)[1])


def test_an_image_has_an_equal_part_of_a_query_in_every_figure() -> None:
    one = run_of([answer(2.0, None), answer(4.0, None)])
    four = dataclasses.replace(one, batch=4)
    assert one.to_json()["per_image"] == {"seconds": 3.0, "bytes": one.bytes}
    assert four.to_json()["per_image"] == {"seconds": 0.75, "bytes": one.bytes / 4}
    text = four.to_text(LINKS["wan"])
    assert "a query of 4 images over loopback: 3.000 s" in text and "image" in one.to_text(LINKS["wan"])
    assert f"an image's part of it: 0.750 s, {one.bytes / 4:,.0f} bytes" in text
    assert f"({four.seconds_over(LINKS['wan']) / 4:.3f} s an image)" in text
    assert all(row.endswith(",4") for row in four.to_csv().splitlines()[1:])
    costs = [cost_of_run(run.to_json(), LINKS["wan"]) for run in (one, four)]
    assert costs[0].divided(4).latency == pytest.approx(costs[1].latency)
    assert costs[0].bytes == pytest.approx(4 * costs[1].bytes) and costs[0].rounds == pytest.approx(
        4 * costs[1].rounds
    )
    for wrong in (0, "4", True, None):
        with pytest.raises(UserError, match=r"its batch is .*, which is no number of images"):
            cost_of_run({**one.to_json(), "batch": wrong}, LINKS["wan"])
    earlier = {key: value for key, value in one.to_json().items() if key != "batch"}
    assert cost_of_run(earlier, LINKS["wan"]) == costs[0]


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
