"""The result of a run: its networks, its frontier, and the best network for a budget."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from deepreduce.candidate import Candidate, Measurement
from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.objective import COUNT_OF_RELUS, Objective, basis_of
from deepreduce.errors import UserError
from deepreduce.frontier import best, front_by, knee, measurement_of
from deepreduce.plan import ReductionPlan
from deepreduce.report.tables import candidates_csv, frontier_rows, frontier_table
from deepreduce.run.read import estimated_presets
from deepreduce.store.checkpoint import load_reduced, read_plan
from deepreduce.store.names import CANDIDATES_CSV, FRONTIER_CSV, FRONTIER_PLOTS, LAYERS_PLOT, costs_plot
from deepreduce.utils.html import paragraph, png_image, table
from deepreduce.utils.optional import require_packages

if TYPE_CHECKING:
    import pandas

_TEXTS = ("network", "plan_id")
"""Columns of the frontier's table that hold no numbers."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReducedNetwork:
    """A trained network of a run, whose weights are read when `model` is asked for.

    `trust_code` allows to run the user's file that its original is built by.
    """

    candidate: Candidate
    folder: Path
    original: nn.Module | None = None
    trust_code: bool = False

    @cached_property
    def model(self) -> nn.Module:
        """The network in evaluation mode: an ordinary module, images (batch, C, H, W) to logits (batch, classes)."""
        return load_reduced(self.folder, model=self.original, trust_code=self.trust_code)

    @property
    def measurement(self) -> Measurement:
        """Counts and accuracies. Raises `UserError` for a network whose training failed or was given up."""
        return measurement_of(self.candidate)

    @property
    def plan_id(self) -> str:
        """`teacher` for the full network."""
        return self.candidate.plan_id

    @property
    def plan(self) -> ReductionPlan:
        """Return what reduces the original to this network, masks included."""
        plan = self.candidate.plan
        return plan if plan.is_complete else read_plan(self.folder)

    @property
    def label(self) -> str:
        """The plan in a reader's words."""
        return self.candidate.label

    @property
    def relu_count(self) -> int:
        """ReLUs for one image."""
        return self.candidate.relu_count

    @property
    def cost_estimates(self) -> Mapping[str, CostEstimate]:
        """Cost of one image under secure computation, by the name of a preset such as "cheetah-lan"."""
        return self.candidate.cost_estimates

    @property
    def val_accuracy(self) -> float:
        """As a fraction."""
        return self.measurement.val_accuracy

    @property
    def test_accuracy(self) -> float:
        """As a fraction."""
        return self.measurement.test_accuracy

    def __repr__(self) -> str:
        return f"ReducedNetwork({self.label}: {self._describe()}; {self.folder})"

    def _repr_html_(self) -> str:
        return paragraph(self.label, strong=True) + paragraph(self._describe()) + paragraph(str(self.folder))

    def _describe(self) -> str:
        if self.candidate.measurement is None:
            what = "dropped" if self.candidate.is_dropped else "failed"
            return f"{self.relu_count:,} ReLUs, {what}: {self.candidate.failure}"
        val, test = 100 * self.val_accuracy, 100 * self.test_accuracy
        return f"{self.relu_count:,} ReLUs, val {val:.2f} %, test {test:.2f} %"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """A finished run. `criticality` is what each stage's ReLUs are worth, empty where the order was given.

    `objective` is the cost that its frontier is about: ReLUs, latency or bytes. `title` is that of its plots.
    """

    folder: Path
    teacher: ReducedNetwork
    candidates: tuple[ReducedNetwork, ...]
    criticality: Mapping[str, float]
    objective: Objective = COUNT_OF_RELUS
    title: str = ""

    def __iter__(self) -> Iterator[ReducedNetwork]:
        return iter(self.frontier)

    @cached_property
    def frontier(self) -> tuple[ReducedNetwork, ...]:
        """The networks, teacher included, that no other beats in cost and validation accuracy, cheapest first."""
        return tuple(self._network(c) for c in front_by(self.objective, self._all()))

    def best(
        self,
        *,
        max_relus: float | None = None,
        max_cost: float | None = None,
        min_accuracy: float | None = None,
    ) -> ReducedNetwork:
        """The network for a budget of ReLUs or of the objective (seconds, bytes), or for a validation accuracy.

        The accuracy is a fraction; see `frontier.best`.
        """
        found = best(
            self._all(), max_relus=max_relus, max_cost=max_cost, min_accuracy=min_accuracy, objective=self.objective
        )
        return self._network(found)

    @property
    def knee(self) -> ReducedNetwork:
        """The network after which a higher cost gains little."""
        return self._network(knee([n.candidate for n in self.frontier], objective=self.objective))

    def table(self) -> str:
        """The frontier for a terminal."""
        front = [n.candidate for n in self.frontier]
        return frontier_table(front, teacher=self.teacher.candidate, objective=self.objective)

    def summary(self) -> str:
        """Return where the files are, for a terminal."""
        lost = [n.candidate for n in self.candidates if n.candidate.measurement is None]
        dropped = sum(c.is_dropped for c in lost)
        counts = {"failed": len(lost) - dropped, "were dropped, since others are better": dropped}
        lost_counts = [
            f"{count} of {len(self.candidates)} networks {what}" for what, count in counts.items() if count
        ]
        lines = [f"{'; '.join(lost_counts)}. {CANDIDATES_CSV} says why."] if lost_counts else []
        lines += [
            f"{self.folder / FRONTIER_CSV}  the frontier ({CANDIDATES_CSV}: all {len(self.candidates)} networks)",
            f"{self.folder / FRONTIER_PLOTS[0]}  and {LAYERS_PLOT}, which ReLUs each keeps",
            *(
                f"{self.folder / costs_plot(preset)}  where latency and bytes go, {basis_of(preset)}"
                for preset in estimated_presets(self._all())
            ),
            f"{self.folder / self.knee.candidate.folder}  the network at the knee, for deepreduce.load_reduced",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Result({self.folder}: {len(self.candidates)} networks, {len(self.frontier)} points on the frontier)"

    def _repr_html_(self) -> str:
        front = [n.candidate for n in self.frontier]
        heads, rows = frontier_rows(front, teacher=self.teacher.candidate, objective=self.objective)
        return "".join(
            [
                paragraph(self.title, strong=True),
                table(heads, rows, texts=_TEXTS),
                png_image(self._plot, description=f"Frontier: {self.title}"),
                *(paragraph(line) for line in self.summary().splitlines()),
            ]
        )

    @cached_property
    def _plot(self) -> bytes:
        # matplotlib takes a second to import
        from deepreduce.report.figures.frontier import figure_bytes, frontier_figure

        front = [n.candidate for n in self.frontier]
        figure = frontier_figure(self._all(), front, title=self.title, objective=self.objective)
        return figure_bytes(figure, "png")

    def to_pandas(self) -> pandas.DataFrame:
        """All networks, teacher included, in the rows and columns of candidates.csv; empty cells are NaN.

        Raises `UserError` where pandas is not installed.
        """
        require_packages("to_pandas", "pandas", extra="notebook")
        import pandas

        text = candidates_csv(self._all(), stages=tuple(self.teacher.measurement.stage_relu_counts))
        # a plan_id of digits alone is no number
        texts = dict.fromkeys(("plan_id", "label", "status", "failure", "folder", "plan"), str)
        return pandas.read_csv(io.StringIO(text), dtype=texts, keep_default_na=False, na_values=[""])

    def to_json(self) -> dict[str, Any]:
        """Plain values: folder, criticality, and every network with what was measured."""
        return {
            "folder": str(self.folder),
            "objective": self.objective.to_json(),
            "criticality": dict(self.criticality),
            "frontier": [n.plan_id for n in self.frontier],
            "candidates": [_describe(c) for c in self._all()],
        }

    def _all(self) -> list[Candidate]:
        return [self.teacher.candidate, *(n.candidate for n in self.candidates)]

    def _network(self, candidate: Candidate) -> ReducedNetwork:
        for network in (self.teacher, *self.candidates):
            if network.plan_id == candidate.plan_id:
                return network
        raise UserError(f"the run has no network {candidate.plan_id}")


def _describe(candidate: Candidate) -> dict[str, Any]:
    measured = asdict(candidate.measurement) if candidate.measurement is not None else None
    return {
        "plan_id": candidate.plan_id,
        "relu_count": candidate.relu_count,
        "label": candidate.label,
        "plan": candidate.plan.to_json(),
        "folder": candidate.folder,
        "failure": candidate.failure,
        "is_dropped": candidate.is_dropped,
        "measurement": measured,
        "prices": {preset: _cost_to_json(estimate) for preset, estimate in candidate.cost_estimates.items()},
    }


def _cost_to_json(estimate: CostEstimate) -> dict[str, Any]:
    return {
        "latency": estimate.latency,
        "online_bytes": estimate.online_bytes,
        "offline_seconds": estimate.offline_seconds,
        "offline_bytes": estimate.offline_bytes,
        "rounds": estimate.rounds,
        "shares": estimate.to_json(),
    }
