"""The data of the page, as the plain values that its script reads."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from deepreduce.candidate import MEASURED, Candidate
from deepreduce.cost.estimate import KINDS, CostEstimate
from deepreduce.cost.objective import COUNT_OF_RELUS, Objective, basis_of, objectives_under
from deepreduce.frontier import front_by, knee, measurement_of
from deepreduce.report.tables import candidates_csv
from deepreduce.utils.format import BYTES, COUNT, SECONDS

_OWN_COMMAND = "deepreduce"


@dataclass(frozen=True, kw_only=True)
class SiteCount:
    """A ReLU site of a network and its number of ReLUs for one image.

    `action` describes a site action that keeps only some of its ReLUs ("12 of 64 channels"); else it is "".
    """

    name: str
    stage: str
    relu_count: int
    action: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainedEpoch:
    """An epoch of a network's training; `val_accuracy` (a fraction) is None if it was not measured."""

    epoch: int
    train_loss: float
    val_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """The contents of a network's folder that the tables do not have.

    `path` is the folder's path for `load_reduced`. `needs_model`: the original was a module given in Python, which
    loading the network requires; `runs_file`: building it runs a file of the user's, for which loading
    must be given `trust_code`.
    """

    path: str
    sites: tuple[SiteCount, ...]
    history: tuple[TrainedEpoch, ...]
    needs_model: bool
    runs_file: bool = False


@dataclass(frozen=True, kw_only=True)
class StageWorth:
    """The criticality of a stage, and the validation accuracy (a fraction) with ReLUs in that stage only."""

    stage: str
    criticality: float
    val_accuracy: float


@dataclass(frozen=True, kw_only=True)
class PageContents:
    """The data of a run's page.

    `candidates` include the teacher; `files` has an entry for each candidate, by plan_id. `criticality` is empty if
    the user gave the order of culling. `config_yaml` is the text of the run's config, `config_path` its path,
    `environment` the run's record of its machine. A run that is not `complete` has networks left to train. The page
    opens with the frontier of `objective` and offers the frontiers of all known costs.
    """

    title: str
    candidates: Sequence[Candidate]
    files: Mapping[str, NetworkFiles]
    criticality: Sequence[StageWorth]
    config_yaml: str
    config_path: str
    environment: Mapping[str, Any]
    complete: bool
    objective: Objective = COUNT_OF_RELUS

    def to_json(self) -> dict[str, Any]:
        """Return the data as JSON values, with None for NaN and infinity."""
        teacher = next(c for c in self.candidates if c.is_teacher)
        stages = list(measurement_of(teacher).stage_relu_counts)
        objectives = _objectives(self.candidates)
        ordered = sorted(self.candidates, key=lambda c: (-c.relu_count, c.plan_id))
        return {
            "title": self.title,
            "complete": self.complete,
            "stages": stages,
            "networks": [_network(c, self.files[c.plan_id], objectives) for c in ordered],
            "units": {"count": COUNT.to_json(), "seconds": SECONDS.to_json(), "bytes": BYTES.to_json()},
            "axes": [_axis(objective, self.candidates) for objective in objectives],
            "axis": (self.objective if self.objective in objectives else COUNT_OF_RELUS).key,
            "presets": [{"name": name, "basis": basis_of(name)} for name in _presets(self.candidates)],
            "csv": candidates_csv(self.candidates, stages=stages),
            "criticality": [
                {"stage": w.stage, "criticality": _finite(w.criticality), "val_accuracy": w.val_accuracy}
                for w in self.criticality
            ],
            "commands": _commands(self.environment.get("command"), config_path=self.config_path),
            "config": self.config_yaml,
            "environment": _facts(self.environment),
        }


def _presets(candidates: Sequence[Candidate]) -> list[str]:
    return sorted({preset for c in candidates for preset in c.cost_estimates})


def _objectives(candidates: Sequence[Candidate]) -> list[Objective]:
    """Return the objectives under which some measured network has a cost, ReLUs first."""
    return [o for o in objectives_under(_presets(candidates)) if front_by(o, candidates)]


