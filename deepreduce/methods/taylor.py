"""Channel masks that shrink along one training, by what a Taylor expansion says each unit's ReLUs are worth.

One student begins as the teacher and goes down through the budgets, most ReLUs first; at each it is trained and kept
as a candidate, and the next one begins as it. In the first half of a budget's training the masks shrink, a few units
at a time; those go whose ReLUs are worth least per ReLU. No published method makes channel masks in this way. Its
parts: first-order scores as of Molchanov et al. (arXiv 1906.10771), here of a ReLU's gate instead of a weight's; the
empirical Fisher information as the second order (Theis et al., arXiv 1801.05787); the cubic schedule of Zhu and Gupta
(arXiv 1710.01878).

The loss L of one image changes, where unit u of a site loses its ReLU, z becoming what relu(z) was, to first order by

    q_u = sum over the elements of u of dL/dy * (z - relu(z))

With q of every image, the score of u is |mean q| + mean(q^2) / 2 over a batch, a moving average over batches. Those
units go first whose score is smallest per ReLU^1.2: it understates what many small units are worth together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from deepreduce.errors import ModelError, PlanError
from deepreduce.methods.base import Answers, Search, SearchContext, TrainingAnswer, TrainingRequest
from deepreduce.methods.budgets import (
    BudgetOptions,
    budgets_of,
    expected_networks,
    refuse_limits,
    refuse_other_objectives,
)
from deepreduce.methods.deepreduce import MOST_SCALES
from deepreduce.methods.mask_learning import LearnableNetwork, LearnedRelu, MaskLearner, Unit, choose_anew, keep_best
from deepreduce.methods.proposal import Collector, Proposal
from deepreduce.network import Network
from deepreduce.network.analyze import check_input_size
from deepreduce.plan import ReductionPlan
from deepreduce.training import PreparedStudent, RecipeChanges, TrainingState
from deepreduce.transforms import apply_plan, reshape_plan
from deepreduce.utils.fields import Count, Fraction, Listed, Positive, Resolution, Scale

_DECAY = 0.95
"""Share of the older batches in the moving average of the scores."""

_SIZE_POWER = 1.2
"""Power of a unit's ReLUs by which its score is divided (docs/method.md has what was measured)."""

_RHOS = (1.0, 0.5)
"""Resolutions that budgets are spread over."""

_FIRST_STEPS = 16
"""Steps that are all scored before the masks shrink for the first time; at most a third of those in which they do."""


class TaylorOptions(BudgetOptions):
    """Options of the shrinking masks: the budgets, the unit, and how the masks shrink."""

    unit: Unit = "channel"
    """What keeps or loses its ReLU as a whole: `channel`, or `pixel` for every element of a feature map."""
    alphas: Annotated[tuple[Scale, ...], Listed, Field(min_length=1, max_length=MOST_SCALES)] = (1.0,)
    """Channel scales; each of them, combined with each of `rhos`, goes down through the budgets of its own."""
    rhos: Annotated[tuple[Resolution, ...], Listed, Field(min_length=1, max_length=MOST_SCALES)] | None = None
    """Feature-map resolution scales; None: each budget at 1 or 1/2, as `sparsest` says."""
    sparsest: Annotated[Fraction, Field(lt=1)] = 0.04
    """Share of the ReLUs below which a budget takes the network of half the resolution."""
    shrink: Annotated[Fraction, Field(gt=0)] = 0.5
    """Share of a network's training in which its masks shrink; in the rest they stay."""
    rate: Annotated[Positive, Field(le=1e3)] = 1.0
    """Highest learning rate of each network, in units of what a student of the recipe has."""
    every: Count = 8
    """Steps between one shrinking of the masks and the next."""
    score_every: Count = 2
    """Steps between one batch that is scored and the next; the first ones are all scored."""


class Taylor:
    """Let channel masks shrink along one training that passes through every budget."""

    name = "taylor"
    summary = "channel masks that shrink along one training, scored by a Taylor expansion; each budget a network"
    Options = TaylorOptions
    paper = "none; its scores: Molchanov et al., CVPR 2019, arXiv 1906.10771"
    unit = "channel, or pixel"
    epochs = "the recipe's, as one training through all budgets"

    def search(self, network: Network, options: TaylorOptions, context: SearchContext) -> Search:
        """Request the budgets' trainings one after the other; return the networks that came of them.

        Raises `PlanError` for an objective other than the ReLU count, and for budgets that no mask can meet.
        """
        refuse_other_objectives(self.name, context)
        collected = Collector(network, context.estimator)
        shapes = _shapes(network, options)
        paths = [
            path
            for shape, budgets in shapes.items()
            if (
                path := expected_networks(
                    network, options, context, collected, unit=options.unit, shape=shape, budgets=budgets
                )
            )
        ]
        expected = [proposal for path in paths for proposal in path.values()]
        if not expected:
            refuse_limits(context)
            return collected.proposals()  # raises why there is none
        epochs = dict(zip(expected, context.budget.path_epochs(expected), strict=True))
        yield from _go_down([_Path(path, epochs, options, collected) for path in paths])
        return replace(collected.proposals(), trained=frozenset(p.plan_id for p in collected.found))


