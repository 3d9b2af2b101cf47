"""What somebody who watches a run is told: one bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from tqdm import tqdm

from deepreduce.training import Progress

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Who is told of a run's networks. `work` and `total` are in any one unit."""

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        """A network starts (or turns out to be done): the `number`th of `count`, `work` of `total`."""

    def step(self, name: str, progress: Progress) -> None:
        """One of the networks that have begun has come so far; several may be at it side by side."""

    def end(self, name: str, *, result: str, was_done: bool) -> None:
        """It is done; `was_done` says that it was so already when it began."""

    def close(self) -> None:
        """The run ends."""


class _Clock:
    """Time left, from the work that this process has done."""

    def __init__(self) -> None:
        self.done = self.skipped = self.total = 0.0
        self._begin = time.monotonic()

    def fraction(self, part: float, resumed: float) -> float:
        """With `part` of the present networks done by this process, and `resumed` of them by an earlier one."""
        return min((self.done + self.skipped + part + resumed) / self.total, 1.0) if self.total else 0.0

    def left(self, part: float, resumed: float) -> str:
        """Likewise."""
        own = self.done + part
        if own <= 0:
            return "?"
        spent = time.monotonic() - self._begin
        return duration(spent / own * max(self.total - self.skipped - resumed - own, 0.0))


def duration(seconds: float) -> str:
    """A time in its two largest units, as in 2 h 05 min or 40 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


@dataclass
class _Started:
    """A network that is being trained: its number and work, and what of that was done before and now."""

    number: int
    work: float
    resumed: float = 0.0
    done: float = 0.0


class _Tracker:
    """The part that bar and log lines share: which networks, how much of all work is done."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.running: dict[str, _Started] = {}
        self.count = 0

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        self.running[name] = _Started(number=number, work=work)
        self.count, self.clock.total = count, total

    def step(self, name: str, progress: Progress) -> None:
        started = self.running[name]
        started.resumed = started.work * progress.resumed
        # a training that went back to the start of an epoch may stand before the place where it was resumed
        started.done = max(started.work * progress.done - started.resumed, 0.0)

    def end(self, name: str, *, was_done: bool) -> _Started:
        started = self.running.pop(name)
        if was_done:
            self.clock.skipped += started.work
        else:
            self.clock.skipped += started.resumed
            self.clock.done += started.work - started.resumed
        return started

    def fraction(self) -> float:
        return self.clock.fraction(*self._sums())

    def left(self) -> str:
        return self.clock.left(*self._sums())

    def title(self, name: str, started: _Started) -> str:
        """Which of how many, and its name."""
        return f"{started.number}/{max(self.count, started.number)} {name}"

    def _sums(self) -> tuple[float, float]:
        running = self.running.values()
        return sum(s.done for s in running), sum(s.resumed for s in running)


class BarWatcher:
    """One tqdm bar for the whole run."""

    def __init__(self, file: TextIO) -> None:
        self._tracker = _Tracker()
        self._bar = tqdm(
            total=1000, file=file, dynamic_ncols=True, leave=False, bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            desc="getting ready",
        )  # fmt: skip

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        self._tracker.begin(name, number=number, count=count, work=work, total=total)
        self._show(self._tracker.title(name, self._tracker.running[name]))

    def step(self, name: str, progress: Progress) -> None:
        tracker = self._tracker
        tracker.step(name, progress)
        beside = len(tracker.running) - 1
        others = f" (+{beside} beside)" if beside else ""
        title = tracker.title(name, tracker.running[name])
        self._show(f"{title}{others} · {told(progress)} · {tracker.left()} left")

    def end(self, name: str, *, result: str, was_done: bool) -> None:
        started = self._tracker.end(name, was_done=was_done)
        self._show(f"{self._tracker.title(name, started)} · {result}")

    def close(self) -> None:
        self._bar.close()

    def _show(self, text: str) -> None:
        self._bar.set_description_str(text, refresh=False)
        self._bar.n = round(1000 * self._tracker.fraction())
        self._bar.refresh()


class LogWatcher:
    """A line when a network is done, and in between at most one every `every` seconds."""

    def __init__(self, *, every: float = 30.0) -> None:
        self._tracker = _Tracker()
        self._every, self._last = every, time.monotonic()

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        self._tracker.begin(name, number=number, count=count, work=work, total=total)

    def step(self, name: str, progress: Progress) -> None:
        tracker = self._tracker
        tracker.step(name, progress)
        if time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        title = tracker.title(name, tracker.running[name])
        log.info("%s: %s, %s left", title, told(progress, ", "), tracker.left())

    def end(self, name: str, *, result: str, was_done: bool) -> None:
        started = self._tracker.end(name, was_done=was_done)
        log.info("%s: %s%s", self._tracker.title(name, started), result, " (done before)" if was_done else "")
        self._last = time.monotonic()

    def close(self) -> None:
        pass


class NoWatcher:
    """Tells nobody."""

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        pass

    def step(self, name: str, progress: Progress) -> None:
        pass

    def end(self, name: str, *, result: str, was_done: bool) -> None:
        pass

    def close(self) -> None:
        pass


def told(progress: Progress, separator: str = " · ") -> str:
    """Epoch, loss and validation accuracy in a few words."""
    epoch = min(progress.epoch + 1, progress.epochs)
    parts = [f"epoch {epoch}/{progress.epochs}", f"loss {progress.train_loss:.3f}"]
    if progress.val_accuracy is not None:
        parts.append(f"val {100 * progress.val_accuracy:.1f} %")
    return separator.join(parts)
