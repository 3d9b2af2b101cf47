"""Learners driven without a run: a student and its teacher, single steps by hand, and trainings that are stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import LearnerFactory, PlanLearner, PreparedStudent, Stopped, TrainingState
from deepreduce.transforms import apply_plan
from tests.helpers.images import striped
from tests.helpers.training import RECIPE, StopAfter, curve, fit, same_weights, tiny

TINY = trace_network(tiny(), (3, 8, 8), name="tiny")


class OneLayer(nn.Module):
    """A convolution, its ReLUs, and a classifier of all positions: no statistics, so that each image is alone."""

    def __init__(self, seed: int = 0, classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 4 * 4, classes)

    def before(self, x: Tensor) -> Tensor:
        z: Tensor = self.conv(x)
        return z

    def after(self, a: Tensor) -> Tensor:
        logits: Tensor = self.fc(a.flatten(1))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.relu(self.before(x)))


ONE_LAYER = trace_network(OneLayer(), (3, 6, 6), name="one layer")


def prepared(
    network: Network = TINY, plan: ReductionPlan | None = None, *, teacher: nn.Module | None = None
) -> PreparedStudent:
    """A student of `network`, whose teacher is the same network of other weights, or the one given."""
    plan = plan or ReductionPlan()
    reduced = apply_plan(network, plan)
    if teacher is None:
        teacher = trace_network(tiny(seed=9), (3, 8, 8), name="tiny").module
    return PreparedStudent(
        original=network, plan=plan, seed=0, network=reduced, module=reduced.module,
        teacher=teacher.eval().requires_grad_(False),
    )  # fmt: skip


def at(step: int, module: nn.Module, total: int = 100) -> TrainingState:
    """The state before a step, or after it."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return TrainingState(module=module, optimizer=optimizer, step=step, total_steps=total, epoch=0)


def check_resumes(factory: LearnerFactory, student: Callable[[], PreparedStudent], *, epochs: float = 2) -> None:
    """Check that a training stopped after any of some steps ends with the masks and weights of one that was not."""
    recipe = replace(RECIPE, epochs=epochs)

    def train(seed: int, **options: Any) -> tuple[PlanLearner, nn.Module, Any]:
        prepared = student()
        learner = factory.build(prepared)
        done = fit(prepared.module, striped(seed=0), recipe, callbacks=[learner], **options)
        return learner, prepared.module, curve(done)

    expected, undisturbed, history = train(0)
    for steps in (1, 6):
        stop = StopAfter(steps)
        with pytest.raises(Stopped):
            train(0, **stop.options())
        resumed, module, again = train(0, resume=stop.snapshot)
        assert resumed.learned_plan() == expected.learned_plan(), steps
        assert same_weights(module, undisturbed) and again == history, steps
