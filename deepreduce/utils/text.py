"""Show values that came from outside: short, in one line, without characters that a terminal would obey."""

from __future__ import annotations

import math
import reprlib
from typing import Any

from deepreduce.utils.printable import printable

_WIDTH = 100
_MOST_DIGITS = 40


class _Short(reprlib.Repr):
    """Shows the first items of what is long or nested, and the size of a number with very many digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 5, 8, 8
        self.maxstring = self.maxother = _WIDTH

    def repr_int(self, x: int, level: int) -> str:
        # Python itself refuses to write a number of more than 4,300 digits
        digits = math.floor(x.bit_length() * math.log10(2)) + 1
        return repr(x) if digits <= _MOST_DIGITS else f"a number of about {digits:,} digits"


_SHORT = _Short()


def shown(value: Any) -> str:
    """Return `repr(value)` where that is short, else its beginning and end."""
    return _SHORT.repr(value)


def one_line(text: str, limit: int = 2_000) -> str:
    """Return `text` in one line of at most about `limit` characters, with control characters escaped.

    The middle of a longer text is left out, and the text's length is said there.
    """
    line = " ".join(text.split())
    if len(line) > limit:
        begin, end = limit * 2 // 3, limit // 3
        line = f"{line[:begin]} ... ({len(line):,} characters in all) ... {line[-end:]}"
    return printable(line)
