"""The result of a method: reduced networks worth training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.objective import Limits
from deepreduce.errors import ModelError, PlanError
from deepreduce.network.analyze import check_input_size
from deepreduce.network.compute_cost import ComputeCost
from deepreduce.network.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, normalise_plan, pad_once
from deepreduce.transforms.collapse.costs import CostEstimator, no_estimates

_SHOWN = 6
"""Networks that are named where several are left out for the same reason."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A reduced network to train: its plan in normal form, its label for readers, and what it costs.

    `relu_count` and `macs` are exact, for one image; `compute_cost` tells how long training takes. `cost_estimates`
    are those of one image under secure computation, by the name of a preset. `network` is the reduced network on the
    device of the network it was proposed for (the meta device, where a search has no weights).
    """

    plan: ReductionPlan
    label: str
    relu_count: int
    macs: int
    compute_cost: ComputeCost
    cost_estimates: Mapping[str, CostEstimate] = field(default_factory=dict, hash=False)
    network: Network = field(compare=False, repr=False)

    @classmethod
    def of(
        cls, network: Network, plan: ReductionPlan, label: str, estimator: CostEstimator = no_estimates
    ) -> Proposal:
        """Return the proposal to reduce a network by a plan.

        Raises `PlanError` or `ModelError` where the plan does not fit, and where no ReLU goes.
        """
        plan, reduced = _reduced(network, plan)
        check_input_size(reduced)
        if plan.is_empty or reduced.relu_count == network.relu_count:
            raise PlanError("it has as many ReLUs as the full network")
        return cls._of_reduced(reduced, plan, label, estimator)

    @classmethod
    def _of_reduced(cls, reduced: Network, plan: ReductionPlan, label: str, estimator: CostEstimator) -> Proposal:
        return cls(
            plan=plan,
            label=label,
            relu_count=reduced.relu_count,
            macs=reduced.macs,
            compute_cost=reduced.compute_cost,
            cost_estimates=estimator(reduced),
            network=reduced,
        )

    @property
    def plan_id(self) -> str:
        """Short hash of the plan, which names the candidate's folder."""
        return self.plan.plan_id

    def padded_once(self, estimator: CostEstimator) -> Proposal:
        """Return the same network with its linear regions padded once. Raises `PlanError` where that pads nothing."""
        plan = self.plan.merge(ReductionPlan(pad_once=True))
        return self._of_reduced(pad_once(self.network), plan, f"{self.label}, padded once", estimator)

    def estimated_by(self, estimator: CostEstimator) -> Proposal:
        """Return the same proposal with the cost estimates of another estimator."""
        return replace(self, cost_estimates=estimator(self.network))


_REDUCED: WeakKeyDictionary[Network, dict[ReductionPlan, tuple[ReductionPlan, Network]]] = WeakKeyDictionary()
"""Of networks without weights, which nothing changes: what plans made of them. A run searches several times."""


def _reduced(network: Network, plan: ReductionPlan) -> tuple[ReductionPlan, Network]:
    """Return the plan in normal form and the network that it reduces `network` to."""
    known = _REDUCED.setdefault(network, {}) if _is_without_weights(network) else {}
    if plan not in known:
        normal = normalise_plan(network, plan)
        known[plan] = normal, apply_plan(network, normal)
    return known[plan]


def _is_without_weights(network: Network) -> bool:
    return all(parameter.device.type == "meta" for parameter in network.module.parameters())


@dataclass(frozen=True, kw_only=True)
class StageCriticality:
    """Criticality of the stages, as a method has measured it.

    `cull_order` lists stages, least critical first; `criticality` is what each stage's ReLUs are worth, and
    `val_accuracy` the validation accuracy, a fraction, of the network with ReLUs in that stage alone.
    """

    cull_order: tuple[str, ...]
    criticality: Mapping[str, float]
    val_accuracy: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Networks to train, most ReLUs first, and why others that were asked for are not among them.

    `notes` tell what edits of the networks could not do, such as layers that alpha could not scale. `cull_order` is
    the order in which stages are culled, where the method culls; `criticality` is what it was measured by. `trained`
    are the ids of the plans whose networks came of the method's own requests.
    """

    networks: tuple[Proposal, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cull_order: tuple[str, ...] = ()
    criticality: StageCriticality | None = None
    trained: frozenset[str] = frozenset()


class Collector:
    """Turns plans into proposals, each network once, and remembers what could not be done and why."""

    def __init__(self, network: Network, estimator: CostEstimator = no_estimates) -> None:
        self._network, self._estimator = network, estimator
        self._found: dict[str, Proposal] = {}
        self._left_out: dict[str, list[str]] = {}
        self._notes: dict[str, str] = {}  # with the first network that each is about

    def add_plan(self, plan: ReductionPlan, label: str) -> Proposal | None:
        """Add the plan's proposal and return it; None where the plan can't be applied, which is remembered."""
        proposal = self.propose(plan, label)
        return None if proposal is None else self.add(proposal)

    def propose(self, plan: ReductionPlan, label: str) -> Proposal | None:
        """Return the plan's proposal without adding it; None where the plan can't be applied, which is remembered."""
        try:
            return Proposal.of(self._network, plan, label, self._estimator)
        except (PlanError, ModelError) as error:
            self.leave_out(str(error), label)
            return None

    def add(self, proposal: Proposal) -> Proposal:
        """Add the network; return the earlier proposal if one has the same plan."""
        for note in proposal.network.notes:
            self._notes.setdefault(note, proposal.label)
        return self._found.setdefault(proposal.plan_id, proposal)

    def leave_out(self, reason: str, label: str) -> None:
        """Remember why a network is not among the proposals."""
        self._left_out.setdefault(reason, []).append(label)

    def drop(self, proposal: Proposal, reason: str) -> None:
        """Remove a network again, and remember why."""
        if self._found.pop(proposal.plan_id, None) is not None:
            self.leave_out(reason, proposal.label)

    def keep_within(self, limits: Limits) -> None:
        """Remove the networks that exceed the limits. Raises `PlanError` where all do."""
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

    def proposals(
        self, *, cull_order: tuple[str, ...] = (), criticality: StageCriticality | None = None
    ) -> Proposals:
        """Return what has been collected. Raises `PlanError` where no network is left."""
        if not self._found:
            reasons = "; ".join(self._left_out) or "it has one stage, and no two ReLUs to alternate in"
            raise PlanError(f"{self._network.name}: nothing to cull, thin or reshape ({reasons})")
        return Proposals(
            networks=tuple(sorted(self._found.values(), key=lambda p: (-p.relu_count, p.label))),
            left_out=tuple(f"{reason} (left out: {_shortened(labels)})" for reason, labels in self._left_out.items()),
            notes=tuple(f"{label}: {note}" for note, label in self._notes.items()),
            cull_order=cull_order,
            criticality=criticality,
        )


def _shortened(labels: list[str]) -> str:
    more = len(labels) - _SHOWN
    return "; ".join(labels[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
