"""Which networks a run trains, in which order, and how much work that is: everything but the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepreduce.data import DataFacts
from deepreduce.errors import PlanError
from deepreduce.estimate import ANSWER, Work
from deepreduce.methods import (
    DeepReduceMethod,
    LeverSearch,
    Pricing,
    Probe,
    Proposal,
    Proposals,
    propose,
    propose_by_levers,
)
from deepreduce.methods.budget import share_epochs
from deepreduce.methods.deepreduce import check_cull_order, probes, provisional_cull_order
from deepreduce.methods.levers import stage_costs
from deepreduce.methods.proposal import unpriced
from deepreduce.network import Network, without_weights
from deepreduce.transforms import apply_plan


@dataclass(frozen=True, kw_only=True)
class FullRecipe:
    """Every network is trained from scratch, for as many epochs as the teacher: the paper's way."""

    epochs: float


@dataclass(frozen=True, kw_only=True)
class SharedBudget:
    """All students and probes together cost `price` times `epochs` epochs of the full network.

    `probe_share` of it goes to the probes, where there are any. `draft_share` of the rest pays for drafts: networks
    of one size share their weights and are trained together. Those that another draft does not beat by more than
    `margin` are then trained on their own. No network is trained for more than `epochs`.
    The teacher answers `views` epochs of augmented images, which all students are shown over and over.
    """

    epochs: float
    price: float = 1.0
    probe_share: float = 0.16
    draft_share: float = 0.8
    margin: float = 0.02
    views: int = 4


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks of one size, which can share weights, with the epochs that each is drafted for."""

    name: str
    members: tuple[Proposal, ...]
    epochs: tuple[float, ...]

    @property
    def folder(self) -> str:
        """For the training while it goes on."""
        return "shared-" + "-".join(p.plan_id for p in self.members[:1])


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The networks of a run. `is_provisional` says that the cull order, and so the candidates, will be measured.

    `left_out` tells why networks that were asked for are not among them, `notes` what their edits could not do.
    `families` are the drafts of recipe `fast`, none with `paper`.
    `candidate_works` are an estimate with recipe `fast`: what the budget leaves, were all of them to go on.
    """

    cull_order: tuple[str, ...]
    is_provisional: bool
    probes: tuple[Probe, ...]
    candidates: tuple[Proposal, ...]
    families: tuple[Family, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    teacher_work: Work
    probe_works: tuple[Work, ...]
    draft_works: tuple[Work, ...]
    candidate_works: tuple[Work, ...]

    @property
    def total_work(self) -> float:
        """Multiply-accumulates of all trainings."""
        works = (self.teacher_work, *self.probe_works, *self.draft_works, *self.candidate_works)
        return sum(work.total for work in works)


def make_schedule(
    network: Network,
    facts: DataFacts,
    method: DeepReduceMethod,
    recipe: FullRecipe | SharedBudget,
    *,
    teacher_epochs: int,
    cull_order: Sequence[str] | None,
    max_relus: int | None,
    measured: bool = False,
    search: LeverSearch | None = None,
    price: Pricing = unpriced,
) -> Schedule:
    """The networks that `method` trains on such data.

    `cull_order` None means that it will be measured by probes: until then the stages that cost most stand first.
    `measured` says that the given order comes from probes, which then remain part of the run. `search` None: the
    networks of the paper, for few ReLUs. `price` tells what each costs under secure computation. Raises `PlanError`
    where nothing is left to train.
    """
    is_probed = cull_order is None or measured
    network = without_weights(network)  # hundreds of networks may be weighed up
    if cull_order is None:
        costs_of_stages = None if search is None else stage_costs(network, search.objective, search.price)
        order = provisional_cull_order(network, costs_of_stages)
    else:
        order = check_cull_order(network, cull_order)
    proposals: Proposals
    if search is None:
        proposals = propose(network, order, method, price=price)
    else:
        proposals = propose_by_levers(network, order, method, search)
        priced = [replace(p, prices=price(apply_plan(network, p.plan))) for p in proposals.networks]
        proposals = replace(proposals, networks=tuple(priced))
    kept = [p for p in proposals.networks if max_relus is None or p.relu_count <= max_relus]
    if not kept:
        smallest = min(proposals.networks, key=lambda p: p.relu_count)
        raise PlanError(
            f"no network has at most {max_relus:,} ReLUs; the smallest, {smallest.label}, has"
            f" {smallest.relu_count:,}: raise max_relus, or give smaller method.alphas or method.rhos"
        )
    probed = tuple(probes(network)) if is_probed else ()
    costs = TrainingCosts(network=network, facts=facts)
    shares = _shares(recipe, costs, [p.proposal for p in probed], kept)
    return Schedule(
        cull_order=order,
        is_provisional=cull_order is None and bool(probed),
        probes=probed,
        candidates=tuple(kept),
        families=shares.families,
        left_out=proposals.left_out,
        notes=proposals.notes,
        teacher_work=costs.work(network.padded_macs, teacher_epochs, tested=True),
        probe_works=tuple(
            costs.work(p.proposal.padded_macs, epochs, tested=False)
            for p, epochs in zip(probed, shares.probe_epochs, strict=True)
        ),
        draft_works=tuple(costs.family_work(family) for family in shares.families),
        candidate_works=tuple(
            costs.work(p.padded_macs, e, tested=True) for p, e in zip(kept, shares.candidate_epochs, strict=True)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class TrainingCosts:
    """What trainings on some data cost, in epochs of the full network's training."""

    network: Network
    facts: DataFacts

    def epoch_costs(self, networks: Sequence[Proposal]) -> list[float]:
        """Of one epoch of each."""
        return [p.padded_macs / max(self.network.padded_macs, 1) for p in networks]

    def judging(self, networks: Sequence[Proposal], *, tested: bool) -> float:
        """Of validating, and testing, each once."""
        images = self.facts.val_images + (self.facts.test_images if tested else 0)
        return sum(self.epoch_costs(networks)) * images * ANSWER / max(self.facts.train_images, 1)

    def work(self, padded_macs: int, epochs: float, *, tested: bool) -> Work:
        """Of one network, its validation after every epoch included."""
        return Work(
            macs=padded_macs,
            epochs=epochs,
            train_images=self.facts.train_images,
            val_images=self.facts.val_images,
            test_images=self.facts.test_images if tested else 0,
        )

    def family_work(self, family: Family) -> Work:
        """Of one network that is as much work as the family."""
        costs = self.epoch_costs(family.members)
        epochs = sum(cost * e for cost, e in zip(costs, family.epochs, strict=True))
        return self.work(self.network.padded_macs, epochs, tested=False)


@dataclass(frozen=True, kw_only=True)
class _Shares:
    probe_epochs: Sequence[float]
    families: tuple[Family, ...]
    candidate_epochs: Sequence[float]


def _shares(
    recipe: FullRecipe | SharedBudget, costs: TrainingCosts, probed: Sequence[Proposal], kept: Sequence[Proposal]
) -> _Shares:
    if isinstance(recipe, FullRecipe):
        return _Shares(
            probe_epochs=[recipe.epochs] * len(probed),
            families=(),
            candidate_epochs=[recipe.epochs] * len(kept),
        )
    budget = _Budget(recipe=recipe, costs=costs, probed=bool(probed), candidates=kept)
    probe_epochs = share_epochs(costs.epoch_costs(probed), budget=budget.probes, limit=recipe.epochs)
    drafts = share_epochs(costs.epoch_costs(kept), budget=budget.drafts, limit=recipe.epochs)
    return _Shares(
        probe_epochs=probe_epochs,
        families=_families(kept, drafts),
        candidate_epochs=share_epochs(costs.epoch_costs(kept), budget=budget.own, limit=recipe.epochs),
    )


@dataclass(frozen=True, kw_only=True)
class _Budget:
    """A price, shared out: in epochs of the full network."""

    recipe: SharedBudget
    costs: TrainingCosts
    probed: bool
    candidates: Sequence[Proposal]

    @property
    def _whole(self) -> float:
        return self.recipe.price * self.recipe.epochs

    @property
    def probes(self) -> float:
        return self.recipe.probe_share * self._whole if self.probed else 0.0

    @property
    def _networks(self) -> float:
        """What the teacher's answers, and judging every candidate as a draft and in the end, leave to train with."""
        judging = sum(self.costs.judging(self.candidates, tested=tested) for tested in (False, True))
        left = self._whole - self.probes - self.recipe.views * ANSWER - judging
        # where the images to train with are few, judging must not eat up everything
        return max(left, 0.5 * self._whole)

    @property
    def drafts(self) -> float:
        return self.recipe.draft_share * self._networks

    @property
    def own(self) -> float:
        """For those that go on after their drafts."""
        return self._networks - self.drafts


def own_epochs(
    recipe: SharedBudget, schedule: Schedule, network: Network, facts: DataFacts, going_on: Sequence[Proposal]
) -> list[float]:
    """Epochs that each of the networks that go on is trained for on its own after its draft."""
    costs = TrainingCosts(network=network, facts=facts)
    budget = _Budget(recipe=recipe, costs=costs, probed=bool(schedule.probes), candidates=schedule.candidates)
    return share_epochs(costs.epoch_costs(going_on), budget=budget.own, limit=recipe.epochs)


def _families(kept: Sequence[Proposal], epochs: Sequence[float]) -> tuple[Family, ...]:
    """By width, resolution and depth, the largest first: the next ones inherit from it.

    Networks of another resolution would get most of the steps, being cheap, and pull the shared weights their way.
    """
    by_size: dict[tuple[float, float, tuple[int, ...] | None, bool], list[int]] = {}
    for i, p in enumerate(kept):
        by_size.setdefault((p.plan.alpha, p.plan.rho, p.plan.depth, p.plan.pad_once), []).append(i)

    def size(shape: tuple[float, float, tuple[int, ...] | None, bool]) -> tuple[float, float, bool, str]:
        alpha, rho, depth, _ = shape
        return -alpha, -rho, depth is not None, repr(shape)

    return tuple(
        Family(
            name=_family_name(*shape),
            members=tuple(kept[i] for i in by_size[shape]),
            epochs=tuple(epochs[i] for i in by_size[shape]),
        )
        for shape in sorted(by_size, key=size)
    )


def _family_name(alpha: float, rho: float, depth: tuple[int, ...] | None, pad_once: bool) -> str:
    parts = [f"alpha {alpha:g}"] * (alpha != 1) + [f"rho {rho:g}"] * (rho != 1)
    parts += [f"depth {'-'.join(str(n) for n in depth or ())}"] * (depth is not None)
    parts += ["padded once"] * pad_once
    return " ".join(["drafts", *parts])
