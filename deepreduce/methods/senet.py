"""SENet (Kundu, Lu, Zhang, Liu, Beerel; ICLR 2023, arXiv 2301.09254): how many ReLUs each site keeps, then which.

1. Each site s of S gets a count, in all exactly the budget: count_s = min(size_s, k w_s). The paper measures weights
   by pruning; by default w_s rises evenly from 1 at the first site to 14 at the last. That comes to the counts per
   stage that its authors used for ResNet-18 and 100,000 ReLUs, within 15 %.
2. Masks begin at random positions, the same for all channels of a site. From time to time those units get a site's
   ReLUs where the student without a ReLU differs most from the teacher: of the largest mean |teacher's output - z|.
3. Masks stay, and the network is trained to match the teacher's logits and attention.

Different from the authors' later code (RLNet), which was read for the numbers and not used: by default the difference
is that of the student's z, not of what its mask makes of z. With the latter a unit that gets its ReLU comes closer to
the teacher and loses it in the next round (`criterion: paper` does that). Ties never cost a ReLU. The learning rate
falls by the run's schedule in each training, not in steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from deepreduce.errors import PlanError
from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.budgets import BudgetOptions, expected_networks, refuse_other_objectives
from deepreduce.methods.features import TeacherFeatures
from deepreduce.methods.mask_learning import LearnedRelu, MaskLearner, Unit, choose
from deepreduce.methods.matching import MatchingOptions, finetuning
from deepreduce.methods.phases import Phase, train_in_phases
from deepreduce.methods.proposal import Collector
from deepreduce.network import Network
from deepreduce.training import Distillation, PreparedStudent, RecipeChanges, TrainingState
from deepreduce.utils.fields import Count, Fraction, Listed, NotNegative, Positive
from deepreduce.utils.seed import derived_generator

Criterion = Literal["linear", "paper"]

_RISE = 13.0
"""Weight of the last site less that of the first, which is 1."""
_LEAST_BATCHES = 20
"""Batches that are trained between two choices of masks, at least: in fewer, chance decides."""
_REMEMBERED = 100
"""Batches that a choice is made of, at least: the sums of fewer pass to the next choice, in part."""


class SenetOptions(BudgetOptions, MatchingOptions):
    """Options of SENet: budgets, counts of the sites, the search for masks, and the finetuning."""

    unit: Unit = "pixel"
    """What keeps or loses its ReLU as a whole: `pixel` for every element of a feature map, or `channel` (both in the
    paper)."""
    sensitivities: Annotated[tuple[NotNegative, ...], Listed, Field(min_length=1, max_length=4096)] | None = None
    """One number for each ReLU site, in the order of `deepreduce analyze`: the shares of ReLUs that sites keep are
    proportional to these, at most 1. None: counts that rise with depth."""
    criterion: Criterion = "linear"
    """Where a ReLU is worth most: `linear`, where the student's input of the ReLU differs most from the teacher's
    output; or `paper`, where the student's output does."""
    search_epochs: Annotated[Positive, Field(le=1e6)] = 150.0
    """Epochs of the search (the paper: 150), in proportion to `finetune_epochs`: each network is given as many as the
    run's recipe and price say."""
    finetune_epochs: Annotated[NotNegative, Field(le=1e6)] = 180.0
    """Epochs of the finetuning (the paper: 180), in proportion to `search_epochs`."""
    search_rate: Annotated[Positive, Field(le=100)] = 1.0
    """Learning rate of the search, in the run's (the paper's code: 0.05, as its teacher)."""
    search_logits: Annotated[Fraction, Field()] = 0.5
    """Weight of the distillation while searching, that of the labels being the rest (the paper's code: 0.5)."""
    updates: Count = 150
    """Choices of masks in the search (the paper: after every epoch); fewer where less than 20 batches lie between."""
    score_every: Count = 4
    """Batches trained for each one that is compared with the teacher (the paper: 1), which costs a forward pass."""
    settled: Fraction = 0.05
    """Share of the ReLUs that move in a choice, at most, for the masks to count as settled (?)."""
    patience: Count = 10
    """Choices in a row that are settled, after which the masks stay (?)."""
    labels: Annotated[Positive, Field(le=1e6)] = 0.1
    """Weight of the cross-entropy with the labels while finetuning (the paper's code: 0.1)."""


