"""What the page shows, as the plain values that its script reads."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from deepreduce.frontier import knee, measurement_of, pareto_front
from deepreduce.plan import Candidate
from deepreduce.report.tables import candidates_csv

_OWN_COMMAND = "deepreduce"


@dataclass(frozen=True, kw_only=True)
class SiteCount:
    """A ReLU site of a network with its ReLUs for one image."""

    name: str
    stage: str
    relu_count: int


@dataclass(frozen=True, kw_only=True)
class TrainedEpoch:
    """An epoch of a network's training; an accuracy (a fraction) that was not measured is None."""

    epoch: int
    train_loss: float
    val_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """What a network's folder says beside its row in the tables.

    `path` is where Python finds the folder. A network that `needs_model` reduces a module that was made in Python,
    which loading it takes.
    """

    path: str
    sites: tuple[SiteCount, ...]
    history: tuple[TrainedEpoch, ...]
    needs_model: bool


@dataclass(frozen=True, kw_only=True)
class StageWorth:
    """The criticality of a stage, and the validation accuracy (a fraction) with ReLUs in that stage only."""

    stage: str
    criticality: float
    val_accuracy: float


@dataclass(frozen=True, kw_only=True)
class PageContents:
    """All that the page of a run shows.

    `candidates` hold the teacher. `files` has an entry for each of them, by plan_id. `criticality` is empty where
    the order of culling was given. `config_yaml` is the run's config, `config_path` where it lies, `environment`
    what the run noted about its machine. A run that is not `complete` has networks still to train.
    """

    title: str
    candidates: Sequence[Candidate]
    files: Mapping[str, NetworkFiles]
    criticality: Sequence[StageWorth]
    config_yaml: str
    config_path: str
    environment: Mapping[str, Any]
    complete: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values without NaN or infinity, which JSON has not."""
        teacher = next(c for c in self.candidates if c.is_teacher)
        stages = list(measurement_of(teacher).stage_relu_counts)
        front = pareto_front(self.candidates)
        on_front = {c.plan_id for c in front}
        ordered = sorted(self.candidates, key=lambda c: (-c.relu_count, c.plan_id))
        return {
            "title": self.title,
            "complete": self.complete,
            "stages": stages,
            "networks": [_network(c, self.files[c.plan_id], on_front=c.plan_id in on_front) for c in ordered],
            "first": knee(front).plan_id,
            "csv": candidates_csv(self.candidates, stages=stages),
            "criticality": [
                {"stage": w.stage, "criticality": _finite(w.criticality), "val_accuracy": w.val_accuracy}
                for w in self.criticality
            ],
            "commands": _commands(self.environment.get("command"), config_path=self.config_path),
            "config": self.config_yaml,
            "environment": _facts(self.environment),
        }


def _network(candidate: Candidate, files: NetworkFiles, *, on_front: bool) -> dict[str, Any]:
    measured = candidate.measurement
    return {
        "id": candidate.plan_id,
        "label": "teacher" if candidate.is_teacher else candidate.label,
        "is_teacher": candidate.is_teacher,
        "on_front": on_front,
        "failure": candidate.failure,
        "is_dropped": candidate.is_dropped,
        "relu_count": candidate.relu_count,
        "stages": None if measured is None else dict(measured.stage_relu_counts),
        "val_accuracy": None if measured is None else measured.val_accuracy,
        "test_accuracy": None if measured is None else measured.test_accuracy,
        "churn": None if measured is None else measured.churn,
        "macs": None if measured is None else measured.macs,
        "train_seconds": None if measured is None else measured.train_seconds,
        "folder": candidate.folder,
        "plan": candidate.plan.to_json(),
        "sites": [[s.name, s.stage, s.relu_count] for s in files.sites],
        # a column each: a run may hold thousands of epochs
        "history": {
            "epoch": [e.epoch for e in files.history],
            "train_loss": [_rounded(e.train_loss) for e in files.history],
            "val_accuracy": [_rounded(e.val_accuracy) for e in files.history],
        },
        "snippet": _snippet(files),
    }


def _snippet(files: NetworkFiles) -> str:
    if files.needs_model:
        lines = [
            "import deepreduce",
            "",
            "original = ...  # a module of the class that was optimized",
            f"network = deepreduce.load_reduced({files.path!r}, model=original)",
        ]
    else:
        lines = ["import deepreduce", "", f"network = deepreduce.load_reduced({files.path!r})"]
    return "\n".join(lines)


def _commands(words: Any, *, config_path: str) -> dict[str, str | None]:
    """The command that began the run, where it was ours, and the one that runs its config anew."""
    again = [_OWN_COMMAND, "optimize", "--config", config_path, "--out", "runs/again"]
    given = None
    if isinstance(words, list) and words and PurePath(str(words[0])).stem == _OWN_COMMAND:
        # where the program lay is this machine's matter
        given = shlex.join([_OWN_COMMAND, *(str(word) for word in words[1:])])
    return {"given": given, "again": shlex.join(again)}


def _facts(values: Mapping[str, Any], *, section: str = "") -> list[tuple[str, str]]:
    """What the run noted, as (name, text) lines; the command has a place of its own."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _facts(value, section=key)
        elif value not in ("", None) and (section, key) != ("", "command"):
            name = f"{key} fingerprint" if section == "identity" and key in ("model", "data") else key
            found.append((name, _text(value)))
    return found


def _text(value: Any) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, (list, tuple)) else str(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    """To what a plot can show; a long history is most of the page's own size."""
    finite = _finite(value)
    return None if finite is None else float(f"{finite:.5g}")
