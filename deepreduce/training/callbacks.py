"""Training callbacks: what a method, or a user, does inside a training.

A callback learns masks, accumulates importance scores, anneals ReLUs, averages weights. The loop calls its hooks and
keeps its state in every snapshot, so that a training which was stopped and resumed ends with the same numbers as one
that never stopped. The loop knows no callback by name.
"""

from __future__ import annotations

import copy
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deepreduce.errors import UserError
from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.training.events import EpochRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """A training as a callback sees it.

    `module` is the network that is trained. `step` and `epoch` count what has been done, over the whole training.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    step: int
    total_steps: int
    epoch: int
    history: tuple[EpochRecord, ...] = ()

    @property
    def share_done(self) -> float:
        """Share of all steps that has been taken, 0 to 1."""
        return self.step / self.total_steps if self.total_steps else 1.0


class TrainingCallback:
    """Hooks into a training, which do nothing by default. Subclass it and define the hooks that you need.

    The hooks may change weights, gradients, learning rates and what the module computes. torch's random numbers are
    seeded before `on_start` and before each step. A callback that keeps anything from one hook to the next returns it
    in `state_dict`.
    """

    def on_start(self, state: TrainingState) -> None:
        """Prepare; the weights are untrained. A resumed training calls it too, before it loads its snapshot."""

    def on_step_start(self, state: TrainingState) -> None:
        """Act before a step; its learning rate is set, its gradients are those of the step before."""

    def loss_term(self, state: TrainingState, images: Tensor) -> Tensor | None:
        """Return a scalar that is added to the loss before the backward pass; None adds nothing.

        `images` (batch, C, H, W) are those that `state.module` has just been computed of.
        """
        return None

    def on_backward_end(self, state: TrainingState) -> None:
        """Read or change the step's gradients, before they are clipped. What the step doesn't use has grad None."""

    def on_step_end(self, state: TrainingState) -> None:
        """Act after the optimizer has changed the weights."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Act after an epoch and its validation; the last of `state.history` is its record."""

    def on_end(self, state: TrainingState) -> None:
        """Finish: what the weights are now is what the training returns. A stopped training does not call it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state by name: tensors, finite numbers, strings, None, and lists and dicts of such values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state that `state_dict` returned; its tensors may be on another device.

        Called when a training resumes, and when it goes back to the start of an epoch after a loss that is not
        finite. Raises `KeyError`, `TypeError`, `ValueError` or `RuntimeError` if the state is another callback's.
        """
        if state:
            raise ValueError(f"{type(self).__qualname__} has no load_state_dict to restore {', '.join(state)}")


class PlanLearner(TrainingCallback, ABC):
    """A callback that decides, while a network is trained, what is done at its ReLU sites."""

    @abstractmethod
    def learned_plan(self) -> ReductionPlan:
        """Return the plan of the network that has been trained; asked after `on_end`."""


@dataclass(kw_only=True, eq=False)
class PreparedStudent:
    """A student that is about to be trained.

    `network` is `original` reduced by `plan`, with its initial weights; `seed` drew those that it does not inherit.
    `module` is what will be trained for it, at first the network's own module. A callback that sets another
    copies its weights back, in `on_end`, to the module that it replaced. `teacher` is the network that the student
    learns from, images -> logits: its weights are frozen, it is in evaluation mode, and other trainings use it too,
    so leave it as it is. None where there is no teacher. To compute it costs a forward pass of the full network.
    """

    original: Network
    plan: ReductionPlan
    seed: int
    network: Network
    module: nn.Module
    teacher: nn.Module | None = None


class CallbackFactory(Protocol):
    """Builds a callback in the process that trains: a value that can be pickled, such as a frozen dataclass."""

    def build(self, student: PreparedStudent) -> TrainingCallback:
        """Return a new callback for one training of the student."""
        ...