class Senet:
    """Divide the budget among sites, search for the units where ReLUs matter, finetune to match the teacher."""

    name = "senet"
    summary = "counts per site, masks where a linear student differs most from the teacher, attention matching"
    Options = SenetOptions
    paper = "SENet, Kundu et al., ICLR 2023, arXiv 2301.09254"
    unit = "pixel, or channel"
    epochs = "150 + 180"

    def search(self, network: Network, options: SenetOptions, context: SearchContext) -> Search:
        """Request two trainings for every budget: the search for masks, and the finetuning.

        Raises `PlanError` for an objective other than the ReLU count, for budgets that no mask can meet, and for
        sensitivities of other sites.
        """
        refuse_other_objectives(self.name, context)
        collected = Collector(network, context.estimator)
        expected = expected_networks(network, options, context, collected, unit=options.unit)
        for budget in expected:
            sizes = [site.relu_count for site in network.sites]
            site_counts(sizes, [1] * len(sizes), budget, sensitivities=options.sensitivities)
        search = Phase(
            epochs=options.search_epochs,
            changes=RecipeChanges(
                optimizer="sgd",
                rate=options.search_rate,
                distillation=Distillation(temperature=options.temperature, weight=options.search_logits),
            ),
            extra_forwards=1 / options.score_every,
        )

        def learner(budget: int) -> LocateRelus:
            return LocateRelus(
                budget=budget, unit=options.unit, sensitivities=options.sensitivities, criterion=options.criterion,
                updates=options.updates, score_every=options.score_every, settled=options.settled,
                patience=options.patience,
            )  # fmt: skip

        return (
            yield from train_in_phases(
                expected, collected, context, learner=learner, search=search,
                finetune=finetuning(network, options, epochs=options.finetune_epochs),
            )
        )  # fmt: skip


def site_counts(
    sizes: Sequence[int], costs: Sequence[int], budget: int, *, sensitivities: Sequence[float] | None = None
) -> list[int]:
    """Return the ReLUs that each site keeps: whole units of `costs` ReLUs, at most `sizes`, at most `budget` in all.

    They are min(size, k w), k such that they sum up to the budget; what whole units leave goes to the sites that lack
    most. w is the sensitivity times the size, or rises evenly from 1 at the first site to 14 at the last. Raises
    `PlanError` for sensitivities of another number, or where the sites of a sensitivity above 0 have too few ReLUs.
    """
    size = np.asarray(sizes, dtype=float)
    if sensitivities is None:
        weight = 1 + _RISE * np.arange(len(size)) / max(len(size) - 1, 1)
    elif len(sensitivities) != len(size):
        raise PlanError(
            f"method.sensitivities has {len(sensitivities)} numbers and the network {len(size)} ReLU sites; give one"
            " for each, in the order of 'deepreduce analyze'"
        )
    else:
        weight = np.asarray(sensitivities, dtype=float) * size
    able = int(size[weight > 0].sum())
    if able < budget:
        raise PlanError(
            f"sites of a sensitivity above 0 have {able:,} ReLUs, fewer than the budget of {budget:,}; raise"
            " method.sensitivities of other sites"
        )
    wanted = np.minimum(size, _fill(size, weight, budget) * weight)
    unit = np.asarray(costs)
    counts = (wanted / unit + 1e-9).astype(int) * unit
    while True:
        fits = (unit <= budget - counts.sum()) & (counts + unit <= size) & (weight > 0)
        if not fits.any():
            break
        most = np.argmax(np.where(fits, wanted - counts, -np.inf))
        counts[most] += unit[most]
    return [int(count) for count in counts]


def _fill(size: np.ndarray[Any, Any], weight: np.ndarray[Any, Any], budget: int) -> float:
    """Return k for which min(size, k weight) sums up to the budget, by bisection."""
    low, high = 0.0, float((size[weight > 0] / weight[weight > 0]).max())
    for _ in range(200):
        middle = (low + high) / 2
        if np.minimum(size, middle * weight).sum() < budget:
            low = middle
        else:
            high = middle
    return high


# -- in the training ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LocateRelus:
    """Build the learner that finds out which units of each site keep their ReLU, `budget` in all."""

    budget: int
    unit: Unit = "pixel"
    sensitivities: tuple[float, ...] | None = None
    criterion: Criterion = "linear"
    updates: int = 150
    score_every: int = 4
    settled: float = 0.05
    patience: int = 10

    def build(self, student: PreparedStudent) -> ReluLocating:
        """Have a network trained in the student's place whose masks move."""
        return ReluLocating(self, student)

    def accepts(self, relu_count: int) -> bool:
        """Return whether so many ReLUs are within the budget."""
        return relu_count <= self.budget


