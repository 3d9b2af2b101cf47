"""Find how this machine trains a network fastest: arithmetic, memory layout, threads, students in parallel.

No rule holds everywhere: bfloat16 pays off where the hardware multiplies it and the weights are few, channels-last
depends on the widths, and threads of one convolution wait for each other by spinning, so that next to other programs
two threads can be many times slower than one (docs/training.md). So a few real training steps decide. The variants
take turns, so that other load slows all of them alike. Every choice changes the last bits of what is computed; it is
cached, so that the same network always trains in the same way on the same machine.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from deepreduce.errors import DeepReduceError
from deepreduce.network import Network
from deepreduce.training.recipe import Precision, choose_precision
from deepreduce.training.timing import TimedStep
from deepreduce.utils.cache_folder import cache_folder
from deepreduce.utils.files import read_json, write_json

log = logging.getLogger(__name__)

_HOPELESS, _SLOW = 2.5, 1.3
"""Variants slower than this many times the fastest one leave the trial: after one step; after three and six."""
_THREADS_GAIN = 1.15
"""All threads must be this much faster than one: they leave nothing to other programs, and suffer from them."""
_WORKERS_GAIN = 1.05
"""Workers must train this many times more images than one process: they take more memory."""
_STEPS_IN_PARALLEL = 4

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
    """Threads of the teacher's training, and number of `workers` that train students with one thread each.

    With one worker, students are trained one after the other, with the teacher's threads.
    """

    precision: Precision
    threads: int
    workers: int = 1

    @property
    def student_threads(self) -> int:
        """Threads of each student's training."""
        return 1 if self.workers > 1 else self.threads

    def describe(self) -> str:
        """Return the plan in words."""
        arithmetic = "bfloat16" if self.precision.bf16 else "float32"
        layout = "channels last" if self.precision.channels_last else "channels first"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        workers = f", {self.workers} students in parallel" if self.workers > 1 else ""
        return f"{arithmetic}, {layout}, {threads}{workers}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"precision": asdict(self.precision), "threads": self.threads, "side_by_side": self.workers}

    @classmethod
    def from_json(cls, value: Any) -> ExecutionPlan:
        """Return the plan of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` for another value."""
        counts = value["threads"], value["side_by_side"]
        flags = value["precision"]["bf16"], value["precision"]["channels_last"]
        if not all(type(n) is int and n >= 1 for n in counts) or not all(type(flag) is bool for flag in flags):
            raise ValueError(f"{value!r} is no execution plan")
        precision = Precision(bf16=flags[0], channels_last=flags[1])
        return cls(precision=precision, threads=counts[0], workers=counts[1])


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads inside the context."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def choose_execution(
    network: Network,
    *,
    device: torch.device,
    batch_size: int,
    precision: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    recorded: ExecutionPlan | None = None,
) -> ExecutionPlan:
    """Return how to train `network` and its reductions on `device`.

    `threads` and `workers` are as given; all else is as `recorded` (how the run began), or as a trial of some steps
    finds fastest. `precision` is one of `PRECISIONS`.
    """
    plan = recorded or _tried_execution(
        network, device=device, batch_size=batch_size, precision=precision, threads=threads, workers=workers
    )
    return replace(plan, threads=threads or plan.threads, workers=workers or plan.workers)


def _tried_execution(
    network: Network,
    *,
    device: torch.device,
    batch_size: int,
    precision: str,
    threads: int | None,
    workers: int | None,
) -> ExecutionPlan:
    """Return the plan that a trial of this network found before, or finds now."""
    available = torch.get_num_threads()
    if device.type != "cpu":
        return ExecutionPlan(precision=choose_precision(precision, network, device=device), threads=available)
    precisions = [Precision(bf16=bf16, channels_last=last) for bf16 in (False, True) for last in (False, True)]
    if precision != "auto":
        precisions = [choose_precision(precision, network, device=device)]
    counts = [threads] if threads else sorted({1, available})
    variants = [Variant(precision=each, threads=count) for each in precisions for count in counts]
    workers_tried = [workers] if workers else sorted({1, available})

    def step_of(precision: Precision) -> Seconds:
        return TimedStep(network, batch_size=batch_size, precision=precision, device=device)

    def trial() -> ExecutionPlan:
        with using_threads(available), torch.random.fork_rng(devices=[]):
            plan = try_variants(variants, step_of, workers=workers_tried)
        log.info("a trial of some steps found fastest: %s", plan.describe())
        return plan

    shapes = [(name, tuple(p.shape)) for name, p in network.module.named_parameters()]
    return cached_plan(f"{shapes} {network.input_shape} {batch_size} {variants} {workers_tried}", trial)


