"""Method taylor: its scores are changes of the loss, its masks shrink to the budget, its path passes all budgets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.cost.objective import COUNT_OF_RELUS, Limits, objective_named
from deepreduce.errors import PlanError
from deepreduce.methods.base import Answers, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.budgets import budgets_of
from deepreduce.methods.mask_learning import Unit, learnable
from deepreduce.methods.taylor import ShrinkMasks, Taylor, TaylorOptions, TaylorScores
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import PreparedStudent, TrainingState
from deepreduce.training.loop import train
from deepreduce.transforms import apply_plan
from tests.helpers.images import CPU, striped
from tests.helpers.training import FP32, RECIPE, tiny
from tests.methods.test_base import CONTEXT

TINY = trace_network(tiny(), (3, 8, 8), name="tiny")


# -- scores -----------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """One layer of ReLUs, each channel's of which a gate turns gradually into the identity."""

    def __init__(self, capped: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.capped = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), capped

    def relu(self, z: Tensor) -> Tensor:
        return F.relu6(z) if self.capped else F.relu(z)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.relu(8 * self.conv(x)).mean((2, 3)))
        return out

    def with_gates(self, x: Tensor, gates: Tensor) -> Tensor:
        z = 8 * self.conv(x)
        y = self.relu(z)
        out: Tensor = self.fc((y + gates * (z - y)).mean((2, 3)))
        return out


