"""Check the values of options before anything starts."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from deepreduce.errors import UserError
from deepreduce.utils.text import shown


def check_writable(path: Path | None) -> None:
    """Raise now what writing the file would raise after the work; None: there is no file to write."""
    from deepreduce.utils.files import writing

    if path is None:
        return
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if len(os.fsencode(path.name)) > os.pathconf(path.parent, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def whole_numbers(text: str, option: str) -> list[int]:
    """Return the numbers in a text such as "2,2,2,2". Raises `UserError` that names the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} is {shown(text)}; give whole numbers as in 2,2,2,2") from None