def try_variants(
    variants: Sequence[Variant], step_of: Callable[[Precision], Seconds], *, workers: Sequence[int]
) -> ExecutionPlan:
    """Return the fastest of the variants, with the fastest of the numbers of workers.

    `step_of` makes a new network at each call: one for each precision, and one for each worker. The number of torch's
    threads is changed.
    """
    steps = {precision: step_of(precision) for precision in dict.fromkeys(v.precision for v in variants)}

    def seconds_of_step(variant: Variant) -> float:
        torch.set_num_threads(variant.threads)
        return steps[variant.precision]()

    seconds = fastest(variants, seconds_of_step)
    best = best_variant(seconds)
    chosen = workers[0]
    if len(workers) > 1:
        each = seconds_of_step(best) if len(seconds) == 1 else seconds[best]
        rates = {1: 1 / each}
        for count in (c for c in workers if c > 1):
            together = [step_of(best.precision) for _ in range(count)]
            seconds_in_parallel(together)  # the first steps allocate
            rates[count] = count / seconds_in_parallel(together)
        most = max(rates, key=lambda count: rates[count])
        chosen = most if rates[most] > _WORKERS_GAIN * rates[1] else 1
    return ExecutionPlan(precision=best.precision, threads=best.threads, workers=chosen)


def fastest(variants: Sequence[V], seconds_of_step: Callable[[V], float]) -> dict[V, float]:
    """Return the median seconds of a step of each variant that is not much slower than the fastest.

    The variants take turns. Each variant's first step is not counted: it allocates.
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
    """Return the fastest variant; one with more threads than the fewest only if it is clearly faster."""
    fewest = min(variant.threads for variant in seconds)
    lone = {variant: value for variant, value in seconds.items() if variant.threads == fewest}
    best = min(seconds, key=lambda variant: seconds[variant])
    best_lone = min(lone, key=lambda variant: lone[variant])
    return best if seconds[best_lone] > _THREADS_GAIN * seconds[best] else best_lone


def seconds_in_parallel(steps: Sequence[Seconds]) -> float:
    """Return the median seconds of a step when all `steps` are taken at the same time, each with one thread."""

    def take(step: Seconds) -> None:
        torch.set_num_threads(1)  # of this thread's own computations
        for _ in range(_STEPS_IN_PARALLEL):
            taken.append(step())

    taken: list[float] = []
    threads = [threading.Thread(target=take, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.median(taken)


def cached_plan(what: str, choose: Callable[[], ExecutionPlan], *, file: Path | None = None) -> ExecutionPlan:
    """Return the plan that was chosen before for `what`, with this torch on this machine, else `choose()`.

    `file` is by default arrangements.json in the user's cache; one that can't be read or written costs another trial,
    nothing else.
    """
    place = file or cache_folder() / "arrangements.json"
    machine = [what, platform.node(), platform.processor(), str(os.cpu_count()), torch.__version__]
    key = hashlib.blake2b("\0".join(machine).encode(), digest_size=8).hexdigest()
    known: dict[str, Any] = {}
    try:
        found = read_json(place) if place.exists() else {}
        known = dict(found)
        if key in known:
            return ExecutionPlan.from_json(known[key])
    except (DeepReduceError, AttributeError, KeyError, TypeError, ValueError, OSError):
        log.debug("%s can't be read; trying again", place)
    chosen = choose()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, known | {key: chosen.to_json()})
    except (DeepReduceError, OSError) as error:
        log.debug("%s can't be written: %s", place, error)
    return chosen
