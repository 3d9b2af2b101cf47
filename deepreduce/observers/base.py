"""The interface of everything that follows a run: progress bar, log lines, TensorBoard, MLflow, a user's own.

The run folder is the record of a run, and observers only follow it: whatever an observer does, the run's numbers stay
the same, and a resumed run hands each network's earlier epochs to `network_started`.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from deepreduce.candidate import MEASURED, Candidate
from deepreduce.cost.objective import Objective
from deepreduce.execution.task import TrainResult
from deepreduce.training import EpochRecord, Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ObservedNetwork:
    """A network as observers name it.

    `folder` is relative to the run's folder, as in "candidates/3fa9c1d2e4", and unique within the run, which `label`
    is not.
    """

    label: str
    folder: str
    plan_id: str


class RunObserver:
    """Follows a run. Override the methods you need; the others do nothing.

    A run calls `run_started`, then for each network `network_started`, `step_ended` and `epoch_ended` while it is
    trained, and `network_ended`; then `run_finished`, and at the very end `close`. Several networks may be trained at
    the same time, so that their calls alternate. A run that is stopped or fails goes straight to `close`, perhaps in
    the middle of a network; when it is resumed, all networks are reported again, with the epochs behind them.

    Every call comes in the process and thread that called `optimize`, which waits for it. An observer that raises an
    `Exception` is named in the log, closed and called no more, and the run continues. `KeyboardInterrupt` and
    `SystemExit` end the run, which can be resumed.
    """

    def run_started(self, folder: Path) -> None:
        """Begin to follow the run in `folder`, which exists."""

    def network_started(
        self,
        network: ObservedNetwork,
        *,
        number: int,
        count: int,
        work: float,
        total: float,
        epochs: Sequence[EpochRecord],
    ) -> None:
        """Note that the training of a network begins, or is resumed, or was finished by an earlier process.

        The network is the `number`-th (from 1) of `count`, and takes `work` of the run's `total`, both in
        multiply-accumulates; `count` and `total` are estimates, which change while a run finds out what is worth
        training. `epochs` are those that earlier processes trained, in order: all of them where the network is done.
        An override may end in `**_` for keywords that it does not use.
        """

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        """Note how far a training is; called every few steps, and at the end of every epoch but the last.

        `progress.done` is a share of the training's steps, `train_loss` a mean over the epoch so far, `val_accuracy`
        the last one that was measured, as a fraction, or None.
        """

    def epoch_ended(self, network: ObservedNetwork, record: EpochRecord) -> None:
        """Note that this process trained one more epoch.

        After a kill, the epochs since the last snapshot are trained once more, with the same numbers:
        `network_started` says where the training resumes, and epochs are counted from 1.
        """

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        """Note the result of a network.

        Accuracies and churn are fractions, `train_seconds` covers all processes, and a network that could not be
        trained says why in `failure`. `was_done` tells that an earlier process finished it.
        """

    def run_finished(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        """Note that all networks are done, and tables and plots written.

        `candidates` hold the full network, as `is_teacher`, and those that failed. The frontier is
        `front_by(objective, candidates)`.
        """

    def close(self) -> None:
        """Release files and the like; always called last, however the run ends."""


class Observers(RunObserver):
    """Several observers as one, called in their order. Use as a context manager, which closes them.

    An observer that raises an `Exception` is named in the log once, closed, and left out from then on: no curve is
    worth a run. What is no `Exception` (`KeyboardInterrupt`, `SystemExit`) passes through and ends the run; leaving
    the context closes all observers, even where the closing of one is interrupted.
    """

    def __init__(self, observers: Iterable[RunObserver] = ()) -> None:
        self._observers = list(observers)

    def run_started(self, folder: Path) -> None:
        self._call(lambda observer: observer.run_started(folder))

    def network_started(
        self,
        network: ObservedNetwork,
        *,
        number: int,
        count: int,
        work: float,
        total: float,
        epochs: Sequence[EpochRecord],
    ) -> None:
        self._call(
            lambda observer: observer.network_started(
                network, number=number, count=count, work=work, total=total, epochs=epochs
            )
        )

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        self._call(lambda observer: observer.step_ended(network, progress))

    def epoch_ended(self, network: ObservedNetwork, record: EpochRecord) -> None:
        self._call(lambda observer: observer.epoch_ended(network, record))

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        self._call(lambda observer: observer.network_ended(network, result, was_done=was_done))

    def run_finished(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        self._call(lambda observer: observer.run_finished(candidates, objective))

    def close(self) -> None:
        observers, self._observers = self._observers, []
        with ExitStack() as stack:  # which closes the others where one is interrupted
            for observer in reversed(observers):
                stack.callback(_close, observer)

    def __enter__(self) -> Observers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, event: Callable[[RunObserver], None]) -> None:
        for observer in list(self._observers):
            try:
                event(observer)
            except Exception as error:  # whatever a user's code or another package may raise
                _warn(observer, error)
                self._observers = [other for other in self._observers if other is not observer]
                with suppress(Exception):
                    observer.close()


def _close(observer: RunObserver) -> None:
    try:
        observer.close()
    except Exception as error:
        _warn(observer, error)


def _warn(observer: RunObserver, error: Exception) -> None:
    """Log in one line what went wrong, and where in the observer; the traceback follows at level DEBUG."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in frames if frame.filename != __file__), frames[-1])
    log.warning(
        "%s failed and is left out from here on (%s: %s, in %s:%s); the run continues", type(observer).__name__,
        type(error).__name__, " ".join(str(error).split()), Path(place.filename).name, place.lineno,
    )  # fmt: skip
    log.debug("the traceback of %s:", type(observer).__name__, exc_info=error)


def epoch_metrics(record: EpochRecord) -> dict[str, float]:
    """Return an epoch's values by name; a validation accuracy that was not measured is absent."""
    values = {"train_loss": record.train_loss, "learning_rate": record.learning_rate}
    return values if record.val_accuracy is None else {**values, "val_accuracy": record.val_accuracy}


def result_metrics(result: TrainResult) -> dict[str, float]:
    """Return a network's counts, and its accuracies as fractions, by name; what was not measured is absent."""
    values = {name: getattr(result, name) for name in ("relu_count", *MEASURED)}
    return {f"measured/{name}": float(value) for name, value in values.items() if value is not None}
