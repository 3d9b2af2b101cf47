"""What a run would train and how long it would take, without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from deepreduce.config import OptimizeConfig
from deepreduce.estimate import seconds_per_mac
from deepreduce.inputs import choose_device, facts_without_data, load_data, original_network
from deepreduce.methods import Proposal
from deepreduce.network import Network
from deepreduce.progress import duration
from deepreduce.schedule import Schedule
from deepreduce.wiring import chosen_arrangement, model_seed, run_schedule, using_threads


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would train. `estimated_seconds` is from timing the network here for a moment."""

    network: Network
    schedule: Schedule
    estimated_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values: `candidates` (plan_id, relu_count, macs, label, plan), `probes`, `estimated_seconds`, ..."""

        def told(proposal: Proposal) -> dict[str, Any]:
            return {
                "plan_id": proposal.plan_id,
                "relu_count": proposal.relu_count,
                "macs": proposal.macs,
                "label": proposal.label,
                "plan": proposal.plan.to_json(),
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
        ]
        width = max(len(p.label) for p in schedule.candidates)
        lines.append(f"{'network':<{width}}  {'ReLUs':>11}  {'fewer':>6}  plan_id")
        for p in schedule.candidates:
            fewer = f"{full / p.relu_count:.1f}x" if p.relu_count else "-"
            lines.append(f"{p.label:<{width}}  {p.relu_count:>11,}  {fewer:>6}  {p.plan_id}")
        lines.append("")
        if schedule.is_provisional:
            lines.append(
                f"All of these depend on a measurement: {len(schedule.probes)} probes first find the order in which"
                " stages are culled."
            )
            lines.append(
                f"Shown is the order {', '.join(schedule.cull_order)}, most ReLUs first; method.cull_order fixes it."
            )
        lines += [f"Left out: {reason}." for reason in schedule.left_out]
        lines += [f"Note on {note}." for note in schedule.notes]
        lines.append(f"Estimated time on this machine: {duration(self.estimated_seconds)}.")
        return "\n".join(lines)


def dry_run(config: OptimizeConfig, *, model: nn.Module | None = None, data: Any = None) -> DryRun:
    """The networks that `optimize` would train, with exact counts; trains nothing, writes nothing.

    Data sets whose sizes are well known need not be at hand.
    """
    device = choose_device(config.device)
    facts = facts_without_data(config.data) if data is None else None
    if facts is None:
        facts = load_data(config.data, seed=config.seed, given=data).facts
    network = original_network(config.model, facts, seed=model_seed(config), given=model)
    schedule = run_schedule(network, facts, config, cull_order=config.method.cull_order)
    arrangement = chosen_arrangement(config, network, device)
    with using_threads(arrangement.threads):
        rate = seconds_per_mac(
            network, batch_size=config.training.batch_size, precision=arrangement.precision, device=device
        )
    return DryRun(network=network, schedule=schedule, estimated_seconds=rate * schedule.total_work)
