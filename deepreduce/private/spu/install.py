"""Whether the engine is here."""

from __future__ import annotations

import sys

from deepreduce.errors import UserError
from deepreduce.utils.optional import require_packages

PYTHONS = ((3, 10), (3, 11))
"""The versions of Python that the engine is built for."""


def check_installed() -> None:
    """Raises `UserError` with one line where SPU is missing, or can't be had for this Python."""
    version = tuple(sys.version_info[:2])
    if version not in PYTHONS:
        known = " and ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise UserError(
            f"private inference runs on SPU, which is built for Python {known}; this is {version[0]}.{version[1]};"
            " make an environment with one of those"
        )
    require_packages("private inference", "spu", "jax", extra="private")
