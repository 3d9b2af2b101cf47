"""Compare what a computation is going to allocate with the memory that is free."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from deepreduce.errors import UserError
from deepreduce.utils.format import BYTES


def free_memory() -> int | None:
    """Return the bytes that this process may still allocate without swapping; None where that is unknown.

    That is what Linux calls available, or less in a control group with a limit; elsewhere it is all physical memory.
    """
    found = [value for value in (_available(), _left_in_control_group()) if value is not None]
    return min(found) if found else _physical()


def check_memory(needed: float, what: str, *, repair: str, error: type[UserError] = UserError) -> None:
    """Raise `error` if `needed` bytes for `what` are more than the memory that is free."""
    free = free_memory()
    if free is not None and needed > free:
        raise error(f"{what} needs about {BYTES.text(needed)} of memory, and {BYTES.text(free)} are free; {repair}")


def _available() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


def _left_in_control_group() -> int | None:
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit, used = ((folder / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return max(int(limit) - int(used), 0)  # "max" where there is no limit
    return None


def memory_bytes() -> float:
    """Return the bytes of physical memory, infinity where the system does not tell."""
    physical = _physical()
    return math.inf if physical is None else float(physical)


def _physical() -> int | None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
