"""Print for the command line: text from outside can't give the terminal commands."""

from __future__ import annotations

import sys

from deepreduce.utils.printable import printable_lines


def say(text: object = "", *, to_errors: bool = False) -> None:
    """Print lines, to standard error if `to_errors`, with every character shown that a terminal would act on."""
    print(printable_lines(str(text)), file=sys.stderr if to_errors else sys.stdout, flush=True)