class LearnerFactory(Protocol):
    """Builds a `PlanLearner`, as a `CallbackFactory` builds a callback."""

    def build(self, student: PreparedStudent) -> PlanLearner:
        """Return a new learner for one training of the student, and set the module that it trains."""
        ...

    def accepts(self, relu_count: int) -> bool:
        """Return whether a network of so many ReLUs can be what the learner leaves."""
        ...


class Callbacks(TrainingCallback):
    """Several callbacks as one. Their hooks are called in order, `on_end` in reverse: who came last leaves first."""

    def __init__(self, callbacks: Sequence[TrainingCallback]) -> None:
        self._callbacks = tuple(callbacks)
        self._names = [type(callback).__qualname__ for callback in callbacks]

    def on_start(self, state: TrainingState) -> None:
        for callback in self._callbacks:
            callback.on_start(state)

    def on_step_start(self, state: TrainingState) -> None:
        for callback in self._callbacks:
            callback.on_step_start(state)

    def loss_term(self, state: TrainingState, images: Tensor) -> Tensor | None:
        terms = [callback.loss_term(state, images) for callback in self._callbacks]
        given = [term for term in terms if term is not None]
        return torch.stack(given).sum() if given else None

    def on_backward_end(self, state: TrainingState) -> None:
        for callback in self._callbacks:
            callback.on_backward_end(state)

    def on_step_end(self, state: TrainingState) -> None:
        for callback in self._callbacks:
            callback.on_step_end(state)

    def on_epoch_end(self, state: TrainingState) -> None:
        for callback in self._callbacks:
            callback.on_epoch_end(state)

    def on_end(self, state: TrainingState) -> None:
        for callback in reversed(self._callbacks):
            callback.on_end(state)

    def state_dict(self) -> dict[str, Any]:
        """Return all states, each name after its callback's number, and the callbacks' classes.

        Raises `UserError` for a state that a snapshot can't hold.
        """
        merged: dict[str, Any] = {"callbacks": self._names}
        for number, (name, callback) in enumerate(zip(self._names, self._callbacks, strict=True)):
            for key, value in callback.state_dict().items():
                if not isinstance(value, Tensor) and not _is_plain(value):
                    raise UserError(
                        f"{name}.state_dict() holds {key} = {value!r}; a snapshot holds tensors, finite numbers,"
                        " strings, None, and lists and dicts of these, so return such values"
                    )
                merged[f"{number}.{key}"] = value
        return merged

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load copies of all states. Raises `ValueError` if they are of other callbacks."""
        names = state.get("callbacks", [])
        if names != self._names:
            raise ValueError(f"its callbacks were {names}, now {self._names}")
        for number, callback in enumerate(self._callbacks):
            own = {key.removeprefix(f"{number}."): v for key, v in state.items() if key.startswith(f"{number}.")}
            callback.load_state_dict(
                {key: v.clone() if isinstance(v, Tensor) else copy.deepcopy(v) for key, v in own.items()}
            )


def build_callbacks(factories: Sequence[CallbackFactory], student: PreparedStudent) -> list[TrainingCallback]:
    """Build each callback of a student, in the order of the factories.

    Raises `UserError` if a factory does not build a callback.
    """
    callbacks = []
    for factory in factories:
        callback = factory.build(student)
        if not isinstance(callback, TrainingCallback):
            raise UserError(f"{factory!r}.build() returned {callback!r}; return a TrainingCallback")
        callbacks.append(callback)
    return callbacks


def describe_callbacks(factories: Sequence[CallbackFactory]) -> list[str]:
    """Return the repr of each factory, without memory addresses: what must be the same when a run resumes.

    Raises `UserError` for a value that is no factory.
    """
    for factory in factories:
        if isinstance(factory, type) or not callable(getattr(factory, "build", None)):
            raise UserError(f"{factory!r} is no factory of callbacks; give an object with build(student)")
    return [re.sub(r" at 0x[0-9a-fA-F]+", "", repr(factory)) for factory in factories]


def _is_plain(value: Any) -> bool:
    """Return whether JSON gives the value back as it is."""
    match value:
        case list():
            return all(_is_plain(item) for item in value)
        case dict():
            return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
        case float():
            return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))
