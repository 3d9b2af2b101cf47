"""Text from outside is shown as it is, without any power over the terminal."""

from __future__ import annotations

import logging

import pytest

from deepreduce.utils.printable import PrintableFormatter, printable, printable_lines


@pytest.mark.parametrize("text", ["", "cull S1, thin", "S1 gekürzt · 图 🙂", r"C:\x1b"])
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),  # clears the screen
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # the same as one character
        ("done\r\b\n\t\0\x7f", r"done\r\x08\n\t\x00\x7f"),
        ("a\u202eb\u2066c\u200bd\ufeff", r"a\u202eb\u2066c\u200bd\ufeff"),  # right to left; no width
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\udcff.png", r"\udcff.png"),  # a byte of a file's name that is no UTF-8
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_act_on_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown and shown.isprintable()


def test_lines_stay_lines() -> None:
    assert printable_lines("a\n\x1b[1mb\r\n") == "a\n\\x1b[1mb\\r\n"


def test_log_lines_are_printable_with_their_traceback() -> None:
    try:
        raise ValueError("\x1b[2J")
    except ValueError as error:
        record = logging.LogRecord("a", logging.INFO, "", 0, "label %s", ("\x1b[1m",), (type(error), error, None))
    assert PrintableFormatter("%(levelname)s %(message)s").format(record) == "\n".join(
        [r"INFO label \x1b[1m", r"ValueError: \x1b[2J"]
    )
