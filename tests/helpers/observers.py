"""Made-up events of a run, and an observer that remembers what it heard and checks its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepreduce.candidate import TEACHER_ID, Candidate, Measurement
from deepreduce.cost.objective import COUNT_OF_RELUS, Objective
from deepreduce.execution.task import TrainResult
from deepreduce.observers import ObservedNetwork, RunObserver
from deepreduce.plan import ReductionPlan
from deepreduce.training import EpochRecord, Progress
from tests.helpers.runs import TINY

TEACHER = ObservedNetwork(label="teacher", folder="teacher", plan_id=TEACHER_ID)
NETWORK = ObservedNetwork(label="cull S1", folder="candidates/0123abcd", plan_id="0123abcd")
OTHER = ObservedNetwork(label="cull S2", folder="candidates/4567cdef", plan_id="4567cdef")
RESULT = TrainResult(val_accuracy=0.75, test_accuracy=0.5, churn=0.25, train_seconds=2.0, relu_count=64, macs=128)
FAILED = TrainResult(relu_count=64, failure="the loss was not finite")

QUICK: dict[str, Any] = {
    **TINY,
    "data": {**TINY["data"], "train_limit": 100},
    "training": {**TINY["training"], "epochs": 2},
    "method": {**TINY["method"], "alphas": [1.0]},
    "fast": {"price": 20.0, "probe_share": 0.05},
}
"""Three short probes, and two levels of culling, each as it is and thinned, trained for two epochs."""


def epoch(number: int, *, val_accuracy: float | None = 0.5) -> EpochRecord:
    return EpochRecord(
        epoch=number, learning_rate=0.1 / number, train_loss=1 / number, val_accuracy=val_accuracy, seconds=number
    )


def epochs(*numbers: int) -> list[EpochRecord]:
    return [epoch(number) for number in numbers]


def at(epoch: int, step: int = 0, *, resumed: float = 0.0, val_accuracy: float | None = 0.5) -> Progress:
    """Return progress in a training of four epochs of ten steps, of which `resumed` epochs were there before."""
    return Progress(
        epoch=epoch, epochs=4, step=step, steps=10, done=(10 * epoch + step) / 40, train_loss=1.25,
        val_accuracy=val_accuracy, resumed=resumed / 4,
    )  # fmt: skip


def start(
    observer: RunObserver,
    network: ObservedNetwork = NETWORK,
    *,
    epochs: Sequence[EpochRecord] = (),
    number: int = 1,
    count: int = 4,
    work: float = 25.0,
    total: float = 100.0,
) -> None:
    """Report that a network starts, with what most tests don't care about."""
    observer.network_started(network, number=number, count=count, work=work, total=total, epochs=epochs)


def end(
    observer: RunObserver,
    network: ObservedNetwork = NETWORK,
    result: TrainResult = RESULT,
    *,
    was_done: bool = False,
) -> None:
    """Report that a network ended."""
    observer.network_ended(network, result, was_done=was_done)


def finish(observer: RunObserver) -> None:
    """Report that the run of `TEACHER` and `NETWORK` is done."""
    observer.run_finished([candidate(TEACHER, relu_count=128), candidate(NETWORK)], COUNT_OF_RELUS)


def candidate(network: ObservedNetwork, *, relu_count: int = 64) -> Candidate:
    return Candidate(
        plan_id=network.plan_id,
        plan=ReductionPlan(),
        label=network.label,
        relu_count=relu_count,
        folder=network.folder,
        measurement=Measurement(
            relu_count=relu_count,
            stage_relu_counts={"S1": relu_count},
            macs=128,
            val_accuracy=0.75,
            test_accuracy=0.5,
            churn=0.25,
            train_seconds=2.0,
        ),
    )


@dataclass
class HeardNetwork:
    """What a recorder heard of a network; `behind` epochs were trained by earlier processes."""

    number: int
    epochs: list[int] = field(default_factory=list)
    behind: int = 0
    steps: int = 0
    was_done: bool | None = None


class Recorder(RunObserver):
    """Remembers what it heard of each network; `errors` says what came out of order.

    In the call of the name `broken` it raises `error`.
    """

    def __init__(self, broken: str | None = None, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self.networks: dict[ObservedNetwork, HeardNetwork] = {}
        self.errors: list[str] = []
        self._broken, self._error = broken, error or OSError("no space left")

    def epochs(self) -> dict[str, list[int]]:
        """Return the epochs of every network, by its folder."""
        return {n.folder: heard.epochs for n, heard in self.networks.items()}

    def run_started(self, folder: Path) -> None:
        self._hear("run_started", not self.calls and folder.is_dir())

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
        fresh = network not in self.networks and number not in {n.number for n in self.networks.values()}
        self._hear("network_started", fresh and number >= 1 and 0 < work <= total)
        known = [record.epoch for record in epochs]
        self.networks[network] = HeardNetwork(number=number, epochs=known, behind=len(known))

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        self._hear("step_ended", self._is_running(network) and 0 <= progress.resumed <= 1 >= progress.done > 0)
        self.networks[network].steps += 1

    def epoch_ended(self, network: ObservedNetwork, record: EpochRecord) -> None:
        heard = self.networks[network].epochs
        self._hear("epoch_ended", self._is_running(network) and record.epoch == len(heard) + 1)
        heard.append(record.epoch)

    def network_ended(self, network: ObservedNetwork, result: TrainResult, *, was_done: bool) -> None:
        trained = self.networks[network].epochs[self.networks[network].behind :]
        self._hear("network_ended", self._is_running(network) and not (was_done and trained))
        self.networks[network].was_done = was_done

    def run_finished(self, candidates: Sequence[Candidate], objective: Objective) -> None:
        ended = all(each.was_done is not None for each in self.networks.values())
        self._hear("run_finished", ended and any(c.is_teacher for c in candidates))

    def close(self) -> None:
        self._hear("close", "close" not in self.calls)

    def _is_running(self, network: ObservedNetwork) -> bool:
        return self.networks[network].was_done is None

    def _hear(self, call: str, in_order: bool) -> None:
        closed = self.calls[-1:] == ["close"] or (self.calls[-1:] == ["run_finished"] and call != "close")
        if not in_order or closed or (not self.calls and call != "run_started"):
            self.errors.append(f"{call} after {self.calls[-3:]}")
        self.calls.append(call)
        if call == self._broken:
            raise self._error
