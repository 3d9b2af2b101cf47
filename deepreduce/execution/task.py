"""Trainings and their results as plain data, which any process on any machine can be sent.

Folders are POSIX paths relative to the run's folder, as in "candidates/3fa9c1d2e4"; who trains opens them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepreduce.candidate import Measurement
from deepreduce.plan import ReductionPlan
from deepreduce.training import CallbackFactory, Distillation, LearnerFactory, Recipe

_MOST = 2**63
"""More than any count or time."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """A trained network of the run, to take initial weights from; one of an earlier run has an absolute folder."""

    folder: str
    plan: ReductionPlan


@dataclass(frozen=True, kw_only=True)
class Student:
    """A network to train: what reduces the original to it, where its files go, and what it starts from.

    Its initial weights are those of `start`, or the original's where that is None; `seed` draws those that it does
    not inherit. After the training, `statistics_batches` batches give it new batch-norm statistics (0: it keeps the
    training's).
    """

    name: str
    plan: ReductionPlan
    folder: str
    seed: int
    start: WarmStart | None = None
    statistics_batches: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """One training of a student; its folder holds the snapshot until the training is done.

    `first_epoch` is the epoch of the augmentation schedule that is shown first: students that are trained at the same
    time begin apart, so that they need not ask the teacher the same. `callbacks` take part in the training. A
    `learner` decides what is done at the ReLU sites of the student, whose plan is then what it begins with; the
    result tells the plan. `distillation` is the loss of this training; None: the run's.
    """

    student: Student
    recipe: Recipe
    first_epoch: int = 0
    callbacks: tuple[CallbackFactory, ...] = ()
    learner: LearnerFactory | None = None
    distillation: Distillation | None = None

    @property
    def name(self) -> str:
        """Name of the student."""
        return self.student.name

    @property
    def folder(self) -> str:
        """Folder of the student."""
        return self.student.folder


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of a student's training: accuracies and churn as fractions, or why it failed.

    `churn` is the share of test images on which it disagrees with the teacher. `train_seconds` are wall seconds over
    all interruptions. `plan` is the plan that was learned in the training, None where the student's stayed.
    """

    val_accuracy: float | None = None
    test_accuracy: float | None = None
    churn: float | None = None
    train_seconds: float = 0.0
    relu_count: int = 0
    stage_relu_counts: dict[str, int] | None = None
    macs: int = 0
    failure: str | None = None
    plan: ReductionPlan | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of metrics.json; what was not measured is absent, and so is the plan, in plan.json."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "plan"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainResult:
        """Return the result that `to_json` gave. Raises `ValueError` for any other value."""
        try:
            result = cls(**value)
        except TypeError as error:
            raise ValueError(f"its metrics can't be read: {error}") from error
        if not result._holds_numbers():
            raise ValueError("its metrics hold what is no count, fraction or time")
        if result.failure is not None and not isinstance(result.failure, str):
            raise ValueError("its metrics hold a failure that is no text")
        if result.failure is None and None in (result.val_accuracy, result.test_accuracy):
            raise ValueError("its metrics are incomplete")
        return result

    def _holds_numbers(self) -> bool:
        counts = {} if self.stage_relu_counts is None else self.stage_relu_counts
        if not isinstance(counts, dict):
            return False
        fractions = [v for v in (self.val_accuracy, self.test_accuracy, self.churn) if v is not None]
        return (
            all(type(n) in (int, float) and 0 <= n <= 1 for n in fractions)
            and all(type(n) is int and 0 <= n <= _MOST for n in (self.relu_count, self.macs, *counts.values()))
            and type(self.train_seconds) in (int, float)
            and 0 <= self.train_seconds <= _MOST
        )

    def summary(self) -> str:
        """Return the result in a few words, as in "val 90.28 %, test 89.50 %, 14,336 ReLUs, 12 s"."""
        if self.failure is not None:
            return f"failed: {self.failure}"
        parts = [
            f"{name} {100 * accuracy:.2f} %"
            for name, accuracy in (("val", self.val_accuracy), ("test", self.test_accuracy))
            if accuracy is not None
        ]
        return f"{', '.join(parts)}, {self.relu_count:,} ReLUs, {self.train_seconds:.0f} s"

    def measurement(self) -> Measurement | None:
        """Return the result as a measurement; None for a network that failed."""
        if self.failure is not None or self.val_accuracy is None or self.test_accuracy is None:
            return None
        return Measurement(
            relu_count=self.relu_count,
            stage_relu_counts=self.stage_relu_counts or {},
            macs=self.macs,
            val_accuracy=self.val_accuracy,
            test_accuracy=self.test_accuracy,
            churn=self.churn or 0.0,
            train_seconds=self.train_seconds,
        )
