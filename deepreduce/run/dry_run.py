"""What a run would train and how long it would take, without training anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from deepreduce.cost.objective import BYTES, COUNT_OF_RELUS, RELUS, Costs, Objective, basis_of
from deepreduce.cost.preset import prices_of
from deepreduce.cost.price import CostEstimate
from deepreduce.methods.proposal import Proposal
from deepreduce.network import Network
from deepreduce.run.spec import SearchSpec
from deepreduce.search.schedule import Preview
from deepreduce.training import Precision
from deepreduce.training.timing import seconds_per_mac
from deepreduce.utils.format import duration, short_bytes, short_seconds


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would train. `estimated_seconds` comes from timing the network on this machine for a moment.

    `prices` estimate what an image costs the original under secure computation, by the name of a preset.
    """

    network: Network
    preview: Preview
    estimated_seconds: float
    objective: Objective = COUNT_OF_RELUS
    prices: Mapping[str, CostEstimate] = field(default_factory=dict)

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
                "costs": {p: {"latency": c.latency, "bytes": c.bytes} for p, c in proposal.prices.items()},
                "depends_on_measurement": self.preview.is_provisional,
            }

        proposals = self.preview.proposals
        return {
            "model": self.network.name,
            "relu_count": self.network.relu_count,
            "cull_order": list(proposals.cull_order),
            "cull_order_is_provisional": self.preview.is_provisional,
            "probes": [describe(r.proposal) | {"depends_on_measurement": False} for r in self.preview.requests],
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
            *(f"{preset}: one image, {basis_of(preset)}." for preset in self.prices),
        ]
        if self.preview.is_provisional:
            lines.append(
                f"All of these depend on a measurement: {len(requests)} probes first find the order in which"
                " stages are culled."
            )
            first = "most ReLUs" if self.objective.name == RELUS else "most expensive"
            lines.append(
                f"Shown is the order {', '.join(proposals.cull_order)}, {first} first; method.cull_order fixes it."
            )
        lines += [f"Left out: {reason}." for reason in proposals.left_out]
        lines += [f"Note on {note}." for note in proposals.notes]
        lines.append(f"Estimated time on this machine: {duration(self.estimated_seconds)}.")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Return the networks, most expensive first, with their costs by the objective and under each preset."""
        objective, networks = self.objective, self.candidates
        whole = Costs(relu_count=self.network.relu_count, prices=self.prices)
        presets = list(self.prices)
        heads = ["network", "ReLUs", "fewer", *presets, *(["less"] if objective.name != RELUS else []), "plan_id"]
        rows = [heads]
        for p in sorted(networks, key=lambda p: (-objective.cost(p), -p.relu_count, p.label)):
            cells = [p.label, f"{p.relu_count:,}", f"{whole.relu_count / p.relu_count:.1f}x" if p.relu_count else "-"]
            cells += [_short_cost(p.prices[preset], objective) for preset in presets]
            if objective.name != RELUS:
                cells.append(f"{objective.cost(whole) / objective.cost(p):.1f}x")
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


def _short_cost(price: CostEstimate, objective: Objective) -> str:
    return short_bytes(price.bytes) if objective.name == BYTES else short_seconds(price.latency)


def dry_run_of(spec: SearchSpec, *, batch_size: int, precision: Precision, device: torch.device) -> DryRun:
    """Return what a run would train; train some steps of the original for the estimate of time, and write nothing."""
    preview, schedule = spec.preview()
    rate = seconds_per_mac(spec.network, batch_size=batch_size, precision=precision, device=device)
    return DryRun(
        network=spec.network,
        preview=preview,
        estimated_seconds=rate * schedule.total_work,
        objective=spec.context.objective,
        prices=prices_of(spec.network, spec.presets),
    )