def _shapes(network: Network, options: TaylorOptions) -> dict[ReductionPlan, list[int]]:
    """Return the reshaped networks that go down a path, each with its budgets, most ReLUs first."""
    budgets = budgets_of(options, network.relu_count)
    found: dict[ReductionPlan, list[int]] = {}
    for alpha in options.alphas:
        if options.rhos is not None:
            found |= {_reshape(alpha, rho): budgets for rho in options.rhos}
        else:
            found |= _at_their_resolutions(network, alpha, budgets, options.sparsest)
    return found


def _at_their_resolutions(
    network: Network, alpha: float, budgets: Sequence[int], sparsest: float
) -> dict[ReductionPlan, list[int]]:
    """Return the budgets of each resolution. A lower one begins with the last budget of the one before it.

    Its student gets used to the resolution there, at little cost.
    """
    found: dict[ReductionPlan, list[int]] = {}
    last: list[int] = []
    for budget in budgets:
        shape = _at_its_resolution(network, alpha, budget, sparsest)
        found.setdefault(shape, last).append(budget)
        last = [budget]
    return found


def _reshape(alpha: float, rho: float) -> ReductionPlan:
    return ReductionPlan() if alpha == rho == 1 else reshape_plan(alpha=alpha, rho=rho)


def _at_its_resolution(network: Network, alpha: float, budget: int, sparsest: float) -> ReductionPlan:
    """Return the network of the highest resolution of which the budget is not too small a share."""
    shape = _reshape(alpha, 1)
    for rho in _RHOS:
        lower = _reshape(alpha, rho)
        try:
            reduced = apply_plan(network, lower)
            check_input_size(reduced)
        except (PlanError, ModelError):
            break  # its feature maps are too small for that
        shape = lower
        if budget >= sparsest * reduced.relu_count:
            break
    return shape


class _Path:
    """The networks of one shape, each of which begins as the one of more ReLUs before it."""

    def __init__(
        self,
        expected: Mapping[int, Proposal],
        epochs: Mapping[Proposal, float],
        options: TaylorOptions,
        collected: Collector,
    ) -> None:
        self._left, self._epochs = list(expected.items()), epochs
        self._options, self._collected = options, collected
        self._before: TrainingRequest | None = None

    def next_request(self) -> TrainingRequest | None:
        """Return the training of the next network; None at the end."""
        if not self._left:
            return None
        budget, expected = self._left.pop(0)
        options = self._options
        learner = ShrinkMasks(
            budget=budget,
            unit=options.unit,
            share=options.shrink,
            every=options.every,
            score_every=options.score_every,
        )
        return TrainingRequest(
            proposal=expected,
            epochs=self._epochs[expected],
            learner=learner,
            after=self._before,
            changes=RecipeChanges(rate=options.rate, decay="linear"),
        )

    def receive(self, request: TrainingRequest, answer: TrainingAnswer) -> None:
        """Collect what came of a training; after one that failed the path ends."""
        self._before = request
        if answer.proposal is not None:
            self._collected.add(answer.proposal)
            return
        for smaller in (request.proposal, *(proposal for _, proposal in self._left)):
            self._collected.leave_out(f"the training of {request.proposal.label} failed", smaller.label)
        self._left.clear()


def _go_down(paths: Sequence[_Path]) -> Generator[Sequence[TrainingRequest], Answers, None]:
    """Request the trainings of all paths: at the same time the next one of each."""
    while requests := {request: path for path in paths if (request := path.next_request()) is not None}:
        answers = yield list(requests)
        for request, path in requests.items():
            path.receive(request, answers[request])


# -- in the training ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ShrinkMasks:
    """Build the learner that shrinks a student's masks to `budget` ReLUs in the first `share` of its training."""

    budget: int
    unit: Unit = "channel"
    share: float = 0.5
    every: int = 8
    score_every: int = 2

    def build(self, student: PreparedStudent) -> ShrinkingMasks:
        """Have a network trained in the student's place whose masks shrink from the student's own."""
        return ShrinkingMasks(self, student)

    def accepts(self, relu_count: int) -> bool:
        """Return whether so many ReLUs are within the budget."""
        return relu_count <= self.budget