def _axis(objective: Objective, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return an axis of the frontier chart, the networks on its front, and the network at its knee."""
    front = front_by(objective, candidates)
    best = knee(front, objective=objective)
    teacher = next(c for c in candidates if c.is_teacher)
    full_cost = objective.cost(teacher) if objective.knows(teacher) else None
    return {
        "key": objective.key,
        "noun": objective.noun,
        "title": objective.title,
        "comparative": objective.comparative,
        "counts_relus": objective.counts_relus,
        "is_whole": objective.is_whole,
        "unit": objective.unit.to_json(),
        "front": [c.plan_id for c in front],
        "first": best.plan_id,
        "gain": objective.gain(objective.cost(best), full_cost),
    }


def _cost_to_json(estimate: CostEstimate) -> dict[str, Any]:
    """Return seconds by kind of layer (in the order of `KINDS`) and by cause, bytes by kind of layer, and rounds."""
    shares = {share.kind: share for share in estimate.shares}
    return {
        "seconds": [shares[kind].seconds for kind in KINDS],
        "causes": [
            sum(share.compute_seconds for share in estimate.shares),
            sum(share.sending_seconds for share in estimate.shares),
            sum(share.waiting_seconds for share in estimate.shares),
        ],
        "bytes": [shares[kind].bytes for kind in KINDS],
        "offline_bytes": estimate.offline_bytes,
        "offline_seconds": estimate.offline_seconds,
        "rounds": estimate.rounds,
    }


def _network(candidate: Candidate, files: NetworkFiles, objectives: Sequence[Objective]) -> dict[str, Any]:
    measured = candidate.measurement
    return {
        "id": candidate.plan_id,
        "label": "teacher" if candidate.is_teacher else candidate.label,
        "is_teacher": candidate.is_teacher,
        "costs": {o.key: o.cost(candidate) for o in objectives if o.knows(candidate)},
        "cost_estimates": {
            name: _cost_to_json(estimate) for name, estimate in sorted(candidate.cost_estimates.items())
        },
        "failure": candidate.failure,
        "is_dropped": candidate.is_dropped,
        "relu_count": candidate.relu_count,
        "stages": None if measured is None else dict(measured.stage_relu_counts),
        **{name: None if measured is None else getattr(measured, name) for name in MEASURED},
        "folder": candidate.folder,
        "plan": candidate.plan.to_json(),
        "sites": [[s.name, s.stage, s.relu_count, *filter(None, [s.action])] for s in files.sites],
        # columns instead of rows save names: a run may have thousands of epochs
        "history": {
            "epoch": [e.epoch for e in files.history],
            "train_loss": [_round(e.train_loss) for e in files.history],
            "val_accuracy": [_round(e.val_accuracy) for e in files.history],
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
        trusted = ", trust_code=True" if files.runs_file else ""
        lines = ["import deepreduce", "", f"network = deepreduce.load_reduced({files.path!r}{trusted})"]
    return "\n".join(lines)


def _commands(words: Any, *, config_path: str) -> dict[str, str | None]:
    """Return the command that started the run (None if it was not deepreduce's), and the one that repeats the run."""
    again = [_OWN_COMMAND, "optimize", "--config", config_path, "--out", "runs/again"]
    given = None
    if isinstance(words, list) and words and PurePath(str(words[0])).stem == _OWN_COMMAND:
        # the program's path is particular to this machine
        given = shlex.join([_OWN_COMMAND, *(str(word) for word in words[1:])])
    return {"given": given, "again": shlex.join(again)}


def _facts(values: Mapping[str, Any], *, section: str = "") -> list[tuple[str, str]]:
    """Return the recorded environment as (name, text) pairs, without the command, which the page shows apart."""
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


def _round(value: float | None) -> float | None:
    """Round to the digits that a plot shows: a long history makes up most of the page's own size."""
    finite = _finite(value)
    return None if finite is None else float(f"{finite:.5g}")
