"""ReLUPruner (AAAI 2026): masks by a global ranking of importance, from all ReLUs to the budget along a cosine.

With z the input of a unit, r = relu(z) - z what its ReLU adds, a the output, L_n the loss of image n, and means over
the images of past batches, the importance of a unit is

    ( mean |dL_n/da r|  +  mean (dL_n/dz)^2 mean r^2 )  Pr(r > 0)  mean |g_n|  sqrt(mean |g_n|^2)

where |g_n| is the norm of dL_n/da over the whole site. The first term is the paper's I_first, of which the absolute
value is taken per image as its code does; the second is I_second; then A_neg and I_layer. From time to time the
units of the highest importance keep their ReLU, of all units: one that lost its ReLU can get it back. Their share
falls from 1 to the budget along rho* + (1 - rho*)(1 + cos(pi p^1.5)) / 2, p from 0 to 1.

Different from the authors' code, which was read for the numbers and not used: gradients are those of each image's own
loss (it takes those of the batch's mean, which makes the second term smaller by the batch size); the networks start
from the teacher's weights, not from random ones; nothing is chosen by test images; the learning rate falls by the
run's schedule, not in steps. `formula: code` ranks by the code's formula, which takes |z| and z^2 for r and r^2, with
gradients of each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.budgets import BudgetOptions, expected_networks, refuse_other_objectives
from deepreduce.methods.mask_learning import LearnableNetwork, LearnedRelu, MaskLearner, Unit, choose_anew
from deepreduce.methods.matching import MatchingOptions, finetuning
from deepreduce.methods.phases import Phase, train_in_phases
from deepreduce.methods.proposal import Collector
from deepreduce.network import Network
from deepreduce.training import Distillation, PreparedStudent, RecipeChanges, TrainingState
from deepreduce.utils.fields import Count, Fraction, NotNegative, Positive

Formula = Literal["paper", "code"]

_DECAY = 0.95
"""Share of the older batches in the moving averages (the code: 0.95 for the importance and the norms)."""
_POWER = 1.5
"""Of the progress in the cosine (the paper)."""
_UPDATES = 150 * 391 / 100
"""Choices of masks in a search: one in 100 steps of 150 epochs of 391 steps (the code), fewer after the fall."""


class ReluPrunerOptions(BudgetOptions, MatchingOptions):
    """Options of ReLUPruner: budgets, ranking, the fall to the budget, and the finetuning."""

    unit: Unit = "pixel"
    """What keeps or loses its ReLU as a whole: `pixel`, every element of a feature map (the paper), or `channel`."""
    formula: Formula = "paper"
    """Importance by the paper's formula, or by that of its code."""
    search_epochs: Annotated[Positive, Field(le=1e6)] = 150.0
    """Epochs in which masks are chosen (the paper: 150), in proportion to `finetune_epochs`: each network is given as
    many as the run's recipe and price say."""
    finetune_epochs: Annotated[NotNegative, Field(le=1e6)] = 240.0
    """Epochs of the finetuning (the paper: 240), in proportion to `search_epochs`."""
    search_rate: Annotated[Positive, Field(le=100)] = 1.0
    """Learning rate while masks are chosen, in the run's (the code: 0.05, as its teacher; the paper: 0.1)."""
    search_logits: Fraction = 0.5
    """Weight of the distillation while masks are chosen, that of the labels being the rest (the code: 0.5)."""
    whole: Annotated[Fraction, Field(lt=1)] = 1 / 30
    """Share of the search in which all ReLUs stay (the code: 5 of 150 epochs)."""
    fall: Annotated[Fraction, Field(gt=0)] = 0.6
    """Share of the rest of the search in which they fall to the budget (the code: 0.6)."""
    every: Count = 8
    """Steps between two choices of masks, at least. The code has 100 in a search of 150 epochs; a shorter search has
    fewer in proportion."""
    score_every: Count = 4
    """Steps between one batch that is scored and the next (the code: 1)."""


