"""Seconds over a link are computing, bytes over the bandwidth, and one-way delays."""

from __future__ import annotations

import pytest

from deepreduce.cost.link import LINKS, Link, link_named
from deepreduce.errors import UserError


def test_seconds_add_computing_sending_and_waiting() -> None:
    link = Link(name="slow", bits_per_second=8e6, round_trip_s=0.1)
    assert link.sending(3e6) == pytest.approx(3.0)
    assert link.waiting(4) == pytest.approx(4 * 0.05)
    assert link.seconds(compute=1.0, sent_bytes=3e6, messages=4) == pytest.approx(1.0 + 3.0 + 0.2)


def test_the_loopback_interface_adds_nothing_and_is_no_computation() -> None:
    loopback = LINKS["loopback"]
    assert loopback.seconds(compute=1.5, sent_bytes=1e9, messages=1000) == 1.5
    assert not loopback.computed and loopback.label == "loopback"
    assert LINKS["wan"].computed and LINKS["wan"].label == "wan (400 Mbps, 40 ms round trip)"


def test_links_are_found_by_their_names() -> None:
    assert all(link_named(name) is link and link.name == name for name, link in LINKS.items())
    with pytest.raises(UserError, match="unknown link 'van'; did you mean '"):
        link_named("van")
