"""Budgets: each network of a run is trained by the full recipe, or all together for one price."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepreduce.data import DataFacts
from deepreduce.methods.base import TrainingRequest
from deepreduce.methods.proposal import Proposal
from deepreduce.network import ComputeCost
from deepreduce.search.path import parents
from deepreduce.search.shares import share_epochs
from deepreduce.training import RecipeChanges
from deepreduce.training.timing import BACKWARD, FORWARD_SHARE, Work


@dataclass(frozen=True, kw_only=True)
class Budget(ABC):
    """Epochs, batch sizes and starting weights of a run's students; prices are in epochs of the full network.

    `compute` is the cost of computing the full network, `facts` are the sizes of the data. `epochs` and `batch_size`
    are those of the full recipe. `student_batch_size` is that of students, and of the teacher's logits; after
    `schedule_epochs` epochs of augmented images a student is shown the first ones again.
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
    changes = RecipeChanges()
    """What the training of a proposed network has otherwise than the run's recipe."""

    # -- what a student's training is like --------------------------------------------------------------------

    @property
    def trial_batch_size(self) -> int:
        """Batch size of trials, such as probes: the teacher's, in whole batches of the other students."""
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
    def path_epochs(
        self, networks: Sequence[Proposal], worth: Sequence[float] | None = None, *, spent: float = 0.0
    ) -> list[float]:
        """Return for how many epochs each network is trained where these are all that the run still trains.

        `worth` says how many epochs each has in proportion to the others; `spent` is what other trainings cost.
        """

    @abstractmethod
    def parents(self, ordered: Sequence[Proposal]) -> Mapping[Proposal, Proposal | None]:
        """Return the network that each starts as, an earlier one; None where it starts as `warm_starts` says."""

    # -- prices -----------------------------------------------------------------------------------------------

    def epoch_costs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return the price of one epoch of a trial of each network."""
        return self._epoch_costs(networks, batch_size=self.trial_batch_size)

    def _epoch_costs(self, networks: Sequence[Proposal], *, batch_size: int) -> list[float]:
        whole = self.compute.per_image(self.batch_size)
        return [p.compute_cost.per_image(batch_size) / max(whole, 1) for p in networks]

    def price_of(self, works: Sequence[Work]) -> float:
        """Return the price of some trainings with the evaluation of their networks."""
        epoch = (1 + BACKWARD) * self.compute.per_image(self.batch_size) * self.facts.train_images
        return sum(work.total for work in works) / max(epoch, 1)

    # -- work, for prices, progress and estimates of time -------------------------------------------------------

    @abstractmethod
    def validations(self, epochs: float) -> float:
        """Return how often a student is validated in a training of so many epochs."""

    def teacher_work(self, epochs: float) -> Work:
        """Return the work of training the full network, which is validated after every epoch."""
        return self._work(self.compute, epochs, batch_size=self.batch_size, validations=epochs, statistics=0)

    def request_work(self, request: TrainingRequest) -> Work:
        """Return the work of a training that a method asks for."""
        batch_size = self.student_batch_size if request.makes_network else self.trial_batch_size
        return self._student_work(request.proposal, request.priced_epochs, batch_size=batch_size)

    def path_work(self, proposal: Proposal, epochs: float) -> Work:
        """Return the work of training a network that a method proposes."""
        return self._student_work(proposal, epochs, batch_size=self.student_batch_size)

    def _student_work(self, proposal: Proposal, epochs: float, *, batch_size: int) -> Work:
        return self._work(
            proposal.compute_cost,
            epochs,
            batch_size=batch_size,
            validations=self.validations(epochs),
            statistics=min(self.statistics_batches * batch_size, self.facts.train_images),
        )

    def _work(
        self, compute: ComputeCost, epochs: float, *, batch_size: int, validations: float, statistics: int
    ) -> Work:
        """Return the work of one training, with batch-norm statistics of so many images, and a test at its end."""
        return Work(
            compute_cost=compute,
            batch_size=batch_size,
            epochs=epochs,
            train_images=self.facts.train_images,
            # the weights that are kept are validated once more
            evaluated_images=(validations + 1) * self.facts.val_images + self.facts.test_images + statistics,
        )


@dataclass(frozen=True, kw_only=True)
class FullBudget(Budget):
    """Every network is trained for as many epochs as the teacher: from scratch, which is the paper's way."""

    def first_epoch(self, number: int) -> int:
        """Return 0: all students see the same images in the same order."""
        return 0

    def validation_interval(self, epochs: float, *, usual: int) -> int:
        """Return the recipe's interval."""
        return usual

    def validations(self, epochs: float) -> float:
        """Return one for each epoch."""
        return epochs

    def trial_epochs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return the epochs of the full recipe for each network."""
        return [self.epochs] * len(networks)

    def pays_in_full(self, networks: Sequence[Proposal]) -> bool:
        """Return True: nothing limits what trainings cost."""
        return True

    def path_epochs(
        self, networks: Sequence[Proposal], worth: Sequence[float] | None = None, *, spent: float = 0.0
    ) -> list[float]:
        """Return the epochs of the full recipe for each network."""
        return [self.epochs] * len(networks)

    def parents(self, ordered: Sequence[Proposal]) -> Mapping[Proposal, Proposal | None]:
        """Return None for each: no network starts as another reduced one."""
        return dict.fromkeys(ordered)


@dataclass(frozen=True, kw_only=True)
class WarmFullBudget(FullBudget):
    """Every network is trained for as many epochs as the teacher, from the teacher's weights."""

    statistics_batches: int = 20

    warm_starts = True


