"""Method autorep: its relay and gradients against a simulation by hand, its masks, the trainings it asks for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepreduce.cost.objective import objective_named
from deepreduce.errors import PlanError
from deepreduce.methods.autorep import AutoRep, AutoRepOptions, LearnByRelay, RelayLearner, relay
from deepreduce.methods.base import Answers, TrainingRequest, run_search
from deepreduce.methods.mask_learning import Unit
from deepreduce.plan import ReductionPlan
from deepreduce.training import PreparedStudent, TrainingState
from deepreduce.training.loop import train
from deepreduce.transforms import apply_plan
from tests.helpers.images import CPU, striped
from tests.helpers.training import FP32, RECIPE
from tests.methods.test_base import CONTEXT
from tests.methods.test_snl import TINY, UNITS, state, trained

THETA = 0.1


def built(learner: LearnByRelay) -> tuple[RelayLearner, PreparedStudent]:
    network = apply_plan(TINY, ReductionPlan())
    student = PreparedStudent(original=TINY, plan=ReductionPlan(), seed=0, network=network, module=network.module)
    return learner.build(student), student


# -- the relay --------------------------------------------------------------------------------------------------


def test_the_relay_goes_and_returns_at_different_values() -> None:
    path = [0.5, 0.05, -0.05, -0.1, -0.05, 0.05, 0.1, 0.11, 0.0, -0.2, 0.09]
    by_hand, on = [], True
    for value in path:
        if on and value <= -THETA:
            on = False
        elif not on and value > THETA:
            on = True
        by_hand.append(on)
    assert by_hand == [True, True, True, False, False, False, False, True, True, False, False]
    mask, found = torch.tensor([True]), []
    for value in path:
        mask = relay(mask, torch.tensor([value], dtype=torch.float64), THETA)
        found.append(bool(mask))
    assert found == by_hand


@pytest.mark.parametrize("unit", UNITS)
def test_values_get_the_masks_derivative_times_softplus_and_the_hinge_above_the_budget(unit: Unit) -> None:
    """A mask's derivative by hand: that of a mask of real numbers, which the network with alphas has."""
    torch.manual_seed(0)
    learner, student = built(LearnByRelay(budget=500, unit=unit, penalty=3.0))
    view = state(student.module)
    learner.on_start(view)
    learner.on_step_start(view)
    x, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    module = student.module.eval()
    F.cross_entropy(module(x), labels).backward()
    found = {name: aux.grad.clone() for name, aux in learner.aux.items() if aux.grad is not None}

    def soft(mask: Tensor) -> Any:
        return lambda z, cap: mask * F.relu(z) + (1 - mask) * z

    masks = {name: layer.mask.float().requires_grad_() for name, layer in learner.network.layers.items()}
    for name, layer in learner.network.layers.items():
        layer.gate, layer.listener = soft(masks[name]), None
    F.cross_entropy(module(x), labels).backward()
    for name, layer in learner.network.layers.items():
        layer.gate = None
        by_mask = masks[name].grad
        assert by_mask is not None and bool((by_mask != 0).any())
        straight = by_mask * torch.log1p(learner.aux[name].detach().exp())
        assert torch.allclose(found[name], straight, rtol=1e-4, atol=1e-8)

    relus = 1 if unit == "pixel" else 64
    for budget, expected in ((500, 3.0 * relus / TINY.relu_count), (TINY.relu_count, 0.0)):
        learner._options = replace(learner._options, budget=budget)
        for aux in learner.aux.values():
            aux.grad = torch.zeros_like(aux)
        learner._add_hinge()
        for aux in learner.aux.values():
            assert aux.grad is not None
            assert torch.allclose(aux.grad, expected * torch.log1p(aux.detach().exp()), rtol=1e-4)


