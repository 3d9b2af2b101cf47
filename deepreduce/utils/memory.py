"""How much memory this machine has."""

from __future__ import annotations

import math
import os


def memory_bytes() -> float:
    """Return the bytes of physical memory, infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf
