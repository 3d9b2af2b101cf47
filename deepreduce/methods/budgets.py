"""Budgets of ReLUs: which counts a method trains masks for, and the networks that are expected of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from deepreduce.errors import PlanError
from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.deepreduce import reshape_label
from deepreduce.methods.mask_learning import Unit, expected_plan
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.phases import Phase, train_in_phases
from deepreduce.methods.proposal import Collector, Proposal
from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.training import Distillation, LearnerFactory, RecipeChanges
from deepreduce.training.recipe import Decay, OptimizerName
from deepreduce.utils.fields import Count, Fraction, Listed, NotNegative, Positive

MOST_POINTS = 64
"""Networks of one run: more would have no time each."""


class BudgetOptions(MethodOptions):
    """Options of a method that is given ReLU counts: the budgets."""

    budgets: Annotated[tuple[Count, ...], Listed, Field(min_length=1, max_length=MOST_POINTS)] | None = None
    """ReLU counts of the networks, as in 57344,28672; None: `points` counts from `most` to `least`."""
    points: Annotated[Count, Field(le=MOST_POINTS)] = 8
    """Number of networks, at each alpha and rho."""
    most: Annotated[Fraction, Field(gt=0, lt=1)] = 0.4
    """ReLUs of the largest network, as a share of the full network's."""
    least: Annotated[Fraction, Field(gt=0, lt=1)] = 0.004
    """ReLUs of the smallest network, as a share of the full network's."""


def refuse_other_objectives(name: str, context: SearchContext) -> None:
    """Raise `PlanError` for an objective other than the ReLU count."""
    if not context.objective.counts_relus:
        raise PlanError(
            f"method {name} removes ReLUs for their number, not for {context.objective.noun}; leave"
            " cost.objective at relus, or take method levers"
        )


def refuse_limits(context: SearchContext) -> None:
    """Raise `PlanError` where limits are given: no budget is within them."""
    limits = context.limits
    if limits.given:
        raise PlanError(f"no budget has {limits.text()}; raise {' or '.join(limits.given)}, or give smaller budgets")


def budgets_of(options: BudgetOptions, relu_count: int) -> list[int]:
    """Return the ReLU counts to train for, most first, for a network of so many ReLUs.

    Raises `PlanError` where the smallest network would be larger than the largest.
    """
    if options.budgets is not None:
        return sorted({budget for budget in options.budgets}, reverse=True)
    if options.least > options.most:
        raise PlanError(f"method.least is {options.least:g}, more than method.most, {options.most:g}")
    step = (options.least / options.most) ** (1 / max(options.points - 1, 1))
    counts = [round(relu_count * options.most * step**number) for number in range(options.points)]
    return sorted({max(count, 1) for count in counts}, reverse=True)


def expected_networks(
    network: Network,
    options: BudgetOptions,
    context: SearchContext,
    collected: Collector,
    *,
    unit: Unit,
    shape: ReductionPlan | None = None,
    budgets: Sequence[int] | None = None,
) -> dict[int, Proposal]:
    """Return the networks that are expected of one shape by their budgets, most ReLUs first.

    `budgets` are those of the shape (None: all of the options). Budgets that no mask can meet are left out of
    `collected`, each with the reason. `shape` is a plan without sites.
    """
    shape = shape or ReductionPlan()
    found: dict[int, Proposal] = {}
    words = reshape_label(shape.alpha, shape.rho)
    for budget in budgets_of(options, network.relu_count) if budgets is None else budgets:
        label = ", ".join([f"{unit} masks to {budget:,}", *([words] if words else [])])
        try:
            plan = expected_plan(network, shape, unit=unit, budget=budget)
        except PlanError as error:
            collected.leave_out(str(error), label)
            continue
        proposal = collected.propose(plan, label)
        if proposal is None:
            continue
        if not proposal.relu_count:
            collected.leave_out(f"no {unit} has as few ReLUs", label)
        elif proposal.relu_count in (p.relu_count for p in found.values()):
            collected.leave_out("a larger budget buys as many ReLUs", label)
        elif context.limits.allow(proposal):
            found[budget] = proposal
        else:
            collected.leave_out(f"it has more than {context.limits.text()}", label)
    return found


# -- trainings of their own -----------------------------------------------------------------------------------


class TwoPhaseOptions(BudgetOptions):
    """Options of a method that trains each budget's network twice: it learns masks, and then they stay."""

    unit: Unit = "pixel"
    """What keeps or loses its ReLU as a whole: `pixel`, every element of a feature map (the paper), or `channel`."""
    search_epochs: Annotated[Positive, Field(le=1e6)]
    finetune_epochs: Annotated[NotNegative, Field(le=1e6)]
    search_rate: Annotated[Positive, Field(le=10)] = 1e-3
    """Learning rate of Adam for the weights while masks are learned (the authors' scripts)."""
    finetune_rate: Annotated[Positive, Field(le=10)]
    finetune_decay: Annotated[NotNegative, Field(le=1)] = 5e-4
    """Weight decay while the masks stay (the authors' code)."""
    teacher_weight: Annotated[Fraction, Field(lt=1)] = 0.5
    """Weight of the teacher's part of the loss, in the place of distill.weight: the authors add both parts."""
    temperature: Annotated[Positive, Field(ge=1e-3, le=1e6)] = 4.0
    """Temperature of the distillation (the authors' code), in the place of distill.temperature."""

    def search_changes(self, decay: Decay) -> RecipeChanges:
        """Return the training in which masks are learned: Adam without weight decay."""
        return self._changes("adam", self.search_rate, decay, weight_decay=0.0)

    def finetune_changes(self) -> RecipeChanges:
        """Return the training in which masks stay: SGD with a cosine."""
        return self._changes("sgd", self.finetune_rate, "cosine", weight_decay=self.finetune_decay)

    def _changes(self, optimizer: OptimizerName, rate: float, decay: Decay, *, weight_decay: float) -> RecipeChanges:
        loss = Distillation(temperature=self.temperature, weight=self.teacher_weight)
        return RecipeChanges(
            optimizer=optimizer, learning_rate=rate, decay=decay, weight_decay=weight_decay, warmup_epochs=0.0,
            distillation=loss,
        )  # fmt: skip


def train_each(
    name: str,
    network: Network,
    options: TwoPhaseOptions,
    context: SearchContext,
    *,
    learner: Callable[[int], LearnerFactory],
    decay: Decay,
) -> Search:
    """Train the network of every budget on its own, for the method of that name; return what came of it.

    First masks are learned by the `learner` of the budget, then they stay. The two trainings divide what the run's
    budget gives each network in the proportion of their epochs; a second one of no epochs is left out. `decay` is
    that of the first one's learning rate. Raises `PlanError` for an objective other than the ReLU count, and where no
    budget can be met.
    """
    refuse_other_objectives(name, context)
    collected = Collector(network, context.estimator)
    expected = expected_networks(network, options, context, collected, unit=options.unit)
    return (
        yield from train_in_phases(
            expected, collected, context, learner=learner,
            search=Phase(epochs=options.search_epochs, changes=options.search_changes(decay)),
            finetune=Phase(epochs=options.finetune_epochs, changes=options.finetune_changes()),
        )
    )  # fmt: skip