class ReluPruner:
    """Keep the ReLUs of the most important units of the whole network, ever fewer; finetune to match the teacher."""

    name = "relupruner"
    summary = "masks by a global ranking of first and second order, a cosine to the budget, attention matching"
    Options = ReluPrunerOptions
    paper = "ReLUPruner, AAAI 2026"
    unit = "pixel, or channel"
    epochs = "150 + 240"

    def search(self, network: Network, options: ReluPrunerOptions, context: SearchContext) -> Search:
        """Request two trainings for every budget: the search for masks, and the finetuning.

        Raises `PlanError` for an objective other than the ReLU count, and for budgets that no mask can meet.
        """
        refuse_other_objectives(self.name, context)
        collected = Collector(network, context.estimator)
        changes = RecipeChanges(
            optimizer="sgd",
            rate=options.search_rate,
            distillation=Distillation(temperature=options.temperature, weight=options.search_logits),
        )

        def learner(budget: int) -> RankRelus:
            return RankRelus(
                budget=budget, unit=options.unit, formula=options.formula, whole=options.whole, fall=options.fall,
                every=options.every, score_every=options.score_every,
            )  # fmt: skip

        return (
            yield from train_in_phases(
                expected_networks(network, options, context, collected, unit=options.unit), collected, context,
                learner=learner,
                search=Phase(epochs=options.search_epochs, changes=changes),
                finetune=finetuning(network, options, epochs=options.finetune_epochs),
            )
        )  # fmt: skip


# -- in the training ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RankRelus:
    """Build the learner that leaves the `budget` ReLUs of most importance."""

    budget: int
    unit: Unit = "pixel"
    formula: Formula = "paper"
    whole: float = 1 / 30
    fall: float = 0.6
    every: int = 8
    score_every: int = 4

    def build(self, student: PreparedStudent) -> ReluRanking:
        """Have a network trained in the student's place whose masks shrink and regrow."""
        return ReluRanking(self, student)

    def accepts(self, relu_count: int) -> bool:
        """Return whether so many ReLUs are within the budget."""
        return relu_count <= self.budget