def test_one_value_follows_a_simulation_by_hand() -> None:
    """Adam, softplus, hinge and relay of one unit under made-up gradients, step after step, in plain Python."""
    steps = 60
    learner, student = built(LearnByRelay(budget=1, theta=THETA, penalty=1e4, settle=0.0, rate=0.05))
    view = state(student.module, total=10_000)
    learner.on_start(view)
    name = next(iter(learner.aux))
    aux, layer = learner.aux[name], learner.network.layers[name]
    value, on, first, second = float(aux.detach().reshape(-1)[0]), True, 0.0, 0.0
    seen = []
    for step in range(steps):
        learner.on_step_start(replace(view, step=step))
        on = value > -THETA if on else value > THETA
        assert bool(layer.mask.reshape(-1)[0]) == on, step
        seen.append(on)
        over = any(bool(each.mask.any()) for each in learner.network.layers.values())  # than a budget of 1
        gradient = -40.0 if 25 <= step < 45 else 1.0  # the loss wants the ReLU back for a while
        softplus = math.log1p(math.exp(value))
        for each in learner.aux.values():
            each.grad = gradient * F.softplus(each.detach())
        learner.on_backward_end(replace(view, step=step))
        hinge = 1e4 / TINY.relu_count if over else 0.0
        total = (gradient + hinge) * softplus
        first, second = 0.9 * first + 0.1 * total, 0.999 * second + 0.001 * total**2
        rate = 0.0005 + (0.05 - 0.0005) * 0.5 * (1 + math.cos(math.pi * step / 10_000))
        corrected = second / (1 - 0.999 ** (step + 1))
        value -= rate * first / (1 - 0.9 ** (step + 1)) / (math.sqrt(corrected) + 1e-8)
        assert float(aux.detach().reshape(-1)[0]) == pytest.approx(value, abs=2e-4), step
    switches = sum(a != b for a, b in itertools.pairwise(seen))
    assert switches >= 2 and seen[0]  # it went, and returned


# -- in a training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_the_hinge_leads_to_the_budget_and_the_last_masks_meet_it(unit: Unit) -> None:
    budget, counts = TINY.relu_count // 4, []

    class Counting(RelayLearner):
        def on_step_end(self, state: TrainingState) -> None:
            counts.append((self.network.relu_count, self.is_learning))

    learner, student = built(LearnByRelay(budget=budget, unit=unit, settle=0.25))
    learner.__class__ = Counting
    own = student.network.module
    recipe = replace(RECIPE, epochs=25, optimizer="adam", learning_rate=1e-3, weight_decay=0.0)
    train(student.module, striped(), recipe, seed=1, precision=FP32, device=CPU, callbacks=[learner])
    assert [learning for _, learning in counts] == [True] * 75 + [False] * 25
    assert counts[0][0] == TINY.relu_count and budget / 3 < counts[74][0] < 1.5 * budget
    (last,) = {count for count, learning in counts if not learning}
    assert budget - (64 if unit == "channel" else 1) < last <= budget
    reduced = apply_plan(TINY, learner.learned_plan())
    assert reduced.relu_count == last
    reduced.module.load_state_dict(own.state_dict())
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(reduced.module.eval()(x), student.module.eval()(x))


def test_evaluation_moves_no_mask_and_no_value() -> None:
    learner, student = built(LearnByRelay(budget=10))
    learner.on_start(state(student.module))
    before = {key: value.clone() for key, value in learner.state_dict().items() if isinstance(value, Tensor)}
    with torch.no_grad():
        student.module.eval()(torch.randn(2, 3, 8, 8))
    after = learner.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items()) and before


# -- the search -------------------------------------------------------------------------------------------------


def test_a_training_for_each_budget_and_a_finetuning_only_where_it_has_epochs() -> None:
    asked: list[TrainingRequest] = []

    def train(requests: Sequence[TrainingRequest]) -> Answers:
        asked.extend(requests)
        return trained(requests)

    for epochs, after in ((0, [None, None]), (50, [None, None, "first", "second"])):
        asked.clear()
        options = AutoRepOptions(budgets=(640, 128), finetune_epochs=epochs)
        found = run_search(AutoRep().search(TINY, options, CONTEXT), train)
        names = {asked[0]: "first", asked[1]: "second"}
        assert [r.after and names[r.after] for r in asked] == after and len(found.networks) == 2
        assert asked[0].learner == LearnByRelay(budget=640)


def test_what_it_can_not_do_is_refused() -> None:
    other = replace(CONTEXT, objective=objective_named("latency", "cheetah-lan"))
    with pytest.raises(PlanError, match=r"method autorep removes ReLUs for their number.*take method levers"):
        run_search(AutoRep().search(TINY, AutoRepOptions(), other), trained)
    with pytest.raises(ValueError, match="replace"):
        AutoRepOptions(replace="poly")  # type: ignore[arg-type]
