"""SNL, Selective Network Linearization (Cho, Joshi, Reagen, Garg, Hegde; ICML 2022, arXiv 2202.02340).

Every unit has a coefficient alpha, 1 at first, and computes alpha relu(z) + (1 - alpha) z. Weights and alphas are
trained together, with the penalty lambda sum(alpha) in the loss, which drives alphas to 0. Then masks take the place
of the alphas, and the network is trained further.

Different from the authors' code, which was read for the numbers and not used:

- it counts alphas above 0.01, raises lambda by a tenth after every epoch in which the count did not fall, and stops
  at the budget, which takes hundreds of epochs or ends in a fall of all alphas at once; here lambda makes the sum of
  the alphas follow a path that ends at the budget, whatever the number of epochs;
- it keeps every unit above 0.01, so that the count misses the budget; here those of the largest alphas stay, as many
  as the budget allows;
- it adds cross-entropy and distillation; here the loss is their mean, so that rates and lambda stand for half;
- it keeps the epoch of the best test accuracy, and trains its teacher's graph; here nothing is chosen by test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.budgets import TwoPhaseOptions, train_each
from deepreduce.methods.mask_learning import LearnedRelu, MaskLearner, Unit, choose_anew, load_adam, state_of_adam
from deepreduce.network import Network
from deepreduce.sites.layers import rectify
from deepreduce.training import PreparedStudent, TrainingState
from deepreduce.utils.fields import Positive

_TRAVEL = 10.0
"""How often an alpha can cross its range in a training, at least: in a short one its rate is raised."""
_CHECKS = 200
"""Counts in a training, between which lambda is constant."""
_FACTOR = 1.3
"""Most that lambda is multiplied or divided by at a check."""
_FLOOR = 0.1
"""Least lambda, as a share of the first: from less it would take too long to return."""
_LEAD = 10
"""Checks that lambda looks ahead: alphas go on falling for a while after it has changed."""
_ARRIVAL = 0.9
"""Share of the training at which the path of counts ends at the budget."""


class SnlOptions(TwoPhaseOptions):
    """Options of SNL: the budgets, and the two trainings of each network."""

    search_epochs: Annotated[Positive, Field(le=1e6)] = 100.0
    """Epochs in which alphas are learned, in proportion to `finetune_epochs`: each network is given as many as the
    run's recipe and price say. The authors' code stops at the budget, after at most 2,000."""
    finetune_epochs: Annotated[Positive, Field(le=1e6)] = 100.0
    """Epochs in which the masks stay (the authors' code: 100), in proportion to `search_epochs`."""
    finetune_rate: Annotated[Positive, Field(le=10)] = 1e-3
    """Learning rate of SGD while the masks stay, falling to 0 as a cosine (the authors' code)."""
    alpha_rate: Annotated[Positive, Field(le=10)] = 1e-3
    """Learning rate of Adam for the alphas (the authors' scripts); raised where the steps are too few to cross 0 to 1
    ten times at it."""
    penalty: Annotated[Positive, Field(le=1e6)] = 1e-5
    """Lambda of the L1 penalty at the beginning (the authors' code)."""


class Snl:
    """Learn soft masks under a penalty until the budget is met; fix them; train on."""

    name = "snl"
    summary = "soft masks under an L1 penalty, fixed at the budget, each budget a training of its own (SNL)"
    Options = SnlOptions
    paper = "SNL, Cho et al., ICML 2022, arXiv 2202.02340"
    unit = "pixel, or channel"
    epochs = "up to 2,000 + 100"

    def search(self, network: Network, options: SnlOptions, context: SearchContext) -> Search:
        """Request two trainings for every budget, one that learns alphas and one with the masks that came of them.

        Raises `PlanError` for an objective other than the ReLU count, and for budgets that no mask can meet.
        """

        def learner(budget: int) -> LearnAlphas:
            return LearnAlphas(budget=budget, unit=options.unit, rate=options.alpha_rate, penalty=options.penalty)

        return train_each(self.name, network, options, context, learner=learner, decay="constant")


# -- in the training ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LearnAlphas:
    """Build the learner that leaves `budget` ReLUs, chosen by coefficients alpha that it trains."""

    budget: int
    unit: Unit = "pixel"
    rate: float = 1e-3
    penalty: float = 1e-5

    def build(self, student: PreparedStudent) -> AlphaLearner:
        """Have a network with alphas trained in the student's place."""
        return AlphaLearner(self, student)

    def accepts(self, relu_count: int) -> bool:
        """Return whether so many ReLUs are within the budget."""
        return relu_count <= self.budget


class SoftGate:
    """alpha relu(x) + (1 - alpha) x: a ReLU where alpha is 1, the identity where it is 0. `alpha` is as the mask."""

    def __init__(self, alpha: Tensor) -> None:
        self.alpha = alpha

    def __call__(self, x: Tensor, cap: float | None) -> Tensor:
        """x: (batch, *shape of the site); `cap` is the ReLU's, None where it has none."""
        return torch.lerp(x, rectify(x, cap), self.alpha.to(x.dtype))


class AlphaLearner(MaskLearner):
    """Train alphas with Adam under a penalty that follows a path of counts; at the budget, let masks replace them."""

    def __init__(self, options: LearnAlphas, student: PreparedStudent) -> None:
        super().__init__(student, unit=options.unit)
        self._options = options
        self._began_with = self.network.relu_count
        self._last_count = float(self._began_with)
        self.penalty = options.penalty
        self.alphas: dict[str, Tensor] = {}

    @property
    def _layers(self) -> Mapping[str, LearnedRelu]:
        return self.network.layers

    @property
    def is_soft(self) -> bool:
        """Whether alphas are in place, and no masks yet."""
        return any(layer.gate is not None for layer in self._layers.values())

    def count(self) -> float:
        """Return the ReLUs of one image, each unit's as the part that its alpha is."""
        counts = [self.alphas[name].detach().sum() * layer.cost for name, layer in self._layers.items()]
        return self.network.fixed + float(torch.stack(counts).sum())

    # -- hooks ------------------------------------------------------------------------------------------------

    def on_start(self, state: TrainingState) -> None:
        """Put alphas in the place of the masks; all that have a ReLU begin at 1."""
        self.alphas = {name: layer.mask.float().requires_grad_() for name, layer in self._layers.items()}
        rate = max(self._options.rate, _TRAVEL / max(state.total_steps, 1))
        self._optimizer = torch.optim.Adam(self.alphas.values(), lr=rate)
        self._install(soft=True)

    def on_backward_end(self, state: TrainingState) -> None:
        """Add the gradient of the penalty, lambda for every ReLU of a unit; take a step and stay within 0 to 1."""
        if not self.is_soft:
            return
        for name, layer in self._layers.items():
            gradient = self.alphas[name].grad
            if gradient is not None:
                gradient.add_(self.penalty * layer.cost)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for alpha in self.alphas.values():
                alpha.clamp_(0, 1)

    def on_step_end(self, state: TrainingState) -> None:
        """Set lambda from time to time."""
        if self.is_soft and state.step % max(state.total_steps // _CHECKS, 1) == 0:
            self._steer(state.share_done)

    def on_end(self, state: TrainingState) -> None:
        """Let masks take the place of the alphas; hand the weights over."""
        self._fix()
        super().on_end(state)

    # -- what they do -----------------------------------------------------------------------------------------

    def target(self, share: float) -> int:
        """Return the count that the path has at a share of the training: a cubic fall to the budget."""
        left = max(1 - share / _ARRIVAL, 0.0)
        return round(self._options.budget + (self._began_with - self._options.budget) * left**3)

    def _steer(self, share: float) -> None:
        """Raise lambda where the count, as it falls now, will be above the path in some checks, else lower it."""
        count = self.count()
        ahead = max(count + _LEAD * (count - self._last_count), 0.0)
        ratio = ahead / max(self.target(share + _LEAD / _CHECKS), 1)
        factor = min(max(ratio**2, 1 / _FACTOR), _FACTOR)
        self.penalty = max(self.penalty * factor, _FLOOR * self._options.penalty)
        self._last_count = count

    def _fix(self) -> None:
        """Let masks take the place of the alphas: the largest of them keep their ReLU, as many as fit."""
        by_alpha = {name: self.alphas[name].detach() * layer.cost for name, layer in self._layers.items()}
        choose_anew(self.network, by_alpha, self._options.budget)
        self._install(soft=False)

    def _install(self, *, soft: bool) -> None:
        for name, layer in self._layers.items():
            layer.gate = SoftGate(self.alphas[name]) if soft else None

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return masks, alphas, what Adam keeps of each, lambda and the last count."""
        state = {**super().state_dict(), "soft": self.is_soft, "penalty": self.penalty, "count": self._last_count}
        return {**state, **state_of_adam(self._optimizer, self.alphas)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all of it over."""
        super().load_state_dict(state)
        self.penalty, self._last_count = float(state["penalty"]), float(state["count"])
        load_adam(self._optimizer, self.alphas, state)
        self._install(soft=bool(state["soft"]))
