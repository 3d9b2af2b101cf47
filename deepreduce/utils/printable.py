"""Make text from outside safe to show: a label, a file's name or a server's words may hold a terminal's commands."""

from __future__ import annotations

import logging


def printable(text: str) -> str:
    r"""Return the text in one line, with every character that a terminal does not show written as \x1b or \u202e.

    Those are control characters (line breaks among them), invisible ones that change the direction or width of the
    text around them, and bytes of a file's name that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return the text with its line breaks, each line as `printable` returns it."""
    return "\n".join(map(printable, text.split("\n")))


class PrintableFormatter(logging.Formatter):
    """Formats log records as `logging.Formatter` does, and makes every line printable."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines: its message, and the traceback of its exception if it has one."""
        return printable_lines(super().format(record))
