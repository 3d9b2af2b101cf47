"""Reports of a running training: events, progress, snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor


class Stopped(Exception):
    """A training stopped because its caller asked for it; its snapshot is saved."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch, counted from 1: learning rate of its last step, mean training loss, wall seconds since the start.

    `val_accuracy` is a fraction, None if the epoch was not validated.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    val_accuracy: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a training: `step` of the `steps` of this epoch, `epoch` (counted from 0) of `epochs`.

    `done` is the share of all steps that has been taken, `resumed` the share that was taken before this process
    started. `train_loss` is the mean over this epoch's steps, `val_accuracy` the last one that was measured.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    done: float
    train_loss: float
    val_accuracy: float | None
    resumed: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A training between two steps: tensors by name, and plain values, which safetensors and JSON can hold."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Started:
    """The training starts or resumes; `epochs` are those that were trained before."""

    epochs: tuple[EpochRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Some steps have been taken; not every step is reported."""

    progress: Progress


@dataclass(frozen=True, kw_only=True)
class EpochEnded:
    """An epoch has ended, and was validated if that was due."""

    record: EpochRecord


TrainingEvent: TypeAlias = Started | Stepped | EpochEnded
