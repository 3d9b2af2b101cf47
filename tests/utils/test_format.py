"""Counts, seconds and bytes as people print them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.utils.format import BYTES, COUNT, SECONDS, duration

UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def value_of(text: str) -> float:
    number, unit = text.split()
    return float(number.replace(",", "")) * UNITS[unit]


@given(st.floats(1e-3, 1e5))
def test_seconds_are_told_to_three_digits(seconds: float) -> None:
    assert value_of(SECONDS.text(seconds)) == pytest.approx(seconds, rel=0.005)


@given(st.floats(1e3, 1e14))
def test_bytes_are_told_to_three_digits(count: float) -> None:
    assert value_of(BYTES.text(count)) == pytest.approx(count, rel=0.005)


@given(st.integers(0, 10**9))
def test_what_is_shown_is_short(value: int) -> None:
    assert max(len(COUNT.text(value)), len(BYTES.text(value)), len(SECONDS.text(value / 1e4))) <= 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0042, "4.2 ms"), (0.112, "0.112 s"), (8.49, "8.49 s"), (51.6, "51.6 s"), (3600, "60 min")],
)
def test_seconds_have_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert SECONDS.text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (512, "512 B"), (1_210_000, "1.21 MB"), (999_999, "1 MB"), (10.6e9, "10.6 GB")]
)
def test_bytes_have_a_decimal_unit(count: float, text: str) -> None:
    assert BYTES.text(count) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (2 * 3600 + 5 * 60, "2 h 05 min"),
        (48 * 3600 - 1, "47 h 59 min"),
        (48 * 3600, "2 d 0 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
