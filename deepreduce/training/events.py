"""What a training reports while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from deepreduce.training.loop import EpochRecord, Progress


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
