"""What a method hands back: reduced networks worth training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deepreduce.cost.objective import Limits
from deepreduce.cost.price import CostEstimate
from deepreduce.errors import ModelError, PlanError
from deepreduce.network.analyze import check_input_size
from deepreduce.network.compute_cost import ComputeCost
from deepreduce.network.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, normalise_plan, pad_once

_TOLD = 6
"""Networks that are left out for the same reason and told by name."""

Pricing = Callable[[Network], Mapping[str, CostEstimate]]
"""What an image costs a network under secure computation, by the name of a preset."""


def unpriced(network: Network) -> Mapping[str, CostEstimate]:
    """The pricing of those who ask for no prices."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A reduced network to train: its plan in normal form, in a reader's words, and what it costs.

    `relu_count` and `macs` are exact, for one image; `load` tells how long training takes. `prices` are what an image
    costs it under secure computation, by the name of a preset.
    """

    plan: ReductionPlan
    label: str
    relu_count: int
    macs: int
    load: ComputeCost
    prices: Mapping[str, CostEstimate] = field(default_factory=dict, hash=False)

    @property
    def plan_id(self) -> str:
        """Short hash of the plan; names the candidate's folder."""
        return self.plan.plan_id


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Networks to train, most ReLUs first, and why others that were asked for are not among them.

    `notes` tell what their edits could not do, such as layers that alpha could not scale.
    """

    networks: tuple[Proposal, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReducedByPlan:
    """A proposal, and the network that its plan leaves."""

    proposal: Proposal
    network: Network

    @classmethod
    def of(cls, network: Network, plan: ReductionPlan, label: str, price: Pricing = unpriced) -> ReducedByPlan:
        """Of a plan for the network.

        Raises `PlanError` or `ModelError` where the plan does not fit, and where it leaves the network what it is.
        """
        plan = normalise_plan(network, plan)
        reduced = apply_plan(network, plan)
        check_input_size(reduced)
        if plan.is_empty or reduced.relu_count == network.relu_count:
            raise PlanError("it has as many ReLUs as the full network")
        return cls(proposal=_proposal(plan, label, reduced, price), network=reduced)

    def padded_once(self, price: Pricing) -> ReducedByPlan:
        """The same with its linear regions padded once. Raises `PlanError` where that pads nothing."""
        padded = pad_once(self.network)
        plan = self.proposal.plan.merge(ReductionPlan(pad_once=True))
        label = f"{self.proposal.label}, padded once"
        return ReducedByPlan(proposal=_proposal(plan, label, padded, price), network=padded)


def _proposal(plan: ReductionPlan, label: str, reduced: Network, price: Pricing) -> Proposal:
    return Proposal(
        plan=plan,
        label=label,
        relu_count=reduced.relu_count,
        macs=reduced.macs,
        load=reduced.load,
        prices=price(reduced),
    )


class Collector:
    """Turns plans into proposals, each network once, and remembers what could not be done and why."""

    def __init__(self, network: Network, price: Pricing = unpriced) -> None:
        self._network, self._price = network, price
        self._found: dict[str, Proposal] = {}
        self._left_out: dict[str, list[str]] = {}
        self._notes: dict[str, str] = {}  # with the first network that each is about

    def add(self, plan: ReductionPlan, label: str) -> Proposal | None:
        """The plan's proposal; None where it can't be, which is remembered."""
        reduced = self.reduced(plan, label)
        return None if reduced is None else self.add_reduced(reduced)

    def reduced(self, plan: ReductionPlan, label: str) -> ReducedByPlan | None:
        """The plan's proposal with its network, not among the proposals yet; None where it can't be."""
        try:
            return ReducedByPlan.of(self._network, plan, label, self._price)
        except (PlanError, ModelError) as error:
            self.leave_out(str(error), label)
            return None

    def add_reduced(self, reduced: ReducedByPlan) -> Proposal:
        """Have it among the proposals, or whichever came first with the same plan."""
        for note in reduced.network.notes:
            self._notes.setdefault(note, reduced.proposal.label)
        return self._found.setdefault(reduced.proposal.plan_id, reduced.proposal)

    def leave_out(self, reason: str, label: str) -> None:
        """Remember why a network is not among the proposals."""
        self._left_out.setdefault(reason, []).append(label)

    def drop(self, proposal: Proposal, reason: str) -> None:
        """Take a network out again."""
        if self._found.pop(proposal.plan_id, None) is not None:
            self.leave_out(reason, proposal.label)

    def keep_within(self, limits: Limits) -> None:
        """Take out what the limits don't allow. Raises `PlanError` where they allow nothing that was found."""
        kept = {plan_id: p for plan_id, p in self._found.items() if limits.allow(p)}
        if self._found and not kept:
            least = min(self._found.values(), key=lambda p: (limits.objective.cost(p), p.relu_count))
            has = f"{least.relu_count:,} ReLUs"
            if limits.max_cost is not None:
                has += f" and costs {limits.objective.text(limits.objective.cost(least))}"
            raise PlanError(
                f"no network has {limits.text()}; the smallest, {least.label}, has {has}: raise"
                f" {' or '.join(limits.given)}, or give smaller method.alphas or method.rhos"
            )
        self._found = kept

    @property
    def found(self) -> tuple[Proposal, ...]:
        """The networks so far."""
        return tuple(self._found.values())

    def proposals(self) -> Proposals:
        """All that is left. Raises `PlanError` where that is nothing."""
        if not self._found:
            reasons = "; ".join(self._left_out) or "it has one stage, and no two ReLUs to alternate in"
            raise PlanError(f"{self._network.name}: nothing to cull, thin or reshape ({reasons})")
        return Proposals(
            networks=tuple(sorted(self._found.values(), key=lambda p: (-p.relu_count, p.label))),
            left_out=tuple(f"{reason} (left out: {_some(labels)})" for reason, labels in self._left_out.items()),
            notes=tuple(f"{label}: {note}" for note, label in self._notes.items()),
        )


def _some(labels: list[str]) -> str:
    """A list that stays readable when it is long."""
    more = len(labels) - _TOLD
    return "; ".join(labels[:_TOLD]) + (f" and {more} more" if more > 0 else "")
