"""Training callbacks with everything that a snapshot has to keep, and one that notes its hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.training import PreparedStudent, TrainingCallback, TrainingState

HOOKS = ("on_start", "on_step_start", "on_backward_end", "on_step_end", "on_epoch_end", "on_end")


class Noted(TrainingCallback):
    """Note every hook with the steps, epochs and share that were done, in a list that several may share."""

    def __init__(self, notes: list[Any] | None = None, name: str = "") -> None:
        self.notes: list[Any] = [] if notes is None else notes
        for hook in HOOKS:
            setattr(self, hook, lambda state, hook=hook: self.notes.append((name + hook, state)))


class Average(TrainingCallback):
    """Average the weights exponentially, sum the gradients, add noise to them, and count: a state of all kinds."""

    def __init__(self, decay: float, module: nn.Module | None = None) -> None:
        self.decay, self.module = decay, module
        self.weights: dict[str, Tensor] = {}
        self.importance = torch.zeros(())
        self.steps: list[int] = []

    @torch.no_grad()
    def on_start(self, state: TrainingState) -> None:
        self.module = self.module or state.module
        self.weights = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        self.importance = torch.rand(())

    @torch.no_grad()
    def on_backward_end(self, state: TrainingState) -> None:
        for parameter in state.module.parameters():
            if parameter.grad is not None:
                self.importance += parameter.grad.square().sum()
                parameter.grad += 1e-3 * torch.randn_like(parameter)

    @torch.no_grad()
    def on_step_end(self, state: TrainingState) -> None:
        assert self.module is not None
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - self.decay)
        self.steps.append(state.step)

    def on_end(self, state: TrainingState) -> None:
        assert self.module is not None
        self.module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"importance": self.importance, "steps": self.steps, **self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        state = dict(state)
        self.importance, self.steps = state.pop("importance"), state.pop("steps")
        self.weights = state


@dataclass(frozen=True)
class AverageWeights:
    """Build an `Average` of a student's weights."""

    decay: float = 0.5

    def build(self, student: PreparedStudent) -> TrainingCallback:
        return Average(self.decay, student.module)