class ReluLocating(MaskLearner):
    """Sum up each unit's difference from the teacher, and give each site's ReLUs to the units of the largest sums."""

    def __init__(self, options: LocateRelus, student: PreparedStudent) -> None:
        super().__init__(student, unit=options.unit)
        self._options = options
        layers = self.network.layers
        self._able = {name: layer.mask.clone() for name, layer in layers.items()}
        counts = site_counts(
            [layer.relu_count for layer in layers.values()],
            [layer.cost for layer in layers.values()],
            options.budget - self.network.fixed,
            sensitivities=options.sensitivities,
        )
        self._counts = dict(zip(layers, counts, strict=True))
        self._teacher = TeacherFeatures(student, layers.keys())
        self._sums = {name: torch.zeros(layer.mask.shape) for name, layer in layers.items()}
        self._batches = self._calm = 0
        self._outputs: dict[str, Tensor] = {}
        draw = derived_generator(student.seed, "masks")
        self._choose({name: _random_scores(layer, draw) for name, layer in layers.items()})

    def on_step_start(self, state: TrainingState) -> None:
        """Keep the step's activations where they are to be compared."""
        if not self._is_settled and state.step % self._options.score_every == 0:
            for name, layer in self.network.layers.items():
                layer.listener = self._listener(name, layer)

    def _listener(self, name: str, layer: LearnedRelu) -> Any:
        def keep(removed: Tensor, output: Tensor) -> None:
            output = output.detach()
            is_linear = self._options.criterion == "linear"
            self._outputs[name] = torch.where(layer.mask, output + removed, output) if is_linear else output

        return keep

    @torch.no_grad()
    def loss_term(self, state: TrainingState, images: Tensor) -> None:
        """Compare the step's activations with the teacher's; add nothing to the loss."""
        for layer in self.network.layers.values():
            layer.listener = None
        if not self._outputs:
            return
        bf16 = next(iter(self._outputs.values())).dtype == torch.bfloat16
        self._teacher.read(images, self._add, bf16=bf16)
        self._outputs = {}
        self._batches += 1

    def _add(self, name: str, taught: Tensor) -> None:
        if name not in self._outputs:  # nothing before it is trained
            return
        difference = (taught.float() - self._outputs[name].float()).abs().sum(0, keepdim=True)
        shape = self._sums[name].shape
        summed = difference.sum_to_size(shape) if shape else difference.sum()
        self._sums[name] = self._sums[name].to(summed.device) + summed

    def on_step_end(self, state: TrainingState) -> None:
        """Choose masks where that is due."""
        every = max(round(state.total_steps / self._options.updates), _LEAST_BATCHES)
        is_due = state.step % every == 0 or state.step == state.total_steps
        if is_due and self._batches and not self._is_settled:
            moved = self._choose(self._sums)
            self._calm = self._calm + 1 if moved <= self._options.settled else 0
            left = max(1 - self._batches / _REMEMBERED, 0.0)  # the paper's epochs leave nothing
            self._sums = {name: sums * left for name, sums in self._sums.items()}
            self._batches = 0

    @property
    def _is_settled(self) -> bool:
        return self._calm >= self._options.patience

    def _choose(self, scores: Mapping[str, Tensor]) -> float:
        """Give each site's ReLUs to the units of the highest scores; return the share of ReLUs that moved."""
        moved = total = 0
        for name, layer in self.network.layers.items():
            able = self._able[name].cpu().numpy().ravel()
            worth = scores[name].cpu().double().numpy().ravel()
            kept = choose(worth, np.full(len(worth), layer.cost), able, self._counts[name])
            mask = torch.from_numpy(kept).view_as(layer.mask).to(layer.mask.device)
            moved += int((mask & ~layer.mask).sum()) * layer.cost
            total += int(kept.sum()) * layer.cost
            layer.mask.copy_(mask)
        return moved / max(total, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, sums, the batches in them, and the settled choices in a row."""
        sums = {f"sum.{name}": value for name, value in self._sums.items()}
        return {**super().state_dict(), **sums, "batches": self._batches, "calm": self._calm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all of it over."""
        super().load_state_dict(state)
        self._batches, self._calm = int(state["batches"]), int(state["calm"])
        self._sums = {name: state[f"sum.{name}"].reshape(sums.shape) for name, sums in self._sums.items()}


def _random_scores(layer: LearnedRelu, draw: torch.Generator) -> Tensor:
    """Return random scores of the mask's shape, the same for all channels where the units are elements."""
    shape = layer.mask.shape
    if len(shape) == 4 and shape[2] * shape[3] > 1:
        return torch.rand((1, 1, *shape[2:]), generator=draw).expand(shape)
    return torch.rand(shape, generator=draw)
