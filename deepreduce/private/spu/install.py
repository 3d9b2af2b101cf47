"""Check that the engine is installed."""

from __future__ import annotations

import sys

from deepreduce.errors import UserError
from deepreduce.utils.optional import require_packages

PYTHONS = ((3, 10), (3, 11))
"""Versions of Python that the engine is built for."""


def check_installed() -> None:
    """Raise `UserError` if SPU is not installed, or not available for this version of Python."""
    version = tuple(sys.version_info[:2])
    if version not in PYTHONS:
        known = " and ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise UserError(
            f"private inference runs on SPU, which is built for Python {known}; this is {version[0]}.{version[1]};"
            " make an environment with one of those"
        )
    require_packages("private inference", "spu", "jax", extra="private")
