"""Tables say what was measured, what was computed, and under which protocol."""

from __future__ import annotations

import csv
import io

from deepreduce.cost.link import LINKS, Link
from deepreduce.private.result import OverLink, Spread
from tests.helpers.private_runs import REFILL, answer, run_of

SLOW = Link(name="slow", bits_per_second=20e6, round_trip_s=30e-3)
PROTOCOL = "cheetah (two parties, no dealer)"


def test_every_row_of_the_csv_table_says_under_which_protocol_it_was_measured() -> None:
    rows = list(csv.DictReader(io.StringIO(run_of([answer(1.0, None)]).to_csv())))
    assert [row["name"] for row in rows] == ["conv", "relu1", "relu2", "logits"]
    assert [(row["kind"], row["messages"], row["repeats"]) for row in rows][1] == ("relu", "22", "1")
    assert {row["protocol"] for row in rows} == {PROTOCOL}


def test_the_text_holds_every_layer_and_the_range_of_what_varies() -> None:
    text = run_of([answer(1.0, None), answer(2.0, 0), answer(3.0, None)]).to_text(LINKS["loopback"])
    assert f"toy: 1 ReLUs under {PROTOCOL}" in text
    usual, refilled = 2 * 23 * 8_000, 2 * (23 + REFILL) * 8_000
    assert f"2.000 s, 1.000 to 3.000 in 3 queries; {usual:,} ({usual:,} to {refilled:,}) bytes, 49 messages" in text
    assert [line.split()[0] for line in text.splitlines()[-4:]] == ["conv", "relu1", "relu2", "logits"]


def test_seconds_over_a_link_are_called_computed() -> None:
    found = run_of([answer(1.0, None)])
    assert f"{found.seconds_over(LINKS['wan']):.3f} s, computed from that, not measured" in found.to_text(
        LINKS["wan"]
    )
    assert "computed" not in found.to_text(LINKS["loopback"])


def test_delays_over_a_shaped_link_are_called_computed_only_where_they_are() -> None:
    texts = []
    for delays in (False, True):
        over_link = OverLink(link=SLOW, delays=delays, seconds=Spread.of([2.0]))
        texts.append(run_of([answer(1.0, None)], over_link=over_link).to_text(LINKS["loopback"]))
    assert f"computed because the kernel has no netem: {2 + 49 * 0.015:.3f} s" in texts[0]
    assert "over the shaped link: 2.000 s" in texts[1] and "computed" not in texts[1]
