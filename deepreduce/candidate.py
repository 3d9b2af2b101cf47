"""Trained networks: a measurement, and the candidate that holds a plan with its measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from deepreduce.cost.estimate import CostEstimate
from deepreduce.plan import ReductionPlan

TEACHER_ID = "teacher"
"""The `plan_id` under which tables hold the full network."""


class Column(Enum):
    """The format of a measured value in tables."""

    COUNT = "d"
    FRACTION = ".6f"
    SECONDS = ".2f"


def _measured(column: Column) -> Any:
    return field(metadata={"column": column})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Counts and accuracies of a trained network. Accuracies and churn are fractions.

    `stage_relu_counts` maps each stage to its ReLUs for one image; `macs` are multiply-accumulates for one
    image; `churn` is the share of test images on which the network and its teacher disagree;
    `train_seconds` is wall time of training and validating, over all interruptions.
    """

    relu_count: int
    stage_relu_counts: Mapping[str, int] = field(hash=False)
    macs: int = _measured(Column.COUNT)
    val_accuracy: float = _measured(Column.FRACTION)
    test_accuracy: float = _measured(Column.FRACTION)
    churn: float = _measured(Column.FRACTION)
    train_seconds: float = _measured(Column.SECONDS)


MEASURED: Mapping[str, Column] = {f.name: f.metadata["column"] for f in fields(Measurement) if "column" in f.metadata}
"""Measured value -> its format: what tables, the page and observers show of a `Measurement` beside ReLU counts."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan with what became of it.

    `label` is the plan in a reader's words ("cull S1, thin"). `folder` holds its plan and weights, relative
    to the run folder. A candidate whose training failed, or that an earlier version gave up since another one was
    better (`is_dropped`), has `measurement` None and the reason in `failure`. `cost_estimates` are those of one image
    under secure computation, by the name of a preset such as "cheetah-lan".
    """

    plan_id: str
    plan: ReductionPlan
    label: str
    relu_count: int
    folder: str
    measurement: Measurement | None = None
    failure: str | None = None
    is_dropped: bool = False
    cost_estimates: Mapping[str, CostEstimate] = field(default_factory=dict, hash=False)

    @property
    def is_teacher(self) -> bool:
        """True for the full network, which tables list beside its reductions."""
        return self.plan_id == TEACHER_ID