@dataclass(frozen=True, kw_only=True)
class SharedBudget(Budget):
    """All students and probes together cost `price` times `epochs` epochs of the full network.

    `probe_share` of the price goes to the trials that a method asks for before it proposes. The networks that it
    proposes share the rest. They are trained on a path: each starts as the nearest one before it, and its learning
    rate falls linearly. Before a network is evaluated, `statistics_batches` batches give it its batch-norm
    statistics. The teacher's logits are computed for `schedule_epochs` epochs of augmented images, which students are
    shown again and again in batches of `student_batch_size`, or of a multiple of it in trials.
    """

    price: float = 1.0
    probe_share: float = 0.2
    statistics_batches: int = 20
    anneal_share: float = 0.0

    warm_starts = True
    changes = RecipeChanges(decay="linear")

    def first_epoch(self, number: int) -> int:
        """Return epochs half the schedule apart for students that are trained at the same time."""
        epochs = self.schedule_epochs
        return (number * (epochs // 2) + number // 2) % epochs

    def validation_interval(self, epochs: float, *, usual: int) -> int:
        """Return all epochs: the price includes one validation, at the end."""
        return max(math.ceil(epochs), 1)

    def validations(self, epochs: float) -> float:
        """Return one, at the end."""
        return 1.0

    @property
    def _trial_price(self) -> float:
        return self.probe_share * self.price * self.epochs

    def trial_epochs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return epochs that together cost the share for probes."""
        return share_epochs(self.epoch_costs(networks), budget=self._trial_price, limit=self.epochs)

    def pays_in_full(self, networks: Sequence[Proposal]) -> bool:
        """Return whether the share for probes trains each of the networks by the full recipe."""
        return sum(self.epoch_costs(networks)) * self.epochs <= self._trial_price

    def path_epochs(
        self, networks: Sequence[Proposal], worth: Sequence[float] | None = None, *, spent: float = 0.0
    ) -> list[float]:
        """Return epochs that together cost the price, less `spent` and what evaluating the networks costs.

        `worth` says how many epochs each has in proportion (None: the fewer, the more an epoch costs).
        """
        each = self._epoch_costs(networks, batch_size=self.student_batch_size)
        whole = self.price * self.epochs - spent
        evaluating = self.price_of([self.path_work(p, 0.0) for p in networks]) + self.schedule_epochs * FORWARD_SHARE
        # where there are few training images, evaluating must not use up everything
        left = max(whole - evaluating, 0.5 * max(whole, 0.0))
        squares = None if worth is None else [w * w * cost for w, cost in zip(worth, each, strict=True)]
        return share_epochs(each, budget=left, limit=self.epochs, priorities=squares)

    def parents(self, ordered: Sequence[Proposal]) -> Mapping[Proposal, Proposal | None]:
        """Return the nearest one before each network (`deepreduce.search.path`)."""
        return parents(ordered)
