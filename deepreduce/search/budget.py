"""Budgets: each network of a run is trained by the full recipe, or all together for one price."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deepreduce.data import DataFacts
from deepreduce.methods.proposal import Proposal
from deepreduce.network import ComputeCost
from deepreduce.search.headroom import FrontierState, Incumbent, dominated, priorities, share_epochs
from deepreduce.training.timing import EVALUATION_BATCH, FORWARD_SHARE, Work

_ENOUGH = 0.5
"""Share of the full recipe that trains a network well enough to be a candidate without a draft."""

_SHORTEST = 0.5
"""Epochs of own training, on average, below which own training after a draft does harm."""


@dataclass(frozen=True, kw_only=True)
class SharingGroup:
    """Networks of one size, which can share weights, with the epochs that each is drafted for."""

    name: str
    members: tuple[Proposal, ...]
    epochs: tuple[float, ...]

    @property
    def folder(self) -> str:
        """Name of the folder that holds the training's snapshot."""
        return f"shared-{self.members[0].plan_id}"

    def shortened(self, share: float) -> SharingGroup:
        """Return the group with this share of its epochs."""
        return replace(self, epochs=tuple(share * e for e in self.epochs))


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Shares of what the budget leaves for networks that can't have the full recipe.

    The networks of `groups` are drafted with shared weights; those that are then kept share `own_epochs` epochs of
    the full network for training on their own. `alone` have nobody to share weights with, and are trained alone for
    the given epochs. `needless` could not be better than a network that is trained already, which is given with each.
    """

    alone: Mapping[Proposal, float] = field(default_factory=dict)
    groups: tuple[SharingGroup, ...] = ()
    own_epochs: float = 0.0
    needless: Mapping[Proposal, Incumbent] = field(default_factory=dict)

    @property
    def drafted(self) -> tuple[Proposal, ...]:
        """The networks of all groups."""
        return tuple(p for group in self.groups for p in group.members)

    @property
    def count(self) -> int:
        """Number of trainings, if no draft is dropped."""
        return len(self.alone) + len(self.groups) + len(self.drafted)


@dataclass(frozen=True, kw_only=True)
class Budget(ABC):
    """Epochs, batch sizes and starting weights of a run's students; prices are in epochs of the full network.

    `compute` is the cost of computing the full network, `facts` are the sizes of the data. `epochs` and `batch_size`
    are those of the full recipe. `student_batch_size` is that of students that share weights, and of the teacher's
    logits; after `schedule_epochs` epochs of augmented images a student is shown the first ones again.
    """

    compute: ComputeCost
    facts: DataFacts
    epochs: float
    batch_size: int
    student_batch_size: int
    schedule_epochs: int

    warm_starts = False
    """True where students start from trained weights of the run, false where each starts from initial ones."""
    statistics_batches = 0
    """Batches that give a student new batch-norm statistics after its training (0: those of the training stay)."""
    anneal_share = 0.0
    """Share of a student's training over which the ReLUs that it loses go gradually (0: at once)."""

    # -- what a student's training is like --------------------------------------------------------------------

    @property
    def alone_batch_size(self) -> int:
        """Batch size of students that are trained alone: the teacher's, in whole batches of the other students."""
        return max(self.batch_size // self.student_batch_size, 1) * self.student_batch_size

    @abstractmethod
    def first_epoch(self, number: int) -> int:
        """Return the epoch of augmented images that the `number`-th of several students is shown first.

        Students that are trained at the same time and begin apart do not need the teacher's logits of one batch at
        the same moment.
        """

    @abstractmethod
    def validation_interval(self, epochs: float, *, usual: int) -> int:
        """Return the epochs between validations of a student of `epochs` epochs; `usual` is the recipe's interval."""

    # -- who is trained how long ------------------------------------------------------------------------------

    @abstractmethod
    def trial_epochs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return for how many epochs each network is trained that a method asks for before it proposes."""

    @abstractmethod
    def pays_in_full(self, networks: Sequence[Proposal]) -> bool:
        """Return whether each of these networks can be trained by the full recipe before a method proposes."""

    @abstractmethod
    def path_epochs(self, networks: Sequence[Proposal], worth: Sequence[float] | None = None) -> list[float]:
        """Return for how many epochs each network is trained where these are all that the run trains."""

    @abstractmethod
    def makes_candidate(self, epochs: float) -> bool:
        """Return whether a network that a method had trained alone for `epochs` epochs is a candidate too."""

    @abstractmethod
    def train_alone(
        self, costs: Mapping[Proposal, float], state: FrontierState, *, spent: float
    ) -> tuple[dict[Proposal, float], float]:
        """Return the networks that are trained alone from the start, with their epochs, and what that leaves.

        `costs` are the networks' costs on the frontier; `spent` is what the method's own trainings cost.
        """

    @abstractmethod
    def allocate(self, costs: Mapping[Proposal, float], state: FrontierState, *, left: float) -> Allocation:
        """Return how the other networks share what is left of the budget."""

    @abstractmethod
    def drafts_to_drop(self, drafts: Mapping[str, Incumbent], others: Sequence[Incumbent]) -> dict[str, Incumbent]:
        """Return the drafts to drop, each with the network that is better; both by the name of the draft."""

    def own_epochs(
        self, kept: Sequence[Proposal], budget: float, costs: Mapping[Proposal, float], state: FrontierState
    ) -> list[float]:
        """Return the epochs that each kept draft is trained for on its own, which together cost `budget`."""
        each = self._epoch_costs(kept, batch_size=self.student_batch_size)
        worth = priorities([costs[p] for p in kept], state)
        return share_epochs(each, budget=budget, limit=self.epochs, priorities=worth)

    # -- prices -----------------------------------------------------------------------------------------------

    def epoch_costs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return the price of training each network alone for one epoch."""
        return self._epoch_costs(networks, batch_size=self.alone_batch_size)

    def _epoch_costs(self, networks: Sequence[Proposal], *, batch_size: int) -> list[float]:
        whole = self.compute.per_image(self.batch_size)
        return [p.compute_cost.per_image(batch_size) / max(whole, 1) for p in networks]

    def price_alone(self, epochs: Mapping[Proposal, float]) -> float:
        """Return the price of training networks alone for these epochs."""
        return sum(cost * e for cost, e in zip(self.epoch_costs(list(epochs)), epochs.values(), strict=True))

    def price_of_evaluating(self, networks: Iterable[Proposal], *, trained: bool) -> float:
        """Return the price of evaluating the networks once.

        Batch-norm statistics and one validation each; if `trained`, also the final validation and the test.
        """
        images = self.facts.val_images
        images += min(self.statistics_batches * self.student_batch_size, self.facts.train_images)
        if trained:
            images += self.facts.val_images + self.facts.test_images
        each = self._epoch_costs(list(networks), batch_size=EVALUATION_BATCH)
        return sum(each) * images * FORWARD_SHARE / max(self.facts.train_images, 1)

    # -- work, for progress and estimates of time ---------------------------------------------------------------

    def work(self, compute: ComputeCost, epochs: float, *, batch_size: int, tested: bool) -> Work:
        """Return the work of training one network that is validated after every epoch.

        Students of a shared budget are validated less often; their work is estimated a little too high.
        """
        return Work(
            compute_cost=compute,
            batch_size=batch_size,
            epochs=epochs,
            train_images=self.facts.train_images,
            val_images=self.facts.val_images,
            test_images=self.facts.test_images if tested else 0,
        )

    def teacher_work(self, epochs: float) -> Work:
        """Return the work of training the full network."""
        return self.work(self.compute, epochs, batch_size=self.batch_size, tested=True)

    def work_alone(self, proposal: Proposal, epochs: float, *, tested: bool) -> Work:
        """Return the work of training a network alone."""
        return self.work(proposal.compute_cost, epochs, batch_size=self.alone_batch_size, tested=tested)

    def work_after_draft(self, proposal: Proposal, epochs: float) -> Work:
        """Return the work of training a network on its own after its draft."""
        return self.work(proposal.compute_cost, epochs, batch_size=self.student_batch_size, tested=True)

    def group_work(self, group: SharingGroup) -> float:
        """Return the work of drafting a group, in multiply-accumulates."""
        return sum(
            self.work(p.compute_cost, epochs, batch_size=self.student_batch_size, tested=False).total
            for p, epochs in zip(group.members, group.epochs, strict=True)
        )

    def allocation_work(self, allocation: Allocation, costs: Mapping[Proposal, float], state: FrontierState) -> float:
        """Return the work of all trainings of an allocation if no draft is dropped, in multiply-accumulates."""
        own_epochs = self.own_epochs(allocation.drafted, allocation.own_epochs, costs, state)
        works = [
            *(self.work_alone(p, e, tested=True).total for p, e in allocation.alone.items()),
            *(self.work_after_draft(p, e).total for p, e in zip(allocation.drafted, own_epochs, strict=True)),
        ]
        return sum(self.group_work(group) for group in allocation.groups) + sum(works)


@dataclass(frozen=True, kw_only=True)
class FullBudget(Budget):
    """Every network is trained for as many epochs as the teacher: from scratch, which is the paper's way."""

    def first_epoch(self, number: int) -> int:
        """Return 0: all students see the same images in the same order."""
        return 0

    def validation_interval(self, epochs: float, *, usual: int) -> int:
        """Return the recipe's interval."""
        return usual

    def trial_epochs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return the epochs of the full recipe for each network."""
        return [self.epochs] * len(networks)

    def pays_in_full(self, networks: Sequence[Proposal]) -> bool:
        """Return True: nothing limits what trainings cost."""
        return True

    def path_epochs(self, networks: Sequence[Proposal], worth: Sequence[float] | None = None) -> list[float]:
        """Return the epochs of the full recipe for each network."""
        return [self.epochs] * len(networks)

    def makes_candidate(self, epochs: float) -> bool:
        """Return False: in the paper probes only measure criticality."""
        return False

    def train_alone(
        self, costs: Mapping[Proposal, float], state: FrontierState, *, spent: float
    ) -> tuple[dict[Proposal, float], float]:
        """Return every network with the epochs of the full recipe; nothing is left."""
        return dict.fromkeys(costs, self.epochs), 0.0

    def allocate(self, costs: Mapping[Proposal, float], state: FrontierState, *, left: float) -> Allocation:
        """Return an empty allocation: every network is trained alone."""
        return Allocation()

    def drafts_to_drop(self, drafts: Mapping[str, Incumbent], others: Sequence[Incumbent]) -> dict[str, Incumbent]:
        """Return no drafts to drop."""
        return {}


@dataclass(frozen=True, kw_only=True)
class WarmFullBudget(FullBudget):
    """Every network is trained for as many epochs as the teacher, from the teacher's weights."""

    statistics_batches: int = 20

    warm_starts = True


@dataclass(frozen=True, kw_only=True)
class SharedBudget(Budget):
    """All students and probes together cost `price` times `epochs` epochs of the full network.

    `probe_share` of the price goes to the trainings that a method asks for before it proposes. Of the rest every
    network is given what its accuracy is worth to the frontier (`deepreduce.search.headroom.priorities`), none more
    than `epochs`. Those that get half the full recipe or more are trained alone by it. Of what is left, `draft_share`
    pays for drafts: networks of one size share their weights and are trained together. Those that no other network
    exceeds by more than `margin` are then trained on their own, unless that is less than half an epoch for each: then
    all of it pays for drafts. Before a network is evaluated, `statistics_batches` batches give it its batch-norm
    statistics. The teacher's logits are computed for `schedule_epochs` epochs of augmented images, which students are
    shown again and again in batches of `student_batch_size`, or of a multiple of it where they are trained alone.
    """

    price: float = 1.0
    probe_share: float = 0.2
    draft_share: float = 0.8
    margin: float = 0.02
    statistics_batches: int = 20
    anneal_share: float = 0.0

    warm_starts = True

    def first_epoch(self, number: int) -> int:
        """Return epochs half the schedule apart for students that are trained at the same time."""
        epochs = self.schedule_epochs
        return (number * (epochs // 2) + number // 2) % epochs

    def validation_interval(self, epochs: float, *, usual: int) -> int:
        """Return all epochs: the price includes one validation, at the end."""
        return max(math.ceil(epochs), 1)

    @property
    def _trial_price(self) -> float:
        return self.probe_share * self.price * self.epochs

    def trial_epochs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return epochs that together cost the share for probes."""
        return share_epochs(self.epoch_costs(networks), budget=self._trial_price, limit=self.epochs)

    def pays_in_full(self, networks: Sequence[Proposal]) -> bool:
        """Return whether the share for probes trains each of the networks by the full recipe."""
        return sum(self.epoch_costs(networks)) * self.epochs <= self._trial_price

    def path_epochs(self, networks: Sequence[Proposal], worth: Sequence[float] | None = None) -> list[float]:
        """Return epochs that together cost the price, less what evaluating the networks costs.

        `worth` says how many epochs each has in proportion (None: the same).
        """
        each = self._epoch_costs(networks, batch_size=self.student_batch_size)
        left = self._left_beside(self.price_of_evaluating(networks, trained=True), spent=0.0)
        squares = None if worth is None else [w * w * cost for w, cost in zip(worth, each, strict=True)]
        return share_epochs(each, budget=left, limit=self.epochs, priorities=squares)

    def makes_candidate(self, epochs: float) -> bool:
        """Return whether the epochs are at least half of the full recipe's."""
        return epochs >= _ENOUGH * self.epochs

    def train_alone(
        self, costs: Mapping[Proposal, float], state: FrontierState, *, spent: float
    ) -> tuple[dict[Proposal, float], float]:
        """Return the networks whose share of the price is half the full recipe or more, and what that leaves."""
        left = self._left_to_train_with(costs.keys(), spent=spent)
        shares = self._shares(costs, state, budget=left, batch_size=self.alone_batch_size)
        left = self._left_to_train_with(shares.keys(), spent=spent)
        gaining = {p: costs[p] for p in shares}
        shares = self._shares(gaining, state, budget=left, batch_size=self.alone_batch_size)
        alone = {p: e for p, e in shares.items() if self.makes_candidate(e)}
        return alone, max(left - self.price_alone(alone), 0.0)

    def _left_to_train_with(self, networks: Iterable[Proposal], *, spent: float) -> float:
        """Return what `spent`, the teacher's logits, and two evaluations of every network leave of the price."""
        evaluating = sum(self.price_of_evaluating(networks, trained=trained) for trained in (False, True))
        return self._left_beside(evaluating, spent=spent)

    def _left_beside(self, evaluating: float, *, spent: float) -> float:
        """Return what trainings have of the price beside the teacher's logits, `evaluating` networks, and `spent`."""
        whole = self.price * self.epochs
        # where there are few training images, evaluating must not use up everything
        return max(whole - spent - self.schedule_epochs * FORWARD_SHARE - evaluating, 0.5 * max(whole - spent, 0.0))

    def allocate(self, costs: Mapping[Proposal, float], state: FrontierState, *, left: float) -> Allocation:
        """Return groups that share weights, networks without a group, and networks that would gain nothing."""
        shares = self._shares(costs, state, budget=left, batch_size=self.student_batch_size)
        groups = _groups_by_size(shares)
        alone = {p: shares[p] for group in groups if len(group.members) == 1 for p in group.members}
        drafted = [p for p in shares if p not in alone]
        left = max(left - self.price_alone(alone), 0.0)
        own = (1 - self.draft_share) * left
        is_enough = own >= _SHORTEST * sum(self._epoch_costs(drafted, batch_size=self.student_batch_size))
        return Allocation(
            alone=alone,
            groups=tuple(
                group.shortened(self.draft_share if is_enough else 1.0) for group in groups if len(group.members) > 1
            ),
            own_epochs=own if is_enough else 0.0,
            needless={p: i for p, c in costs.items() if p not in shares and (i := state.best(c)) is not None},
        )

    def drafts_to_drop(self, drafts: Mapping[str, Incumbent], others: Sequence[Incumbent]) -> dict[str, Incumbent]:
        """Return the drafts that a network of no more cost exceeds by more than `margin`, each with that network."""
        known = {**drafts, **{f"{number}": other for number, other in enumerate(others)}}
        better = dominated(
            {name: network.cost for name, network in known.items()},
            {name: network.accuracy for name, network in known.items()},
            margin=self.margin,
        )
        return {name: known[better[name]] for name in drafts if name in better}

    def _shares(
        self, costs: Mapping[Proposal, float], state: FrontierState, *, budget: float, batch_size: int
    ) -> dict[Proposal, float]:
        """Return the epochs of each network that can gain something by its share of the budget."""
        wanted = list(costs)
        while wanted:
            each = self._epoch_costs(wanted, batch_size=batch_size)
            worth = priorities([costs[p] for p in wanted], state)
            shares = share_epochs(each, budget=budget, limit=self.epochs, priorities=worth)
            gains = [state.gain(costs[p], e) for p, e in zip(wanted, shares, strict=True)]
            if min(gains) > 0:
                return dict(zip(wanted, shares, strict=True))
            wanted.pop(gains.index(min(gains)))
        return {}


def _groups_by_size(shares: Mapping[Proposal, float]) -> tuple[SharingGroup, ...]:
    """Return the networks grouped by width, resolution and depth, the largest first: the next groups inherit from it.

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
            name=_group_name(*shape),
            members=tuple(by_size[shape]),
            epochs=tuple(shares[p] for p in by_size[shape]),
        )
        for shape in sorted(by_size, key=size)
    )


def _group_name(alpha: float, rho: float, depth: tuple[int, ...] | None, pad_once: bool) -> str:
    parts = [f"alpha {alpha:g}"] * (alpha != 1) + [f"rho {rho:g}"] * (rho != 1)
    parts += [f"depth {'-'.join(str(n) for n in depth or ())}"] * (depth is not None)
    parts += ["padded once"] * pad_once
    return " ".join(["drafts", *parts])
