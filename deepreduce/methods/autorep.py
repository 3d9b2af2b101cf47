"""AutoReP (Peng et al., ICCV 2023, arXiv 2308.10134): hard masks driven by trained values through a relay.

Every unit has an auxiliary value w, uniform in 0 to 1 at first, and a mask m, 1 at first. The network computes
m relu(z) + (1 - m) z. Before each step m follows w as a relay with hysteresis: a ReLU is lost where w is at or below
-theta, and comes back where w exceeds theta. m has no derivative; in its place w is given

    dL/dw = softplus(w) dL/dm,    dL/dm = sum over batch and elements of dL/dy (relu(z) - z)

and the loss has a hinge, lambda max(share of the ReLUs left - share of the budget, 0), which ends at the budget.

Different from the authors' code, which was read for the numbers and not used:

- it keeps the epoch of the best test accuracy among those within 2,000 ReLUs of the budget; here the masks are those
  of the largest w, as many as the budget allows, for the last part of the training, and nothing is chosen by test
  images;
- its masks also move in evaluation, and it trains its teacher's graph; here neither happens;
- its removed ReLUs become polynomials of degree 2 (DaPa); here they become the identity (`replace`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.budgets import TwoPhaseOptions, train_each
from deepreduce.methods.mask_learning import MaskLearner, Unit, choose_anew, load_adam, state_of_adam
from deepreduce.network import Network
from deepreduce.training import PreparedStudent, TrainingState
from deepreduce.utils.fields import Fraction, NotNegative, Positive
from deepreduce.utils.seed import derived_generator

_LEAST_RATE = 1e-2
"""Last learning rate of the auxiliary values, as a share of the first (the authors' scripts: 1e-5 of 1e-3)."""
_TRAVEL = 3.0
"""How far a value can go in a training, at least: in a short one its rate is raised."""
_MEMORY = 0.01
"""Steps that Adam remembers, as a share of all, at most: at a high rate momentum would lead far past the budget."""


class AutoRepOptions(TwoPhaseOptions):
    """Options of AutoReP: the budgets, the relay, and the trainings of each network."""

    replace: Literal["identity"] = "identity"
    """What takes the place of a ReLU that goes."""
    search_epochs: Annotated[Positive, Field(le=1e6)] = 200.0
    """Epochs in which masks are learned (authors' scripts, CIFAR), in proportion to `finetune_epochs`: each
    network is given as many as the run's recipe and price say."""
    finetune_epochs: Annotated[NotNegative, Field(le=1e6)] = 0.0
    """Epochs of SGD in which the masks stay, in proportion to `search_epochs` (the authors' scripts: 0)."""
    finetune_rate: Annotated[Positive, Field(le=10)] = 1e-2
    """Learning rate of SGD in `finetune_epochs`, falling to 0 as a cosine."""
    aux_rate: Annotated[Positive, Field(le=10)] = 1e-3
    """Learning rate of Adam for the auxiliary values, falling as a cosine (the authors' scripts); raised where the
    steps are too few to move a value by 3 at it."""
    theta: Annotated[NotNegative, Field(le=1)] = 0.003
    """Half the width of the relay's hysteresis (the authors' scripts)."""
    penalty: Annotated[Positive, Field(le=1e6)] = 140.0
    """Lambda of the hinge (the authors' script for ResNet-18 and 9,000 ReLUs; WRN-22-8: 80)."""
    settle: Annotated[Fraction, Field(lt=1)] = 0.2
    """Share of the search at whose end the masks stay, so that the weights adapt to them (the authors' code: 0)."""


class AutoRep:
    """Let masks follow trained values through a relay until the budget is met and kept."""

    name = "autorep"
    summary = "hard masks that follow trained values through a relay, each budget a training of its own (AutoReP)"
    Options = AutoRepOptions
    paper = "AutoReP, Peng et al., ICCV 2023, arXiv 2308.10134"
    unit = "pixel, or channel"
    epochs = "200 (TinyImageNet: 80)"

    def search(self, network: Network, options: AutoRepOptions, context: SearchContext) -> Search:
        """Request a training for every budget, and a second one with the masks that came of it, if it has epochs.

        Raises `PlanError` for an objective other than the ReLU count, and for budgets that no mask can meet.
        """

        def learner(budget: int) -> LearnByRelay:
            return LearnByRelay(
                budget=budget, unit=options.unit, rate=options.aux_rate, theta=options.theta,
                penalty=options.penalty, settle=options.settle,
            )  # fmt: skip

        return train_each(self.name, network, options, context, learner=learner, decay="cosine")


# -- in the training ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LearnByRelay:
    """Build the learner that leaves `budget` ReLUs, chosen by auxiliary values that it trains."""

    budget: int
    unit: Unit = "pixel"
    rate: float = 1e-3
    theta: float = 0.003
    penalty: float = 140.0
    settle: float = 0.2

    def build(self, student: PreparedStudent) -> RelayLearner:
        """Have a network trained in the student's place whose masks follow auxiliary values."""
        return RelayLearner(self, student)

    def accepts(self, relu_count: int) -> bool:
        """Return whether so many ReLUs are within the budget."""
        return relu_count <= self.budget


def relay(mask: Tensor, aux: Tensor, theta: float) -> Tensor:
    """Return the next mask: a ReLU stays until its value falls to -theta, and returns above theta."""
    return torch.where(mask, aux > -theta, aux > theta)


class RelayLearner(MaskLearner):
    """Train auxiliary values by straight-through gradients and a hinge; let masks follow; fix these in the end."""

    def __init__(self, options: LearnByRelay, student: PreparedStudent) -> None:
        super().__init__(student, unit=options.unit)
        self._options, self._seed = options, student.seed
        self._began_with = self.network.relu_count
        self.aux: dict[str, Tensor] = {}

    @property
    def is_learning(self) -> bool:
        """Whether the masks still follow the values."""
        return any(layer.listener is not None for layer in self.network.layers.values())

    # -- hooks ------------------------------------------------------------------------------------------------

    def on_start(self, state: TrainingState) -> None:
        """Draw the values, uniform in 0 to 1, and listen to what the masks' derivatives are made of."""
        draw = derived_generator(self._seed, "aux")
        for name, layer in self.network.layers.items():
            drawn = torch.rand(layer.mask.shape, generator=draw)
            self.aux[name] = torch.empty_like(layer.mask, dtype=torch.float32).copy_(drawn).requires_grad_()
        memory = 1 - 1 / max(_MEMORY * state.total_steps, 1)
        self._optimizer = torch.optim.Adam(self.aux.values(), lr=self._options.rate, betas=(min(0.9, memory), 0.999))
        self._listen(True)

    def on_step_start(self, state: TrainingState) -> None:
        """Let the masks follow the values, or fix them once that is due."""
        if not self.is_learning:
            return
        if state.step >= self._last_step(state):
            self._fix()
            return
        for name, layer in self.network.layers.items():
            layer.mask.copy_(relay(layer.mask, self.aux[name].detach(), self._options.theta))

    def on_backward_end(self, state: TrainingState) -> None:
        """Add the gradient of the hinge and take a step."""
        if not self.is_learning:
            return
        self._add_hinge()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(state)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def on_end(self, state: TrainingState) -> None:
        """Fix the masks, if that was not due before; hand the weights over."""
        if self.is_learning:
            self._fix()
        super().on_end(state)

    # -- what they do -----------------------------------------------------------------------------------------

    def _last_step(self, state: TrainingState) -> int:
        return max(round((1 - self._options.settle) * state.total_steps), 1)

    def _rate(self, state: TrainingState) -> float:
        """Return the learning rate of the values: a cosine over the steps in which masks are learned."""
        steps = self._last_step(state)
        first = max(self._options.rate, 2 * _TRAVEL / steps)  # the mean of the cosine is half of it
        least = _LEAST_RATE * first
        return least + (first - least) * 0.5 * (1 + math.cos(math.pi * state.step / steps))

    def _add_hinge(self) -> None:
        """Add lambda/total for each ReLU of a unit where more than the budget are left; nothing leaves the device."""
        layers, factors = self.network.layers, {n: F.softplus(aux.detach()) for n, aux in self.aux.items()}
        counts = [layer.mask.sum() * layer.cost for layer in layers.values()]
        over = torch.stack(counts).sum() + self.network.fixed > self._options.budget
        for name, layer in layers.items():
            gradient = self.aux[name].grad
            if gradient is not None:
                gradient.add_(factors[name] * over * (self._options.penalty * layer.cost / self._began_with))

    def _fix(self) -> None:
        """Keep the ReLUs of the largest values, as many as fit, and end the learning."""
        by_value = {name: self.aux[name].detach() * layer.cost for name, layer in self.network.layers.items()}
        choose_anew(self.network, by_value, self._options.budget)
        self._listen(False)

    def _listen(self, on: bool) -> None:
        for name, layer in self.network.layers.items():
            layer.listener = _straight_through(self.aux[name]) if on else None

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return masks, values and what Adam keeps of each."""
        state = {**super().state_dict(), "learning": self.is_learning}
        return {**state, **state_of_adam(self._optimizer, self.aux)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all of it over."""
        super().load_state_dict(state)
        load_adam(self._optimizer, self.aux, state)
        self._listen(bool(state["learning"]))


def _straight_through(aux: Tensor) -> Callable[[Tensor, Tensor], None]:
    """Return the listener that sets the gradient of values: softplus(w) dL/dm."""

    def set_gradient(gradient: Tensor, removed: Tensor) -> None:
        by_mask = -(gradient.float() * removed.float()).sum_to_size(aux.shape)
        aux.grad = F.softplus(aux.detach()) * by_mask

    def listen(removed: Tensor, output: Tensor) -> None:
        output.register_hook(lambda gradient: set_gradient(gradient, removed))  # type: ignore[no-untyped-call]

    return listen
