"""Values from outside are shown short, in one line, and without characters that a terminal obeys."""

from __future__ import annotations

from typing import Any

import pytest

from deepreduce.utils.text import one_line, shown


@pytest.mark.parametrize("value", ["a", 5, -1.5, None, [1, 2], {"a": 1}, (1,), b"x", True, "it's"])
def test_a_short_value_is_shown_as_python_writes_it(value: Any) -> None:
    assert shown(value) == repr(value)


NESTED: list[Any] = []
for _ in range(40):
    NESTED = [NESTED, NESTED]  # 2**40 lists where written out
LOOP: list[Any] = []
LOOP.append(LOOP)


def test_a_long_or_strange_value_is_short_and_printable() -> None:
    many = {i: i for i in range(10**5)}
    for value in ("x" * 10**6, 10**400, -(10**5_000), [10**5_000], NESTED, LOOP, many, "\x1b\udcff\n"):
        assert len(shown(value)) < 500 and shown(value).isprintable()


def test_a_number_of_many_digits_is_told_by_their_number() -> None:
    assert shown(10**399) == "a number of about 400 digits"


def test_a_long_line_says_how_long_it_was() -> None:
    line = one_line("a\n b\t" + "c" * 10_000 + "end")
    assert line.startswith("a b ccc") and line.endswith("cend") and "(10,007 characters in all)" in line
    assert len(line) < 2_100
