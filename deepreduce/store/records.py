"""Records of a run besides its networks: how it trains, the criticality of stages, estimated costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.model import CostModel
from deepreduce.errors import CheckpointError, UserError
from deepreduce.methods.proposal import StageCriticality
from deepreduce.store.names import COSTS, CRITICALITY, ENVIRONMENT
from deepreduce.store.sealed import RecordModel, checked, read_run_record
from deepreduce.training.autotune import ExecutionPlan
from deepreduce.utils.file_names import checked_name
from deepreduce.utils.records import write_record


def read_execution_plan(folder: Path) -> ExecutionPlan | None:
    """Return how the run in this folder trains; None where none has begun or the file does not tell."""
    try:
        return ExecutionPlan.from_json(read_run_record(folder / ENVIRONMENT)["arrangement"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return None


class _CriticalityRecord(RecordModel):
    cull_order: list[str]
    criticality: dict[str, float]
    val_accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]]


def write_criticality(folder: Path, found: StageCriticality) -> None:
    """Write criticality.json: the order in which stages are culled, and what it follows from."""
    write_record(
        folder / CRITICALITY,
        {
            "cull_order": list(found.cull_order),
            "criticality": dict(found.criticality),
            "val_accuracy": dict(found.val_accuracy),
        },
    )


def read_criticality(folder: Path) -> StageCriticality | None:
    """Return the criticality that a run has measured; None where the order of culling was given, or is not known yet.

    Raises `CheckpointError` for a corrupt file.
    """
    path, what = folder / CRITICALITY, "does not hold the criticality of stages"
    if not path.is_file():
        return None
    found = checked(_CriticalityRecord, read_run_record(path), path, what)
    if not found.criticality.keys() == found.val_accuracy.keys() >= set(found.cull_order):
        raise CheckpointError(f"{path} {what}: its parts name different stages")
    return StageCriticality(
        cull_order=tuple(found.cull_order), criticality=found.criticality, val_accuracy=found.val_accuracy
    )


@dataclass(frozen=True, kw_only=True)
class RunCosts:
    """Estimated costs of a run's networks: the cost models by name, and estimates by plan_id, then by preset."""

    models: Mapping[str, CostModel]
    cost_estimates: Mapping[str, Mapping[str, CostEstimate]]

    def write(self, folder: Path) -> None:
        """Write costs.json into a run's folder."""
        value = {
            "models": {name: model.to_json() for name, model in self.models.items()},
            "prices": {
                plan_id: {preset: estimate.to_json() for preset, estimate in estimates.items()}
                for plan_id, estimates in self.cost_estimates.items()
            },
        }
        write_record(folder / COSTS, value)


def read_costs(folder: Path) -> RunCosts:
    """Return the estimated costs in a run's folder, empty where the run was not asked for any.

    Raises `CheckpointError` for a corrupt file.
    """
    path = folder / COSTS
    if not path.is_file():
        return RunCosts(models={}, cost_estimates={})
    try:
        found = read_run_record(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; remove it and give optimize's command again, which estimates anew"
        ) from error
    try:
        return RunCosts(
            models={checked_name(name): CostModel.from_json(model) for name, model in found["models"].items()},
            cost_estimates={
                plan_id: {
                    checked_name(preset): CostEstimate.from_json(estimate) for preset, estimate in estimates.items()
                }
                for plan_id, estimates in found["prices"].items()
            },
        )
    except (AttributeError, KeyError, TypeError, UserError) as error:
        raise CheckpointError(f"{path} does not hold the costs of networks: {error}") from error
