"""What somebody who watches a run is told: one bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Protocol, TextIO

from tqdm import tqdm

from deepreduce.training import Progress

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Who is told of a run's networks. `work` and `total` are in any one unit."""

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        """A network starts (or turns out to be done): the `number`th of `count`, `work` of `total`."""

    def step(self, progress: Progress) -> None:
        """It has come so far."""

    def end(self, *, result: str, was_done: bool) -> None:
        """It is done; `was_done` says that it was so already when it began."""

    def close(self) -> None:
        """The run ends."""


class _Clock:
    """Time left, from the work that this process has done."""

    def __init__(self) -> None:
        self.done = self.skipped = self.total = 0.0
        self._begin = time.monotonic()

    def fraction(self, part: float = 0.0) -> float:
        return min((self.done + self.skipped + part) / self.total, 1.0) if self.total else 0.0

    def left(self, part: float, resumed: float = 0.0) -> str:
        """With `part` of the present network done by this process, and `resumed` of it by an earlier one."""
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


class _Tracker:
    """The part that bar and log lines share: which network, how much of all work is done."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.name, self.number, self.count, self.work, self.resumed = "", 0, 0, 0.0, 0.0

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        self.name, self.number, self.count, self.work, self.clock.total = name, number, count, work, total
        self.resumed = 0.0

    def part(self, progress: Progress) -> float:
        """Work on this network that was done by this process."""
        per_epoch = self.work / max(progress.epochs, 1)
        self.resumed = per_epoch * progress.resumed
        # a training that went back to the start of an epoch may stand before the place where it was resumed
        return max(per_epoch * (progress.epoch + progress.step / progress.steps) - self.resumed, 0.0)

    def left(self, part: float) -> str:
        return self.clock.left(part, self.resumed)

    def end(self, *, was_done: bool) -> None:
        if was_done:
            self.clock.skipped += self.work
        else:
            self.clock.skipped += self.resumed
            self.clock.done += self.work - self.resumed


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
        self._show(f"{number}/{count} {name}", 0.0)

    def step(self, progress: Progress) -> None:
        part = self._tracker.part(progress)
        text = f"{self._tracker.number}/{self._tracker.count} {self._tracker.name} · {told(progress)}"
        self._show(f"{text} · {self._tracker.left(part)} left", part + self._tracker.resumed)

    def end(self, *, result: str, was_done: bool) -> None:
        self._tracker.end(was_done=was_done)
        self._show(f"{self._tracker.number}/{self._tracker.count} {self._tracker.name} · {result}", 0.0)

    def close(self) -> None:
        self._bar.close()

    def _show(self, text: str, part: float) -> None:
        self._bar.set_description_str(text, refresh=False)
        self._bar.n = round(1000 * self._tracker.clock.fraction(part))
        self._bar.refresh()


class LogWatcher:
    """A line when a network is done, and in between at most one every `every` seconds."""

    def __init__(self, *, every: float = 30.0) -> None:
        self._tracker = _Tracker()
        self._every, self._last = every, time.monotonic()

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        self._tracker.begin(name, number=number, count=count, work=work, total=total)

    def step(self, progress: Progress) -> None:
        part = self._tracker.part(progress)
        if time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        tracker = self._tracker
        log.info(
            "%d/%d %s: %s, %s left",
            tracker.number, tracker.count, tracker.name, told(progress, ", "), tracker.left(part),
        )  # fmt: skip

    def end(self, *, result: str, was_done: bool) -> None:
        self._tracker.end(was_done=was_done)
        already = " (done before)" if was_done else ""
        log.info("%d/%d %s: %s%s", self._tracker.number, self._tracker.count, self._tracker.name, result, already)
        self._last = time.monotonic()

    def close(self) -> None:
        pass


class NoWatcher:
    """Tells nobody."""

    def begin(self, name: str, *, number: int, count: int, work: float, total: float) -> None:
        pass

    def step(self, progress: Progress) -> None:
        pass

    def end(self, *, result: str, was_done: bool) -> None:
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
