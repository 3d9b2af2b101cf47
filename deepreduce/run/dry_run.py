"""A run without training: the networks that it would train, and its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.objective import COUNT_OF_RELUS, Costs, Objective, basis_of
from deepreduce.methods.base import TrainingRequest
from deepreduce.methods.proposal import Proposal
from deepreduce.network import Network
from deepreduce.run.spec import SearchSpec
from deepreduce.search.schedule import Preview, Schedule
from deepreduce.training import Precision
from deepreduce.training.timing import seconds_per_mac
from deepreduce.transforms.collapse.costs import estimate_costs
from deepreduce.utils.format import duration


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The networks that a run would train. `estimated_seconds` comes from timing some steps on this machine.

    `cost_estimates` are those of one image for the original, by the name of a preset.
    """

    network: Network
    preview: Preview
    schedule: Schedule
    estimated_seconds: float
    objective: Objective = COUNT_OF_RELUS
    cost_estimates: Mapping[str, CostEstimate] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[Proposal, ...]:
        """The networks that would be trained, most ReLUs first; provisional where `preview.is_provisional`."""
        return self.preview.proposals.networks

    def to_json(self) -> dict[str, Any]:
        """Return plain values: `candidates` (plan_id, relu_count, macs, label, plan), `probes`, ..."""

        def describe(proposal: Proposal) -> dict[str, Any]:
            return {
                "plan_id": proposal.plan_id,
                "relu_count": proposal.relu_count,
                "macs": proposal.macs,
                "label": proposal.label,
                "plan": proposal.plan.to_json(),
                "costs": {p: {"latency": c.latency, "bytes": c.bytes} for p, c in proposal.cost_estimates.items()},
                "depends_on_measurement": self.preview.is_provisional,
            }

        proposals = self.preview.proposals
        probes = [r for r in self.preview.requests if not r.makes_network]
        return {
            "model": self.network.name,
            "relu_count": self.network.relu_count,
            "cull_order": list(proposals.cull_order),
            "cull_order_is_provisional": self.preview.is_provisional,
            "probes": [describe(r.proposal) | {"depends_on_measurement": False} for r in probes],
            "candidates": [describe(p) for p in self.candidates],
            "left_out": list(proposals.left_out),
            "notes": list(proposals.notes),
            "estimated_seconds": self.estimated_seconds,
        }

    def to_text(self) -> str:
        """Return a list for a terminal."""
        proposals, requests = self.preview.proposals, self.preview.requests
        lines = [
            f"{self.network.name}: {self.network.relu_count:,} ReLUs; {len(self.candidates)} networks would be"
            " distilled from it",
            "",
            *self._table(),
            "",
            *(f"{preset}: one image, {basis_of(preset)}." for preset in self.cost_estimates),
        ]
        if any(r.learner for r in requests):
            lines.append(
                f"Each is trained {_how_trained(requests)}. Its training finds out which ReLUs it keeps, so its"
                " plan_id will be another, and it may have a few ReLUs less."
            )
        elif self.preview.is_provisional:
            lines.append(
                f"All of these depend on a measurement: {len(requests)} probes first find the order in which"
                " stages are culled."
            )
            order = f"{', '.join(proposals.cull_order)}, {self.objective.most_expensive} first"
            lines.append(f"Shown is the order {order}; method.cull_order fixes it.")
        lines += [f"Left out: {reason}." for reason in proposals.left_out]
        lines += [f"Note on {note}." for note in proposals.notes]
        lines.append(f"Estimated time on this machine: {duration(self.estimated_seconds)}.")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Return the networks, most expensive first, with their costs by the objective and under each preset."""
        objective, networks = self.objective, self.candidates
        whole = Costs(relu_count=self.network.relu_count, cost_estimates=self.cost_estimates)
        shown = [objective.under(preset) for preset in self.cost_estimates]
        compared = [] if objective.counts_relus else [objective.comparative]
        heads = ["network", "ReLUs", "fewer", *self.cost_estimates, *compared, "plan_id"]
        rows = [heads]
        for p in sorted(networks, key=lambda p: (-objective.cost(p), -p.relu_count, p.label)):
            cells = [p.label, f"{p.relu_count:,}", f"{whole.relu_count / p.relu_count:.1f}x" if p.relu_count else "-"]
            cells += [each.short(each.cost(p)) for each in shown]
            cells += [f"{objective.cost(whole) / objective.cost(p):.1f}x" for _ in compared]
            rows.append([*cells, p.plan_id])
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        last = len(heads) - 1
        return [
            "  ".join(
                cell.ljust(width) if i in (0, last) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]


def _how_trained(requests: Sequence[TrainingRequest]) -> str:
    """Return how the networks are trained whose masks are learned."""
    if any(r.learner and r.after for r in requests):
        return "in turn and begins as the one of more ReLUs"
    if any(r.start for r in requests):
        return "alone and begins as the trained network that is named"
    return "alone and begins as the full network"


def dry_run_of(spec: SearchSpec, *, batch_size: int, precision: Precision, device: torch.device) -> DryRun:
    """Return what a run would train; train some steps of the original for the estimate of time, and write nothing."""
    preview, schedule = spec.preview()
    rate = seconds_per_mac(spec.network, batch_size=batch_size, precision=precision, device=device)
    return DryRun(
        network=spec.network,
        preview=preview,
        schedule=schedule,
        estimated_seconds=rate * schedule.total_work,
        objective=spec.context.objective,
        cost_estimates=estimate_costs(spec.network, spec.presets),
    )
