"""How many CPU threads train a network: one, or all, by a short trial that is remembered.

Threads of one convolution wait for each other by spinning. On an idle machine all cores together are faster than one;
beside other programs they can be many times slower (docs/training.md). The number of threads changes the last bits of
what is computed, so the choice is kept: the same network on the same machine trains with the same threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from deepreduce.errors import DeepReduceError
from deepreduce.storage import read_json, write_json

log = logging.getLogger(__name__)

_ROUNDS = 3
_WORTHWHILE = 1.15
"""All threads must be that much faster than one: they leave nothing to other programs, and suffer from them."""
_HOPELESS = 3.0


def faster_threads(seconds_of_step: Callable[[int], float], *, available: int) -> int:
    """1 or `available`, whichever takes a step faster. `seconds_of_step(n)` takes one with n threads.

    Both are tried in turns, so that other load meets both; where all threads are hopelessly slow, once is enough.
    """
    if available <= 1:
        return 1
    seconds: dict[int, list[float]] = {1: [], available: []}
    for round_ in range(1 + _ROUNDS):
        for count in seconds:
            seconds[count].append(seconds_of_step(count))
        # the first round also allocates
        if round_ and seconds[available][-1] > _HOPELESS * seconds[1][-1]:
            return 1
    one, all_ = (statistics.median(times[1:]) for times in seconds.values())
    return available if one > _WORTHWHILE * all_ else 1


def remembered_threads(what: str, choose: Callable[[], int], *, file: Path | None = None) -> int:
    """The number of threads chosen before for `what` on this machine with this torch, else `choose()`, remembered.

    `file` is by default deepreduce/threads.json in the user's cache; one that can't be read or written costs another
    trial, nothing else.
    """
    place = file or _cache() / "threads.json"
    machine = [what, platform.node(), platform.processor(), str(os.cpu_count()), torch.__version__]
    key = hashlib.blake2b("\0".join(machine).encode(), digest_size=8).hexdigest()
    known: dict[str, int] = {}
    try:
        found = read_json(place) if place.exists() else {}
        known = {str(k): int(v) for k, v in found.items() if isinstance(v, int) and v >= 1}
    except (DeepReduceError, AttributeError, OSError):
        log.debug("%s can't be read; trying again", place)
    if key in known:
        return known[key]
    count = choose()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, known | {key: count})
    except (DeepReduceError, OSError) as error:
        log.debug("%s can't be written: %s", place, error)
    return count


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepreduce"
