"""The interface of a method of ReLU reduction: a generator that asks for trainings and returns networks to train.

A method is one class in one file. It never trains: it yields the trainings that it needs, is sent their results, and
returns its proposals. So a test drives it in milliseconds (`run_search` with a function that makes results up), a dry
run drives it without training, and a run trains what it asks for on whatever executor there is.

To add a method, register a class under the entry-point group `deepreduce.methods`:

```toml
[project.entry-points."deepreduce.methods"]
mine = "mypackage.mine:Mine"
```
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from deepreduce.cost.objective import COUNT_OF_RELUS, UNLIMITED, Limits, Objective
from deepreduce.errors import PlanError
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.training.timing import FORWARD_SHARE
from deepreduce.transforms.collapse.costs import CostEstimator, no_estimates

if TYPE_CHECKING:
    from deepreduce.training.callbacks import CallbackFactory, LearnerFactory
    from deepreduce.training.recipe import RecipeChanges


@dataclass(frozen=True, kw_only=True)
class EarlierNetwork:
    """A trained network of an earlier run, or of another: its folder, its plan with all masks, its ReLUs.

    `model_name` and `input_shape` are those of the network that the plan reduces; `digest` is a hash of the weights.
    """

    folder: str
    label: str
    plan: ReductionPlan
    relu_count: int
    val_accuracy: float
    model_name: str
    input_shape: tuple[int, int, int]
    digest: str


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """One training that a method needs before it can propose networks.

    The network of `proposal` is trained for `epochs` epochs, from the weights that the recipe starts students from,
    and is a candidate. `callbacks` take part in its training (`deepreduce.training.callbacks`).

    A `learner` decides in the training what is done at the ReLU sites: the network begins with all ReLUs of the
    proposal's shape, which is what is expected of the learner, and the answer tells what came of it. With `after`, a
    request that has been answered, it begins as the network that came of that. With `start` it begins as a network of
    an earlier run; for 0 epochs, without a learner, that network is measured as it is. `changes` are what its
    training has otherwise than the run's recipe. `extra_forwards` are the forward passes, per image that is trained
    on, that learner and callbacks compute besides; the price and the estimates of time count them.
    """

    proposal: Proposal
    epochs: float
    callbacks: tuple[CallbackFactory, ...] = ()
    learner: LearnerFactory | None = None
    after: TrainingRequest | None = None
    start: EarlierNetwork | None = None
    changes: RecipeChanges | None = None
    extra_forwards: float = 0.0

    @property
    def priced_epochs(self) -> float:
        """Return the epochs that cost as much as this training with its extra forward passes."""
        return self.epochs * cost_of_step(self.extra_forwards)

    @property
    def makes_network(self) -> bool:
        """Return whether it is part of what makes a network, and not a trial of one that is trained later."""
        return self.learner is not None or self.after is not None or self.start is not None


@dataclass(frozen=True, kw_only=True)
class TrainingAnswer:
    """The result of a requested training: validation accuracy as a fraction, None where it failed or never ran.

    `proposal` is the network that was trained, with the plan that a learner found, or is expected to find where
    nothing is trained. None where the training failed.
    """

    val_accuracy: float | None = None
    proposal: Proposal | None = None


def cost_of_step(extra_forwards: float) -> float:
    """Return the cost of a training step with so many extra forward passes, in steps without."""
    return 1 + FORWARD_SHARE * extra_forwards


Answers: TypeAlias = Mapping[TrainingRequest, TrainingAnswer]
Search: TypeAlias = Generator[Sequence[TrainingRequest], Answers, Proposals]


class TrialBudget(Protocol):
    """The part of a run's budget for trainings that a method asks for before it proposes networks."""

    def epoch_costs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return the cost of training each network alone for an epoch, in epochs of the full network."""

    def trial_epochs(self, networks: Sequence[Proposal]) -> list[float]:
        """Return for how many epochs each of the networks can be trained."""

    def pays_in_full(self, networks: Sequence[Proposal]) -> bool:
        """Return whether each of the networks can be trained by the full recipe."""

    def path_epochs(self, networks: Sequence[Proposal], worth: Sequence[float] | None = None) -> list[float]:
        """Return for how many epochs each network can be trained where these are all that the run trains.

        `worth` says how many epochs each has in proportion to the others (None: all the same, at the same cost).
        """


def _no_earlier(folder: str) -> Sequence[EarlierNetwork]:
    raise PlanError(f"{folder} can't be read here: this search knows no earlier runs")


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """Everything that a method may know of the run.

    `objective` is the cost of the frontier, `limits` what no network may exceed. `estimator` estimates the costs of
    a network under each preset of the run, `objective_estimator` under that of the objective alone, which takes less
    time. `budget` says what trainings cost, `val_images` how many images a validation accuracy is measured on (its
    standard error follows). `earlier` returns the trained networks in the folder of a run, or that in a network's
    own folder; it raises `UserError` for any other.
    """

    budget: TrialBudget
    val_images: int
    objective: Objective = COUNT_OF_RELUS
    limits: Limits = UNLIMITED
    estimator: CostEstimator = no_estimates
    objective_estimator: CostEstimator = no_estimates
    earlier: Callable[[str], Sequence[EarlierNetwork]] = _no_earlier


O_contra = TypeVar("O_contra", bound=MethodOptions, contravariant=True)


class Method(Protocol[O_contra]):
    """A method of ReLU reduction: from a network to the reduced networks worth training."""

    name: str
    """As in `method: NAME` of a config."""
    summary: str
    """One line for `deepreduce methods`: what it does."""
    Options: type[MethodOptions]
    """The options, which `search` is handed."""
    paper: str = ""
    """Where it was published, as in "SNL, Cho et al., ICML 2022, arXiv 2202.02340"; may be absent, as all below."""
    unit: str = ""
    """What loses its ReLUs as a whole: site, channel or pixel; the default first, as in "pixel, or channel"."""
    epochs: str = ""
    """Cost of one network: epochs as published, as in "up to 2,000 + 100", or in words of the recipe."""

    def search(self, network: Network, options: O_contra, context: SearchContext) -> Search:
        """Yield the trainings that the method needs, receive their results, return the networks to train.

        `network` has no weights (it lies on the meta device). May yield any number of times, or never. Raises
        `PlanError` where nothing is left to train.
        """


def run_search(search: Search, train: Callable[[Sequence[TrainingRequest]], Answers]) -> Proposals:
    """Run a search to its end; `train` answers the trainings that it asks for."""
    try:
        requests = next(search)
        while True:
            requests = search.send(train(requests))
    except StopIteration as end:
        proposals: Proposals = end.value
        return proposals