class ShrinkingMasks(MaskLearner):
    """Score units, and remove the ReLUs of the worst until the budget is met; then hand the weights over."""

    def __init__(self, options: ShrinkMasks, student: PreparedStudent) -> None:
        super().__init__(student, unit=options.unit)
        self._options, self._scores = options, TaylorScores(self.network)
        self._began_with = self.network.relu_count
        self._first_masks = {name: layer.mask.clone() for name, layer in self.network.layers.items()}

    def on_step_start(self, state: TrainingState) -> None:
        """Listen to the step's gradients where it is to be scored."""
        end = self._last_shrinking(state)
        is_scored = state.step < _first_steps(end) or state.step % self._options.score_every == 0
        if is_scored and state.step < end:
            self._scores.listen()

    def on_backward_end(self, state: TrainingState) -> None:
        """Stop listening."""
        self._scores.stop_listening()

    def on_step_end(self, state: TrainingState) -> None:
        """Shrink the masks where that is due."""
        end = self._last_shrinking(state)
        if state.step == end:
            self._shrink_to(self._options.budget)
            if self.network.relu_count < self._options.budget:  # it takes units back that went before
                self._shrink_to(self._options.budget, alive=self._first_masks)
            if self.network.relu_count < self._options.budget:
                choose_anew(self.network, self._worth(), self._options.budget)
        elif _first_steps(end) <= state.step < end and state.step % self._options.every == 0:
            self._shrink_to(self._target(state.step / end))

    def _shrink_to(self, budget: int, *, alive: Mapping[str, Tensor] | None = None) -> None:
        keep_best(self.network, self._worth(), budget, alive=alive)

    def _worth(self) -> dict[str, Tensor]:
        layers = self.network.layers
        return {n: score / layers[n].cost ** (_SIZE_POWER - 1) for n, score in self._scores.values().items()}

    def _last_shrinking(self, state: TrainingState) -> int:
        return max(round(self._options.share * state.total_steps), 1)

    def _target(self, share: float) -> int:
        """Return the ReLUs to be left when a share of the shrinking is done."""
        budget = self._options.budget
        return round(budget + max(self._began_with - budget, 0) * (1 - share) ** 3)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, scores and the number of batches scored."""
        return {**super().state_dict(), **self._scores.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over masks and scores."""
        super().load_state_dict(state)
        self._scores.load_state_dict(state)


def _first_steps(end: int) -> int:
    return min(_FIRST_STEPS, end // 3)


class TaylorScores:
    """Scores of all units: what the loss is expected to lose where a unit's ReLUs go, a moving average."""

    def __init__(self, network: LearnableNetwork) -> None:
        self._layers = network.layers
        self._sums = {name: torch.zeros(layer.mask.shape) for name, layer in self._layers.items()}
        self._batches = 0

    def listen(self) -> None:
        """Score the next batch that is computed."""
        self._batches += 1
        for name, layer in self._layers.items():
            sums = self._sums[name] = self._sums[name].to(layer.mask.device)
            layer.listener = _scorer(layer, sums)

    def stop_listening(self) -> None:
        """Score no further batch."""
        for layer in self._layers.values():
            layer.listener = None

    def values(self) -> dict[str, Tensor]:
        """Return the scores of the masks' shapes, by site; their average begins at 0, which is corrected."""
        weight = 1 - _DECAY ** max(self._batches, 1)
        return {name: sums / weight for name, sums in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the number of batches."""
        return {"batches": self._batches, **{f"score.{name}": sums for name, sums in self._sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over sums and number."""
        self._batches = int(state["batches"])
        for name, sums in self._sums.items():
            self._sums[name] = state[f"score.{name}"].to(sums.device).reshape(sums.shape)


def _scorer(layer: LearnedRelu, sums: Tensor) -> Callable[[Tensor, Tensor], None]:
    """Return what adds a batch to the sums, once its gradient is there."""

    def add(gradient: Tensor, removed: Tensor) -> None:
        # the loss is a mean over the batch: its gradient times the batch is that of each image's own loss
        change = gradient.float() * removed.float() * len(gradient)
        per_image = sum_to_units(change, layer.mask)
        score = per_image.mean(0).abs() + 0.5 * per_image.square().mean(0)
        sums.mul_(_DECAY).add_(score.reshape(sums.shape), alpha=1 - _DECAY)

    def listen(removed: Tensor, output: Tensor) -> None:
        output.register_hook(lambda gradient: add(gradient, removed))  # type: ignore[no-untyped-call]

    return listen


def sum_to_units(values: Tensor, mask: Tensor) -> Tensor:
    """Return the sums of values (batch, *shape of the site) over the elements of each unit: (batch, units)."""
    batch = len(values)
    if mask.dim() == 0:
        return values.reshape(batch, -1).sum(1, keepdim=True)
    if mask[0].numel() == values[0].numel():
        return values.reshape(batch, -1)
    return values.flatten(2).sum(2) if values.dim() > 2 else values
