"""Progress for people: one bar for the whole run on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm

from deepreduce.execution.task import TrainResult
from deepreduce.observers.base import ObservedNetwork, RunObserver
from deepreduce.training import Progress
from deepreduce.utils.format import duration
from deepreduce.utils.printable import printable

log = logging.getLogger(__name__)

_BAR = "{percentage:3.0f}%|{bar:10}| {desc}"
_BAR_COLUMNS = 17
"""Width of the percentage and the bar, which stand before the text."""


@dataclass(kw_only=True)
class _Training:
    """A network that is being trained: its place in the run, and its work, of earlier processes and of this one."""

    title: str
    work: float
    resumed: float = 0.0
    done: float = 0.0


class _ProgressDisplay(RunObserver):
    """Keeps the books that bar and log lines share: what is being trained, how much of all work is done."""

    def __init__(self) -> None:
        self._running: dict[str, _Training] = {}
        self._done = self._skipped = self._total = 0.0  # work of this process, of earlier ones, of all
        self._began = time.monotonic()

    def network_started(
        self, network: ObservedNetwork, *, number: int, count: int, work: float, total: float, **_: Any
    ) -> None:
        title = f"{number}/{max(count, number)} {printable(network.label)}"
        self._running[network.folder], self._total = _Training(title=title, work=work), total

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        training = self._running[network.folder]
        training.resumed = training.work * progress.resumed
        # a training that went back to the start of an epoch may stand before the place where it was resumed
        training.done = max(training.work * progress.done - training.resumed, 0.0)

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        training = self._running.pop(network.folder)
        earlier = training.work if was_done else training.resumed
        self._skipped += earlier
        self._done += training.work - earlier

    def share(self) -> float:
        """Return the share of the run's work that is done, by this process or earlier ones."""
        return min((self._own_work() + self._earlier_work()) / self._total, 1.0) if self._total else 0.0

    def time_left(self) -> str:
        """Return how long the rest takes at this process's pace; empty before it has done any work."""
        own = self._own_work()
        if own <= 0:
            return ""
        spent = time.monotonic() - self._began
        return f"{duration(spent / own * max(self._total - self._earlier_work() - own, 0.0))} left"

    def _own_work(self) -> float:
        return self._done + sum(training.done for training in self._running.values())

    def _earlier_work(self) -> float:
        return self._skipped + sum(training.resumed for training in self._running.values())


class ProgressBar(_ProgressDisplay):
    """Draws one tqdm bar for the whole run in `file`; a narrow terminal leaves out what matters least."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._bar = tqdm(
            total=1000, file=file, dynamic_ncols=True, leave=False, bar_format=_BAR, desc="getting ready"
        )

    def network_started(self, network: ObservedNetwork, **options: Any) -> None:
        super().network_started(network, **options)
        self._show(self._title(network))

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        super().step_ended(network, progress)
        self._show(self._title(network), *_describe(progress))

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        title = self._title(network)
        super().network_ended(network, result, was_done=was_done)
        self._show(title, *result.summary().split(", "))

    def close(self) -> None:
        self._bar.close()

    def _title(self, network: ObservedNetwork) -> str:
        others = len(self._running) - 1
        return self._running[network.folder].title + (f" (+{others} in parallel)" if others else "")

    def _show(self, title: str, *details: str) -> None:
        """Show the time left, the title, and those first details that fit whole into a line."""
        text = " · ".join(filter(None, [self.time_left(), title]))
        columns = self._bar.format_dict["ncols"] or math.inf
        for detail in details:
            if _BAR_COLUMNS + len(f"{text} · {detail}") > columns:
                break
            text += f" · {detail}"
        self._bar.set_description_str(text, refresh=False)
        self._bar.n = round(1000 * self.share())
        self._bar.refresh()


class ProgressLog(_ProgressDisplay):
    """Logs a line when a network is done, and in between at most one every `every` seconds."""

    def __init__(self, *, every: float = 30.0) -> None:
        super().__init__()
        self._every, self._last = every, time.monotonic()

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        super().step_ended(network, progress)
        if time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        run = ", ".join(filter(None, [f"run {100 * self.share():.0f} %", self.time_left()]))
        log.info("%s: %s; %s", self._running[network.folder].title, ", ".join(_describe(progress)), run)

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        title = self._running[network.folder].title
        super().network_ended(network, result, was_done=was_done)
        log.info("%s: %s%s", title, result.summary(), " (already done)" if was_done else "")
        self._last = time.monotonic()


def _describe(progress: Progress) -> list[str]:
    """Return the epoch, the validation accuracy where one was measured, and the loss."""
    accuracy = [] if progress.val_accuracy is None else [f"val {100 * progress.val_accuracy:.1f} %"]
    epoch = min(progress.epoch + 1, progress.epochs)
    return [f"epoch {epoch}/{progress.epochs}", *accuracy, f"loss {progress.train_loss:.3f}"]
