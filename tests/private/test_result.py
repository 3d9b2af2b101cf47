"""What is told of several queries: each counts as a whole, though its layers vary."""

from __future__ import annotations

import csv
import io

import pytest

from deepreduce.cost.link import LINKS, Link
from deepreduce.private.result import OverLink, Spread
from tests.helpers.private_runs import REFILL, answer, run_of


def test_seconds_over_a_link_are_those_of_whole_queries() -> None:
    found = run_of([answer(2.0, None), answer(9.0, None), answer(3.0, 1)])
    wan = [
        seconds + 8 * 8_000 * (25 + refill) / 400e6 + 49 * 0.02
        for seconds, refill in ((2.0, 0), (9.0, 0), (3.0, REFILL))
    ]
    assert found.seconds_over(LINKS["wan"]) == pytest.approx(sorted(wan)[1])


def test_every_row_of_the_table_says_under_which_protocol_it_was_measured() -> None:
    rows = list(csv.DictReader(io.StringIO(run_of([answer(1.0, None)]).to_csv())))
    assert [row["name"] for row in rows] == ["conv", "relu1", "relu2", "logits"]
    assert {row["protocol"] for row in rows} == {"cheetah (two parties, no dealer)"}


def test_delays_are_added_where_the_kernel_has_none() -> None:
    link = Link(name="slow", bits_per_second=20e6, round_trip_s=30e-3)
    seconds = Spread(median=2.0, low=1.5, high=3.0, count=5)
    without, with_delays = (OverLink(link=link, delays=delays, seconds=seconds) for delays in (False, True))
    assert without.total(100) == 2.0 + 100 * 0.015
    assert with_delays.total(100) == 2.0
    assert "computed because the kernel has no netem: 3.500 s" in without.to_text(100)
    assert "computed" not in with_delays.to_text(100)
