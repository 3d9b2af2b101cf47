"""Records of a run besides its networks: how it trains, the criticality of stages, estimated costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.model import CostModel
from deepreduce.errors import CheckpointError, UserError
from deepreduce.methods.proposal import StageCriticality
from deepreduce.store.names import COSTS, CRITICALITY, ENVIRONMENT
from deepreduce.training.autotune import ExecutionPlan
from deepreduce.utils.files import read_json, write_json


def read_execution_plan(folder: Path) -> ExecutionPlan | None:
    """Return how the run in this folder trains; None where none has begun or the file does not tell."""
    try:
        return ExecutionPlan.from_json(read_json(folder / ENVIRONMENT)["arrangement"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return None


def write_criticality(folder: Path, found: StageCriticality) -> None:
    """Write criticality.json: the order in which stages are culled, and what it follows from."""
    write_json(
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
    path = folder / CRITICALITY
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        return StageCriticality(
            cull_order=tuple(str(stage) for stage in found["cull_order"]),
            criticality={str(stage): float(value) for stage, value in found["criticality"].items()},
            val_accuracy={str(stage): float(found["val_accuracy"][stage]) for stage in found["criticality"]},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the criticality of stages: {error}") from error


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
        write_json(folder / COSTS, value)


def read_costs(folder: Path) -> RunCosts:
    """Return the estimated costs in a run's folder, empty where the run was not asked for any. Raises
    `CheckpointError` for a corrupt file.
    """
    path = folder / COSTS
    if not path.is_file():
        return RunCosts(models={}, cost_estimates={})
    found = read_json(path)
    try:
        return RunCosts(
            models={name: CostModel.from_json(model) for name, model in found["models"].items()},
            cost_estimates={
                plan_id: {preset: CostEstimate.from_json(estimate) for preset, estimate in estimates.items()}
                for plan_id, estimates in found["prices"].items()
            },
        )
    except (AttributeError, KeyError, TypeError, UserError) as error:
        raise CheckpointError(f"{path} does not hold the costs of networks: {error}") from error
