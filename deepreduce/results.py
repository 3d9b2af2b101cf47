"""What a run hands back: its networks, its frontier, and the best one for a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from deepreduce.errors import UserError
from deepreduce.export import load_reduced
from deepreduce.frontier import best, knee, measurement_of, pareto_front
from deepreduce.outputs import CANDIDATES_CSV, FRONTIER_CSV, FRONTIER_PLOTS, LAYERS_PLOT
from deepreduce.plan import Candidate, Measurement, ReductionPlan
from deepreduce.report.tables import frontier_table


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedNetwork:
    """A trained network of a run, whose weights are read when `model` is asked for."""

    candidate: Candidate
    folder: Path
    original: nn.Module | None = field(default=None, repr=False)

    @cached_property
    def model(self) -> nn.Module:
        """The network in evaluation mode: an ordinary module, images (batch, C, H, W) to logits (batch, classes)."""
        return load_reduced(self.folder, model=self.original)

    @property
    def measurement(self) -> Measurement:
        """Counts and accuracies. Raises `UserError` for a network whose training failed."""
        return measurement_of(self.candidate)

    @property
    def plan_id(self) -> str:
        """`teacher` for the full network."""
        return self.candidate.plan_id

    @property
    def plan(self) -> ReductionPlan:
        """What reduces the original to it."""
        return self.candidate.plan

    @property
    def label(self) -> str:
        """The plan in a reader's words."""
        return self.candidate.label

    @property
    def relu_count(self) -> int:
        """ReLUs for one image."""
        return self.candidate.relu_count

    @property
    def val_accuracy(self) -> float:
        """As a fraction."""
        return self.measurement.val_accuracy

    @property
    def test_accuracy(self) -> float:
        """As a fraction."""
        return self.measurement.test_accuracy


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A finished run. `criticality` is what each stage's ReLUs are worth, empty where the order was given."""

    folder: Path
    teacher: ReducedNetwork
    candidates: tuple[ReducedNetwork, ...]
    criticality: Mapping[str, float]

    def __iter__(self) -> Iterator[ReducedNetwork]:
        return iter(self.frontier)

    @cached_property
    def frontier(self) -> tuple[ReducedNetwork, ...]:
        """The networks, teacher included, that no other beats in both ReLUs and validation accuracy; fewest first."""
        return tuple(self._network(c) for c in pareto_front(self._all()))

    def best(self, *, max_relus: float | None = None, min_accuracy: float | None = None) -> ReducedNetwork:
        """The network for a budget of ReLUs, or for a validation accuracy (a fraction); see `frontier.best`."""
        return self._network(best(self._all(), max_relus=max_relus, min_accuracy=min_accuracy))

    @property
    def knee(self) -> ReducedNetwork:
        """The network after which more ReLUs gain little."""
        return self._network(knee([n.candidate for n in self.frontier]))

    def table(self) -> str:
        """The frontier for a terminal."""
        return frontier_table([n.candidate for n in self.frontier], teacher=self.teacher.candidate)

    def summary(self) -> str:
        """Where the files are, for a terminal."""
        failed = [n for n in self.candidates if n.candidate.failure is not None]
        lines = (
            [f"{len(failed)} of {len(self.candidates)} networks failed; {CANDIDATES_CSV} says why."] if failed else []
        )
        lines += [
            f"{self.folder / FRONTIER_CSV}  the frontier ({CANDIDATES_CSV}: all {len(self.candidates)} networks)",
            f"{self.folder / FRONTIER_PLOTS[0]}  and {LAYERS_PLOT}, which ReLUs each keeps",
            f"{self.folder / self.knee.candidate.folder}  the network at the knee, for deepreduce.load_reduced",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values: folder, criticality, and every network with what was measured."""
        return {
            "folder": str(self.folder),
            "criticality": dict(self.criticality),
            "frontier": [n.plan_id for n in self.frontier],
            "candidates": [_told(c) for c in self._all()],
        }

    def _all(self) -> list[Candidate]:
        return [self.teacher.candidate, *(n.candidate for n in self.candidates)]

    def _network(self, candidate: Candidate) -> ReducedNetwork:
        for network in (self.teacher, *self.candidates):
            if network.plan_id == candidate.plan_id:
                return network
        raise UserError(f"the run has no network {candidate.plan_id}")


def _told(candidate: Candidate) -> dict[str, Any]:
    measured = asdict(candidate.measurement) if candidate.measurement is not None else None
    return {
        "plan_id": candidate.plan_id,
        "relu_count": candidate.relu_count,
        "label": candidate.label,
        "plan": candidate.plan.to_json(),
        "folder": candidate.folder,
        "failure": candidate.failure,
        "measurement": measured,
    }