class ReluRanking(MaskLearner):
    """Rank all units of the network again and again, and keep the ReLUs of the best, as many as the cosine says."""

    def __init__(self, options: RankRelus, student: PreparedStudent) -> None:
        super().__init__(student, unit=options.unit)
        self._options = options
        self._began_with = self.network.relu_count
        self._able = {name: layer.mask.clone() for name, layer in self.network.layers.items()}
        self._importance = Importance(self.network, options.formula)

    def on_step_start(self, state: TrainingState) -> None:
        """Listen to the step's gradients where it is to be scored."""
        if state.step % self._options.score_every == 0:
            self._importance.listen()

    def on_backward_end(self, state: TrainingState) -> None:
        """Stop listening."""
        self._importance.stop_listening()

    def on_step_end(self, state: TrainingState) -> None:
        """Choose masks where that is due."""
        begin, end = self._fall(state)
        every = max(round(state.total_steps / _UPDATES), self._options.every) * (2 if state.step > end else 1)
        is_due = state.step % every == 0 or state.step in (end, state.total_steps)
        if state.step > begin and is_due:
            target = self._target((state.step - begin) / (end - begin))
            choose_anew(self.network, self._importance.values(), target, among=self._able)

    def _fall(self, state: TrainingState) -> tuple[int, int]:
        """Return the steps between which the ReLUs fall to the budget."""
        begin = min(int(self._options.whole * state.total_steps), state.total_steps - 1)
        return begin, begin + max(round(self._options.fall * (state.total_steps - begin)), 1)

    def _target(self, progress: float) -> int:
        """Return the ReLUs to be left."""
        if progress >= 1:
            return self._options.budget
        budget = min(self._options.budget, self._began_with)
        return round(budget + (self._began_with - budget) * 0.5 * (1 + math.cos(math.pi * progress**_POWER)))

    def state_dict(self) -> dict[str, Any]:
        """Return masks and averages."""
        return {**super().state_dict(), **self._importance.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all of it over."""
        super().load_state_dict(state)
        self._importance.load_state_dict(state)


class Importance:
    """Importance of all units of a network, from moving averages over the batches that were listened to."""

    def __init__(self, network: LearnableNetwork, formula: Formula) -> None:
        self._layers, self._formula = network.layers, formula
        self._averages: dict[str, dict[str, Tensor]] = {name: {} for name in self._layers}
        self._batches = 0

    def listen(self) -> None:
        """Take the next batch that is computed into the averages."""
        self._batches += 1
        for name, layer in self._layers.items():
            layer.listener = self._listener(layer, self._averages[name])

    def _listener(self, layer: LearnedRelu, averages: dict[str, Tensor]) -> Callable[[Tensor, Tensor], None]:
        measure = _measures_of_code if self._formula == "code" else _measures_of_paper

        def add(gradient: Tensor, removed: Tensor, output: Tensor) -> None:
            # the loss is a mean over the batch: its gradient times the batch is that of each image's own loss
            per_image = gradient.float() * len(gradient)
            norms = per_image.flatten(1).square().sum(1)  # (batch,)
            measured = measure(per_image, removed.float(), output.float(), layer.mask)
            measured |= {"norm": norms.sqrt().mean(), "square_norm": norms.mean()}
            for name, value in measured.items():
                before = averages.get(name)
                if before is None:
                    before = torch.zeros_like(value)
                averages[name] = before.to(value.device) * _DECAY + value * (1 - _DECAY)

        def listen(removed: Tensor, output: Tensor) -> None:
            kept = output.detach()
            output.register_hook(lambda gradient: add(gradient, removed, kept))  # type: ignore[no-untyped-call]

        return listen

    def stop_listening(self) -> None:
        """Take no further batch."""
        for layer in self._layers.values():
            layer.listener = None

    def values(self) -> dict[str, Tensor]:
        """Return the importance of the masks' shapes, by site, a sum over the elements of a unit."""
        weight = 1 - _DECAY ** max(self._batches, 1)  # the averages begin at 0
        means = {name: {k: v / weight for k, v in values.items()} for name, values in self._averages.items()}
        rank = _ranked_by_code if self._formula == "code" else _ranked_by_paper
        found = rank({name: values for name, values in means.items() if values})
        return {
            name: _summed(found[name], layer.mask) if name in found else torch.zeros(layer.mask.shape)
            for name, layer in self._layers.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the number of batches."""
        averages = {f"{kind}.{name}": v for name, values in self._averages.items() for kind, v in values.items()}
        return {**averages, "batches": self._batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take averages and number over."""
        self._batches = int(state["batches"])
        kinds = ("first", "curvature", "square", "negative", "norm", "square_norm")
        for name in self._averages:
            self._averages[name] = {k: state[f"{k}.{name}"] for k in kinds if f"{k}.{name}" in state}


def _measures_of_paper(gradient: Tensor, removed: Tensor, output: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return means over the batch of what the paper's formula has, each (*shape of the site).

    `gradient` is dL_n/da of each image, `removed` z - relu(z), both (batch, *shape of the site).
    """
    passes = (removed == 0) | ~mask  # where da/dz is 1; elsewhere it is 0
    return {
        "first": (gradient * removed).abs().mean(0),
        "curvature": (gradient * passes).square().mean(0),
        "square": removed.square().mean(0),
        "negative": (removed != 0).float().mean(0),
    }


def _measures_of_code(gradient: Tensor, removed: Tensor, output: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return means over the batch of what the code's formula has; arguments are those of `_measures_of_paper`."""
    z = torch.where(mask, output + removed, output)
    return {
        "first": (gradient * z).abs().mean(0),
        "curvature": gradient.square().mean(0),
        "square": z.square().mean(0),
        "negative": (z < 0).float().mean(0),
    }


def _ranked_by_paper(means: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: (m["first"] + m["curvature"] * m["square"]) * m["negative"] * m["norm"] * m["square_norm"].sqrt()
        for name, m in means.items()
    }


def _ranked_by_code(means: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    if not means:
        return {}
    last = max(len(means) - 1, 1)
    raw = torch.stack(
        [
            m["norm"] * (m["square_norm"] / m["first"].numel() + 1e-8).sqrt() * (1 + 0.2 * number / last)
            for number, m in enumerate(means.values())
        ]
    )
    span = (raw.max() - raw.min()).clamp_min(1e-12)
    weights = (raw - raw.min()) / span + 0.1
    return {
        name: (m["first"] * m["negative"] + 0.5 * m["square"] * m["curvature"]) * weight
        for (name, m), weight in zip(means.items(), weights, strict=True)
    }


def _summed(elements: Tensor, mask: Tensor) -> Tensor:
    """Return the sums over the elements of each unit, of the mask's shape."""
    return elements[None].sum_to_size(mask.shape) if mask.dim() else elements.sum()
