"""How this machine trains a network fastest: arithmetic, layout, threads, networks side by side. Found by trying.

No rule holds everywhere: bfloat16 pays where the hardware multiplies it and the weights are few, channels-last
depends on the widths, and threads of one convolution wait for each other by spinning, so that beside other programs
two can be many times slower than one (docs/training.md). So a few real training steps decide. They are taken in
turns, so that other load meets all variants alike. Every choice changes the last bits of what is computed; so it is
kept, and the same network trains in the same way on the same machine.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from deepreduce.errors import DeepReduceError
from deepreduce.training import Precision
from deepreduce.utils.cache_folder import cache_folder
from deepreduce.utils.files import read_json, write_json

log = logging.getLogger(__name__)

_HOPELESS, _SLOW = 2.5, 1.3
"""Variants slower than that many times the fastest leave the trial: after one step each, and after three."""
_WORTHWHILE = 1.15
"""All threads must be that much faster than one: they leave nothing to other programs, and suffer from them."""
_BESIDE_WORTHWHILE = 1.05
"""So much more must several networks side by side train together than one: they take more memory."""
_STEPS_BESIDE = 4

V = TypeVar("V")
Seconds = Callable[[], float]
"""Takes one training step, and returns its seconds."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to take a training step on a CPU."""

    precision: Precision
    threads: int


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """How a run trains: the teacher with so many threads, students that many side by side (with one thread each)."""

    precision: Precision
    threads: int
    side_by_side: int = 1

    @property
    def student_threads(self) -> int:
        """Of each student's training."""
        return 1 if self.side_by_side > 1 else self.threads

    def told(self) -> str:
        """In words."""
        arithmetic = "bfloat16" if self.precision.bf16 else "float32"
        layout = "channels last" if self.precision.channels_last else "channels first"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        beside = f", {self.side_by_side} students side by side" if self.side_by_side > 1 else ""
        return f"{arithmetic}, {layout}, {threads}{beside}"


def fastest(variants: Sequence[V], seconds_of_step: Callable[[V], float]) -> dict[V, float]:
    """Seconds of a step for each of the variants that are not much slower than the fastest, tried in turns.

    The first step of each is not counted: it allocates.
    """
    if len(variants) == 1:
        return {variants[0]: 0.0}
    times: dict[V, list[float]] = {variant: [seconds_of_step(variant)] for variant in variants}
    for rounds, factor in ((0, _HOPELESS), (2, _SLOW), (3, _SLOW)):
        for _ in range(rounds):
            for variant, taken in times.items():
                taken.append(seconds_of_step(variant))
        typical = {variant: statistics.median(taken[1:] or taken) for variant, taken in times.items()}
        best = min(typical.values())
        times = {variant: times[variant] for variant, value in typical.items() if value <= factor * best}
    return {variant: typical[variant] for variant in times}


def best_variant(seconds: Mapping[Variant, float]) -> Variant:
    """The fastest one; more threads than one only where they are clearly faster."""
    fewest = min(variant.threads for variant in seconds)
    lone = {variant: value for variant, value in seconds.items() if variant.threads == fewest}
    best = min(seconds, key=lambda variant: seconds[variant])
    best_lone = min(lone, key=lambda variant: lone[variant])
    return best if seconds[best_lone] > _WORTHWHILE * seconds[best] else best_lone


def seconds_beside(steps: Sequence[Seconds]) -> float:
    """Seconds that it takes to train one step of each, all at the same time, each with one thread."""

    def take(step: Seconds) -> None:
        torch.set_num_threads(1)  # of this thread's own computations
        for _ in range(_STEPS_BESIDE):
            taken.append(step())

    taken: list[float] = []
    workers = [threading.Thread(target=take, args=(step,)) for step in steps]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return statistics.median(taken)


def arrange(
    variants: Sequence[Variant], step_of: Callable[[Precision], Seconds], *, side_by_side: Sequence[int]
) -> ExecutionPlan:
    """The fastest of the variants, and of the numbers of students side by side.

    `step_of` makes a network of its own every time; it is called for each precision, and for each network beside
    another. The number of torch's threads is changed.
    """
    steps = {precision: step_of(precision) for precision in dict.fromkeys(v.precision for v in variants)}

    def seconds_of_step(variant: Variant) -> float:
        torch.set_num_threads(variant.threads)
        return steps[variant.precision]()

    seconds = fastest(variants, seconds_of_step)
    best = best_variant(seconds)
    chosen = side_by_side[0]
    if len(side_by_side) > 1:
        each = seconds_of_step(best) if len(seconds) == 1 else seconds[best]
        rates = {1: 1 / each}
        for count in (c for c in side_by_side if c > 1):
            together = [step_of(best.precision) for _ in range(count)]
            seconds_beside(together)  # the first steps allocate
            rates[count] = count / seconds_beside(together)
        most = max(rates, key=lambda count: rates[count])
        chosen = most if rates[most] > _BESIDE_WORTHWHILE * rates[1] else 1
    return ExecutionPlan(precision=best.precision, threads=best.threads, side_by_side=chosen)


def remembered_arrangement(
    what: str, choose: Callable[[], ExecutionPlan], *, file: Path | None = None
) -> ExecutionPlan:
    """The arrangement chosen before for `what` on this machine with this torch, else `choose()`, remembered.

    `file` is by default deepreduce/arrangements.json in the user's cache; one that can't be read or written costs
    another trial, nothing else.
    """
    place = file or cache_folder() / "arrangements.json"
    machine = [what, platform.node(), platform.processor(), str(os.cpu_count()), torch.__version__]
    key = hashlib.blake2b("\0".join(machine).encode(), digest_size=8).hexdigest()
    known: dict[str, Any] = {}
    try:
        found = read_json(place) if place.exists() else {}
        known = dict(found)
        if key in known:
            return arrangement_from_json(known[key])
    except (DeepReduceError, AttributeError, KeyError, TypeError, ValueError, OSError):
        log.debug("%s can't be read; trying again", place)
    chosen = choose()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, known | {key: asdict(chosen)})
    except (DeepReduceError, OSError) as error:
        log.debug("%s can't be written: %s", place, error)
    return chosen


def arrangement_from_json(value: Any) -> ExecutionPlan:
    """What `dataclasses.asdict` made of an arrangement. Raises `KeyError`, `TypeError` or `ValueError` otherwise."""
    counts = value["threads"], value["side_by_side"]
    flags = value["precision"]["bf16"], value["precision"]["channels_last"]
    if not all(type(n) is int and n >= 1 for n in counts) or not all(type(flag) is bool for flag in flags):
        raise ValueError(f"{value!r} is no arrangement")
    precision = Precision(bf16=flags[0], channels_last=flags[1])
    return ExecutionPlan(precision=precision, threads=counts[0], side_by_side=counts[1])
