"""How networks share what there is to train them with: by the paper's recipe, or by a price for all together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deepreduce.data import DataFacts
from deepreduce.methods import Proposal
from deepreduce.network import ComputeCost
from deepreduce.search.headroom import FrontierState, Incumbent, share_epochs, worths
from deepreduce.training.timing import EVALUATION_BATCH, FORWARD_SHARE, Work

_ENOUGH = 0.5
"""So much of the full recipe makes a network worth having: it need not be drafted with others."""


_SHORTEST = 0.5
"""Epochs of own training, on average, below which it does harm after a draft."""


@dataclass(frozen=True, kw_only=True)
class FullBudget:
    """Every network is trained from scratch, for as many epochs as the teacher: the paper's way."""

    epochs: float
    batch_size: int

    @property
    def student_batch_size(self) -> int:
        """The teacher's."""
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class SharedBudget:
    """All students and probes together cost `price` times `epochs` epochs of the full network.

    `probe_share` of it goes to the probes, where there are any. Of the rest every network is given what its accuracy
    is worth to the frontier (`deepreduce.search.headroom.worths`), none more than `epochs`. Those to which that gives
    half the full recipe or more are trained alone by it. Of what is left, `draft_share` pays for drafts: networks of
    one size share their weights and are trained together. Those that another network does not beat by more than
    `margin` are then trained on their own, unless that is less than half an epoch for each: then all is for drafts.
    Before a network is judged, `statistics_batches` batches give it its batch-norm statistics.
    The teacher answers `views` epochs of augmented images, which all students are shown over and over, in batches of
    `student_batch_size`, or of a multiple of that where they are trained alone.
    """

    epochs: float
    batch_size: int
    student_batch_size: int
    price: float = 1.0
    probe_share: float = 0.2
    draft_share: float = 0.8
    margin: float = 0.02
    views: int = 4
    statistics_batches: int = 20

    @property
    def alone_batch_size(self) -> int:
        """Of networks that are trained alone: the teacher's, in whole batches of the others."""
        return max(self.batch_size // self.student_batch_size, 1) * self.student_batch_size

    def is_enough(self, epochs: float) -> bool:
        """Whether a network that is trained alone for so many epochs is as good as by the full recipe, or nearly."""
        return epochs >= _ENOUGH * self.epochs


@dataclass(frozen=True, kw_only=True)
class SharingGroup:
    """Networks of one size, which can share weights, with the epochs that each is drafted for."""

    name: str
    members: tuple[Proposal, ...]
    epochs: tuple[float, ...]

    @property
    def folder(self) -> str:
        """For the training while it goes on."""
        return "shared-" + "-".join(p.plan_id for p in self.members[:1])

    def shortened(self, share: float) -> SharingGroup:
        """The same with so much of the epochs."""
        return replace(self, epochs=tuple(share * e for e in self.epochs))


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """How networks that don't get the full recipe share what there is.

    `families` are drafted; then those of them that go on share `own` epochs of the full network. Those `alone` have
    no family and need no draft. `needless` would not be better than a network that is trained already, which stands
    with each.
    """

    alone: Mapping[Proposal, float] = field(default_factory=dict)
    families: tuple[SharingGroup, ...] = ()
    own: float = 0.0
    needless: Mapping[Proposal, Incumbent] = field(default_factory=dict)

    @property
    def drafted(self) -> tuple[Proposal, ...]:
        """Those in families."""
        return tuple(p for family in self.families for p in family.members)

    @property
    def count(self) -> int:
        """Trainings, if no draft is dropped."""
        return len(self.alone) + len(self.families) + len(self.drafted)


@dataclass(frozen=True, kw_only=True)
class TrainingCosts:
    """What trainings on some data cost, in epochs of the full network's training by a recipe; `load` is its load."""

    load: ComputeCost
    facts: DataFacts
    recipe: FullBudget | SharedBudget

    def epoch_costs(self, networks: Sequence[Proposal], *, batch_size: int) -> list[float]:
        """Of one epoch of each."""
        whole = self.load.per_image(self.recipe.batch_size)
        return [p.load.per_image(batch_size) / max(whole, 1) for p in networks]

    def training_alone(self, networks: Iterable[Proposal], epochs: Iterable[float]) -> float:
        """Of training networks that share no weights for so many epochs."""
        networks = list(networks)
        each = self.epoch_costs(networks, batch_size=self.alone_batch_size)
        return sum(cost * e for cost, e in zip(each, epochs, strict=True))

    def judging(self, networks: Iterable[Proposal], *, trained: bool) -> float:
        """Of its statistics and a validation for each; where it is `trained`, of one more validation and a test."""
        recipe = self.recipe
        images = self.facts.val_images
        if isinstance(recipe, SharedBudget):
            images += min(recipe.statistics_batches * recipe.student_batch_size, self.facts.train_images)
        if trained:
            images += self.facts.val_images + self.facts.test_images
        each = self.epoch_costs(list(networks), batch_size=EVALUATION_BATCH)
        return sum(each) * images * FORWARD_SHARE / max(self.facts.train_images, 1)

    @property
    def alone_batch_size(self) -> int:
        """Of networks that share no weights with others."""
        recipe = self.recipe
        return recipe.alone_batch_size if isinstance(recipe, SharedBudget) else recipe.batch_size

    # -- work, for those who wait ---------------------------------------------------------------------------

    def work(self, load: ComputeCost, epochs: float, *, batch_size: int, tested: bool) -> Work:
        """Of one network, as if it were validated after every epoch: students of recipe `fast` are less often."""
        return Work(
            compute_cost=load,
            batch_size=batch_size,
            epochs=epochs,
            train_images=self.facts.train_images,
            val_images=self.facts.val_images,
            test_images=self.facts.test_images if tested else 0,
        )

    def alone_work(self, proposal: Proposal, epochs: float, *, tested: bool) -> Work:
        """Of a network that shares no weights."""
        return self.work(proposal.load, epochs, batch_size=self.alone_batch_size, tested=tested)

    def own_work(self, proposal: Proposal, epochs: float) -> Work:
        """Of a network that goes on after its draft."""
        return self.work(proposal.load, epochs, batch_size=self.recipe.student_batch_size, tested=True)

    def family_work(self, family: SharingGroup) -> float:
        """Of drafting a family, in multiply-accumulates."""
        batch_size = self.recipe.student_batch_size
        return sum(
            self.work(p.load, epochs, batch_size=batch_size, tested=False).total
            for p, epochs in zip(family.members, family.epochs, strict=True)
        )

    def division_work(self, division: Allocation, costs: Mapping[Proposal, float], standing: FrontierState) -> float:
        """Of all that is trained in a division, if no draft is dropped, in multiply-accumulates."""
        drafts = sum(self.family_work(family) for family in division.families)
        trained = [*division.alone, *division.drafted]
        return drafts + sum(work.total for work in self.candidate_works(trained, costs, {}, division, standing))

    def candidate_works(
        self,
        candidates: Sequence[Proposal],
        costs: Mapping[Proposal, float],
        alone: Mapping[Proposal, float],
        division: Allocation,
        standing: FrontierState,
    ) -> list[Work]:
        """Of all candidates, drafts apart, were none of them dropped."""
        own_epochs = self.own_epochs(division.drafted, division.own, costs, standing)
        own = dict(zip(division.drafted, own_epochs, strict=True))
        alone = {**alone, **division.alone}
        return [
            self.own_work(p, own[p]) if p in own else self.alone_work(p, alone.get(p, 0.0), tested=True)
            for p in candidates
        ]

    # -- a budget, shared out -------------------------------------------------------------------------------

    def alone(
        self, costs: Mapping[Proposal, float], standing: FrontierState, *, probing: float
    ) -> tuple[dict[Proposal, float], float]:
        """The networks that get the full recipe, or nearly, with their epochs; and what that leaves for the others.

        `costs` are those of the candidates on the frontier, `probing` is what the probes have cost.
        """
        recipe = self.recipe
        if isinstance(recipe, FullBudget):
            return dict.fromkeys(costs, recipe.epochs), 0.0
        left = self._to_train_with(costs.keys(), probing=probing)
        shares = self._shares(costs, standing, budget=left, batch_size=recipe.alone_batch_size)
        left = self._to_train_with(shares.keys(), probing=probing)
        gaining = {p: costs[p] for p in shares}
        shares = self._shares(gaining, standing, budget=left, batch_size=recipe.alone_batch_size)
        alone = {p: e for p, e in shares.items() if recipe.is_enough(e)}
        return alone, max(left - self.training_alone(alone, alone.values()), 0.0)

    def _to_train_with(self, networks: Collection[Proposal], *, probing: float) -> float:
        """What probes, the teacher's answers, and judging every network twice, leave of the price."""
        recipe = self.recipe
        assert isinstance(recipe, SharedBudget)
        whole = recipe.price * recipe.epochs
        judging = sum(self.judging(networks, trained=trained) for trained in (False, True))
        # where the images to train with are few, judging must not eat up everything
        return max(whole - probing - recipe.views * FORWARD_SHARE - judging, 0.5 * max(whole - probing, 0.0))

    def division(self, costs: Mapping[Proposal, float], standing: FrontierState, *, budget: float) -> Allocation:
        """How networks are trained that are too dear for the full recipe."""
        recipe = self.recipe
        if not isinstance(recipe, SharedBudget):
            return Allocation()
        shares = self._shares(costs, standing, budget=budget, batch_size=recipe.student_batch_size)
        families = _families(shares)
        # who shares weights with nobody needs no draft
        alone = {p: shares[p] for family in families if len(family.members) == 1 for p in family.members}
        drafted = [p for p in shares if p not in alone]
        left = max(budget - self.training_alone(alone, alone.values()), 0.0)
        own = (1 - recipe.draft_share) * left
        is_enough = own >= _SHORTEST * sum(self.epoch_costs(drafted, batch_size=recipe.student_batch_size))
        return Allocation(
            alone=alone,
            families=tuple(
                family.shortened(recipe.draft_share if is_enough else 1.0)
                for family in families
                if len(family.members) > 1
            ),
            own=own if is_enough else 0.0,
            needless={p: r for p, c in costs.items() if p not in shares and (r := standing.best(c)) is not None},
        )

    def _shares(
        self, costs: Mapping[Proposal, float], standing: FrontierState, *, budget: float, batch_size: int
    ) -> dict[Proposal, float]:
        """The epochs of each of the networks that can gain something by them."""
        wanted = list(costs)
        while wanted:
            each = self.epoch_costs(wanted, batch_size=batch_size)
            worth = worths([costs[p] for p in wanted], standing)
            shares = share_epochs(each, budget=budget, limit=self.recipe.epochs, worths=worth)
            gains = [standing.gain(costs[p], e) for p, e in zip(wanted, shares, strict=True)]
            if min(gains) > 0:
                return dict(zip(wanted, shares, strict=True))
            wanted.pop(gains.index(min(gains)))
        return {}

    def own_epochs(
        self, going_on: Sequence[Proposal], budget: float, costs: Mapping[Proposal, float], standing: FrontierState
    ) -> list[float]:
        """Epochs that each of the networks that go on is trained for on its own after its draft."""
        each = self.epoch_costs(going_on, batch_size=self.recipe.student_batch_size)
        worth = worths([costs[p] for p in going_on], standing)
        return share_epochs(each, budget=budget, limit=self.recipe.epochs, worths=worth)


def _families(shares: Mapping[Proposal, float]) -> tuple[SharingGroup, ...]:
    """By width, resolution and depth, the largest first: the next ones inherit from it.

    Networks of another resolution would get most of the steps, being cheap, and pull the shared weights their way.
    """
    by_size: dict[tuple[float, float, tuple[int, ...] | None, bool], list[Proposal]] = {}
    for p in shares:
        by_size.setdefault((p.plan.alpha, p.plan.rho, p.plan.depth, p.plan.pad_once), []).append(p)

    def size(shape: tuple[float, float, tuple[int, ...] | None, bool]) -> tuple[float, float, bool, str]:
        alpha, rho, depth, _ = shape
        return -alpha, -rho, depth is not None, repr(shape)

    return tuple(
        SharingGroup(
            name=_family_name(*shape),
            members=tuple(by_size[shape]),
            epochs=tuple(shares[p] for p in by_size[shape]),
        )
        for shape in sorted(by_size, key=size)
    )


def _family_name(alpha: float, rho: float, depth: tuple[int, ...] | None, pad_once: bool) -> str:
    parts = [f"alpha {alpha:g}"] * (alpha != 1) + [f"rho {rho:g}"] * (rho != 1)
    parts += [f"depth {'-'.join(str(n) for n in depth or ())}"] * (depth is not None)
    parts += ["padded once"] * pad_once
    return " ".join(["drafts", *parts])
