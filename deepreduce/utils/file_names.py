"""Names from files and command lines that become part of a path."""

from __future__ import annotations

import re

from deepreduce.errors import UserError


def checked_name(name: str) -> str:
    """Return the name, which becomes part of a path. Raises `UserError` for one that could lead out of its folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", name):
        raise UserError(
            f"the name {name[:100]!r} can't be part of a file's name; use at most 100 letters, digits and _ . + -"
        )
    return name