@pytest.mark.parametrize("capped", [False, True], ids=["relu", "relu6"])
@pytest.mark.parametrize("unit", ["channel", "pixel"])
def test_a_score_is_the_change_of_each_images_loss_to_second_order(unit: Unit, capped: bool) -> None:
    torch.manual_seed(0)
    gated = Gated(capped)
    network = learnable(trace_network(gated, (3, 6, 6)), ReductionPlan(), unit=unit)
    x, labels = torch.randn(5, 3, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    scores = TaylorScores(network)
    scores.listen()
    F.cross_entropy(network.module.train()(x), labels).backward()
    scores.stop_listening()
    (found,) = scores.values().values()

    changes = []  # of the loss of each image, by the derivative of its gates
    for image, label in zip(x, labels, strict=True):
        gates = torch.zeros((4, 1, 1) if unit == "channel" else (4, 4, 4), requires_grad=True)
        F.cross_entropy(gated.with_gates(image[None], gates), label[None]).backward()
        assert gates.grad is not None
        changes.append(gates.grad)
    q = torch.stack(changes)
    expected = q.mean(0).abs() + 0.5 * q.square().mean(0)
    assert torch.allclose(found[0], expected, rtol=1e-4, atol=1e-7)


def test_the_average_of_scores_is_unbiased_from_the_first_batch_on() -> None:
    network = learnable(TINY, ReductionPlan(), unit="channel")
    scores, x = TaylorScores(network), torch.randn(4, 3, 8, 8)
    network.module.eval()  # so that each time is like the first
    found = []
    for _ in range(3):
        scores.listen()
        network.module(x).square().mean().backward()
        scores.stop_listening()
        found.append(scores.values())
    for name, first in found[0].items():
        assert bool((first > 0).any()) and torch.allclose(first, found[2][name], rtol=1e-5)
    network.module(x).square().mean().backward()  # nobody listens
    assert all(torch.equal(v, found[2][name]) for name, v in scores.values().items())


# -- in a training ----------------------------------------------------------------------------------------------


def prepared(plan: ReductionPlan | None = None) -> PreparedStudent:
    plan = plan or ReductionPlan()
    network = apply_plan(TINY, plan)
    return PreparedStudent(original=TINY, plan=plan, seed=0, network=network, module=network.module)


@pytest.mark.parametrize("unit", ["channel", "pixel"])
def test_masks_shrink_to_the_budget_in_the_first_share_of_the_training_and_stay(unit: Unit) -> None:
    budget, counts = TINY.relu_count // 5, []
    student = prepared()
    own = student.module
    learner = ShrinkMasks(budget=budget, unit=unit, share=0.5, every=2, score_every=1).build(student)

    class Counting(type(learner)):  # type: ignore[misc]
        def on_step_end(self, state: TrainingState) -> None:
            super().on_step_end(state)
            counts.append(
                apply_plan(TINY, self.learned_plan()).relu_count if not self.at_start() else TINY.relu_count
            )

        def at_start(self) -> bool:
            return bool(self.learned_plan().is_empty)

    learner.__class__ = Counting
    recipe = replace(RECIPE, epochs=3)
    train(student.module, striped(), recipe, seed=1, precision=FP32, device=CPU, callbacks=[learner])
    assert counts == sorted(counts, reverse=True) and len(counts) == 12
    assert counts[0] == TINY.relu_count and budget < counts[3] < TINY.relu_count
    assert set(counts[6:]) == {counts[5]} and 0 < counts[5] <= budget
    reduced = apply_plan(TINY, learner.learned_plan())
    reduced.module.load_state_dict(own.state_dict())
    x = striped().val.images[:8] if hasattr(striped().val, "images") else torch.randn(8, 3, 8, 8)
    x = x.float()
    assert torch.equal(reduced.module.eval()(x), student.module.eval()(x))


@pytest.mark.parametrize("epochs", [0.25, 0.5])
def test_a_training_of_one_step_meets_its_budget(epochs: float) -> None:
    student = prepared()
    learner = ShrinkMasks(budget=200).build(student)
    recipe = replace(RECIPE, epochs=epochs, warmup_epochs=0.0)
    train(student.module, striped(), recipe, seed=1, precision=FP32, device=CPU, callbacks=[learner])
    assert 0 < apply_plan(TINY, learner.learned_plan()).relu_count <= 200


# -- the search -------------------------------------------------------------------------------------------------


def trained(requests: Sequence[TrainingRequest]) -> Answers:
    return {r: TrainingAnswer(val_accuracy=0.5, proposal=r.proposal) for r in requests}


def search(context: Any = CONTEXT, train: Any = trained, network: Network = TINY, **options: Any) -> Any:
    return run_search(Taylor().search(network, TaylorOptions(**options), context), train)


def test_each_budget_begins_as_the_one_above_it_and_all_that_was_trained_is_proposed() -> None:
    asked: list[TrainingRequest] = []

    def train(requests: Sequence[TrainingRequest]) -> Answers:
        assert len(requests) == 1  # one at a time
        asked.extend(requests)
        return trained(requests)

    found = search(train=train, budgets=(640, 128, 320))
    assert [r.learner.budget for r in asked if r.learner] == [640, 320, 128]  # type: ignore[attr-defined]
    assert [r.after for r in asked] == [None, *asked[:2]]
    assert [p.relu_count for p in found.networks] == [r.proposal.relu_count for r in asked]
    assert found.trained == {p.plan_id for p in found.networks}


def test_budgets_of_few_relus_take_half_the_resolution() -> None:
    asked: list[TrainingRequest] = []
    budgets = [TINY.relu_count // share for share in (2, 9, 11, 40)]
    search(train=lambda r: asked.extend(r) or trained(r), budgets=budgets, sparsest=0.1)  # type: ignore[func-returns-value]
    found = {(r.learner.budget, r.proposal.plan.rho) for r in asked}  # type: ignore[union-attr]
    # the path at half the resolution begins with the last budget at the full one
    assert found == {(budgets[0], 1.0), (budgets[1], 1.0), (budgets[1], 0.5), (budgets[2], 0.5), (budgets[3], 0.5)}


def test_every_shape_goes_down_a_path_of_its_own() -> None:
    asked: list[TrainingRequest] = []
    search(train=lambda r: asked.extend(r) or trained(r), budgets=(128, 64), rhos=(1.0, 0.5))  # type: ignore[func-returns-value]
    # the paths side by side
    assert [(r.proposal.plan.rho, r.after is None) for r in asked] == [
        (1.0, True), (0.5, True), (1.0, False), (0.5, False),
    ]  # fmt: skip
    assert [r.after.proposal.plan.rho for r in asked if r.after] == [1.0, 0.5]


def test_a_failed_training_ends_its_path() -> None:
    def fail(requests: Sequence[TrainingRequest]) -> Answers:
        (request,) = requests
        return trained(requests) if request.learner.budget > 320 else {request: TrainingAnswer()}  # type: ignore

    found = search(train=fail, budgets=(640, 320, 128))
    assert len(found.networks) == 1
    (reason,) = found.left_out
    assert "failed" in reason and "320" in reason and "128" in reason


def test_budgets_are_spread_evenly_in_the_logarithm() -> None:
    counts = budgets_of(TaylorOptions(points=5, most=0.5, least=0.005), 1_000_000)
    assert counts[0] == 500_000 and counts[-1] == 5_000
    ratios = [math.log(a / b) for a, b in itertools.pairwise(counts)]
    assert ratios == pytest.approx([ratios[0]] * 4, rel=1e-3)
    assert budgets_of(TaylorOptions(points=1, most=0.5), 100) == [50]
    assert budgets_of(TaylorOptions(budgets=(5, 7, 5)), 100) == [7, 5]
    with pytest.raises(PlanError, match=r"method.least is 0.6, more than method.most, 0.5"):
        budgets_of(TaylorOptions(most=0.5, least=0.6), 100)


def test_budgets_that_nothing_fits_are_left_out_by_name() -> None:
    found = search(budgets=(128, 1, TINY.relu_count, 10 * TINY.relu_count), rhos=(1.0,))
    assert len(found.networks) == 1
    said = " ".join(found.left_out)
    assert "no channel has as few ReLUs" in said and "as many ReLUs as the full network" in said
    with pytest.raises(PlanError, match="no channel has as few ReLUs"):
        search(budgets=(1,), rhos=(1.0,))


def test_a_limit_leaves_larger_budgets_out() -> None:
    context = replace(CONTEXT, limits=Limits(max_relus=320, objective=COUNT_OF_RELUS))
    found = search(context, budgets=(640, 320, 128))
    assert [p.relu_count <= 320 for p in found.networks] == [True, True]
    assert any("masks to 640" in reason for reason in found.left_out)


def test_another_objective_is_refused() -> None:
    context = replace(CONTEXT, objective=objective_named("latency", "cheetah-lan"))
    with pytest.raises(PlanError, match="take method levers"):
        search(context)
