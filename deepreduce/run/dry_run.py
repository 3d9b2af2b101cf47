"""What a run would train and how long it would take, without training anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from deepreduce.config.build import (
    chosen_arrangement,
    model_seed,
    presets_of,
    run_schedule,
    using_threads,
)
from deepreduce.config.inputs import choose_device, facts_without_data, load_data, original_network
from deepreduce.config.schema import OptimizeConfig
from deepreduce.cost.objective import BYTES, COUNT_OF_RELUS, RELUS, Costs, Objective, basis_of
from deepreduce.cost.preset import prices_of
from deepreduce.cost.price import CostEstimate
from deepreduce.methods import Proposal
from deepreduce.network import Network
from deepreduce.run.outputs import objective_of
from deepreduce.search.schedule import Schedule
from deepreduce.training.timing import seconds_per_mac
from deepreduce.utils.format import duration, short_bytes, short_seconds


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would train. `estimated_seconds` is from timing the network here for a moment.

    `prices` are what an image costs the original under secure computation, by the name of a preset.
    """

    network: Network
    schedule: Schedule
    estimated_seconds: float
    objective: Objective = COUNT_OF_RELUS
    prices: Mapping[str, CostEstimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values: `candidates` (plan_id, relu_count, macs, label, plan), `probes`, `estimated_seconds`, ..."""

        def told(proposal: Proposal) -> dict[str, Any]:
            return {
                "plan_id": proposal.plan_id,
                "relu_count": proposal.relu_count,
                "macs": proposal.macs,
                "label": proposal.label,
                "plan": proposal.plan.to_json(),
                "costs": {p: {"latency": c.latency, "bytes": c.bytes} for p, c in proposal.prices.items()},
                "depends_on_measurement": self.schedule.is_provisional,
            }

        return {
            "model": self.network.name,
            "relu_count": self.network.relu_count,
            "cull_order": list(self.schedule.cull_order),
            "cull_order_is_provisional": self.schedule.is_provisional,
            "probes": [told(p.proposal) | {"depends_on_measurement": False} for p in self.schedule.probes],
            "candidates": [told(p) for p in self.schedule.candidates],
            "left_out": list(self.schedule.left_out),
            "notes": list(self.schedule.notes),
            "estimated_seconds": self.estimated_seconds,
        }

    def to_text(self) -> str:
        """A list for a terminal."""
        schedule, full = self.schedule, self.network.relu_count
        lines = [
            f"{self.network.name}: {full:,} ReLUs; {len(schedule.candidates)} networks would be distilled from it",
            "",
            *self._table(),
            "",
            *(f"{preset}: one image, {basis_of(preset)}." for preset in self.prices),
        ]
        if schedule.is_provisional:
            lines.append(
                f"All of these depend on a measurement: {len(schedule.probes)} probes first find the order in which"
                " stages are culled."
            )
            dearest = "most ReLUs" if self.objective.name == RELUS else "dearest"
            lines.append(
                f"Shown is the order {', '.join(schedule.cull_order)}, {dearest} first; method.cull_order fixes it."
            )
        lines += [f"Left out: {reason}." for reason in schedule.left_out]
        lines += [f"Note on {note}." for note in schedule.notes]
        lines.append(f"Estimated time on this machine: {duration(self.estimated_seconds)}.")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """The networks, dearest first: what each costs by the objective and under each preset."""
        objective, networks = self.objective, self.schedule.candidates
        whole = Costs(relu_count=self.network.relu_count, prices=self.prices)
        presets = list(self.prices)
        heads = ["network", "ReLUs", "fewer", *presets, *(["less"] if objective.name != RELUS else []), "plan_id"]
        rows = [heads]
        for p in sorted(networks, key=lambda p: (-objective.cost(p), -p.relu_count, p.label)):
            cells = [p.label, f"{p.relu_count:,}", f"{whole.relu_count / p.relu_count:.1f}x" if p.relu_count else "-"]
            cells += [_in_words(p.prices[preset], objective) for preset in presets]
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


def _in_words(price: CostEstimate, objective: Objective) -> str:
    return short_bytes(price.bytes) if objective.name == BYTES else short_seconds(price.latency)


def dry_run(config: OptimizeConfig, *, model: nn.Module | None = None, data: Any = None) -> DryRun:
    """The networks that `optimize` would train, with exact counts; trains nothing, writes nothing.

    Data sets whose sizes are well known need not be at hand.
    """
    device = choose_device(config.device)
    facts = facts_without_data(config.data) if data is None else None
    if facts is None:
        facts = load_data(config.data, seed=config.seed, given=data).facts
    network = original_network(config.model, facts, seed=model_seed(config), given=model)
    presets = presets_of(config)
    schedule = run_schedule(network, facts, config, cull_order=config.method.cull_order, presets=presets)
    arrangement = chosen_arrangement(config, network, device)
    with using_threads(arrangement.threads):
        rate = seconds_per_mac(
            network, batch_size=config.training.batch_size, precision=arrangement.precision, device=device
        )
    return DryRun(
        network=network,
        schedule=schedule,
        estimated_seconds=rate * schedule.total_work,
        objective=objective_of(config),
        prices=prices_of(network, presets),
    )
