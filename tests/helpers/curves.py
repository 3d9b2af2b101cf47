"""Read the curves of TensorBoard's and MLflow's files back, by their own readers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest


def tensorboard_events(path: Path) -> Any:
    """Return TensorBoard's reader of a folder of events, which drops nothing."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = loading.EventAccumulator(str(path), purge_orphaned_data=False)
    accumulator.Reload()
    return accumulator


def tensorboard_curve(accumulator: Any, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def mlflow_entries(folder: Path) -> dict[str, Any]:
    """Return what an MLflow client finds, by the network's folder in the run; '.' is the run itself."""
    client = mlflow_client(folder)
    experiment = client.get_experiment_by_name("deepreduce")
    entries = client.search_runs([experiment.experiment_id], max_results=1000)
    return {entry.data.tags["deepreduce.folder"]: entry for entry in entries}


def mlflow_client(folder: Path) -> Any:
    tracking = pytest.importorskip("mlflow.tracking")
    return tracking.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")


def mlflow_curve(folder: Path, entry: Any, name: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in mlflow_client(folder).get_metric_history(entry.info.run_id, name))


def histories(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the training losses of every network, by its folder in the run."""
    found = {}
    for path in folder.glob("**/history.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            found[path.parent.relative_to(folder).as_posix()] = [
                (int(row["epoch"]), float(row["train_loss"])) for row in csv.DictReader(file)
            ]
    return found


def agree(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    """Whether the steps are the same, each once and in order, and the values as far as float32 holds them."""
    steps, values = [step for step, _ in found], [value for _, value in found]
    return steps == [step for step, _ in expected] and values == pytest.approx([value for _, value in expected])
