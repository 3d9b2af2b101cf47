"""Method bcd: swaps keep the count, the loss on cached images never rises, and the better network is the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepreduce.cost.objective import COUNT_OF_RELUS, Limits, objective_named
from deepreduce.errors import PlanError
from deepreduce.methods.base import Answers, EarlierNetwork, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.bcd import Bcd, BcdOptions, BlockSwapping, SwapBlocks
from deepreduce.methods.mask_learning import Unit, expected_plan
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import PixelMask
from deepreduce.transforms import apply_plan
from tests.helpers.images import striped
from tests.helpers.learners import ONE_LAYER, TINY, OneLayer, at, check_resumes, prepared
from tests.helpers.training import RECIPE, fit
from tests.methods.test_base import CONTEXT

BUDGET = 300
PLANS = {unit: expected_plan(TINY, ReductionPlan(), unit=unit, budget=BUDGET) for unit in ("pixel", "channel")}
COUNTS = {unit: apply_plan(TINY, plan).relu_count for unit, plan in PLANS.items()}


def swapper(unit: Unit = "pixel", **options: Any) -> SwapBlocks:
    values = {"budget": COUNTS[unit], "unit": unit, "block": 0.1, "images": 30, "score_every": 1, "share": 0.6}
    return SwapBlocks(**{**values, **options})


def kl(taught: torch.Tensor, own: torch.Tensor) -> float:
    """T^2 KL(teacher || student) at T = 4, written out."""
    p, q = (np.exp(x.detach().numpy().astype(np.float64) / 4) for x in (taught, own))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    return float(16 * (p * np.log(p / q)).sum(axis=1).mean())


class Watched(BlockSwapping):
    """Watch every step: the count, and the loss on the cached images around the tries."""

    def _try_blocks(self) -> None:
        losses, number = [self.cached_loss()], len(self.swaps)
        super()._try_blocks()
        losses.append(self.cached_loss())
        self.rounds.append((losses, self.swaps[number:]))
        images = self._cache.float()
        self.network.module.eval()
        with torch.no_grad():
            written_out = kl(self._teacher(images), self.network.module(images))
        self.network.module.train()
        assert losses[1] == pytest.approx(written_out, rel=1e-4)

    def on_step_end(self, state: Any) -> None:
        super().on_step_end(state)
        assert self.network.relu_count == self._options.budget
        self.plans.append(self.learned_plan())


@pytest.mark.parametrize("unit", ["pixel", "channel"])
def test_the_loss_on_the_cached_images_never_rises_and_the_count_stays(unit: Unit) -> None:
    student = prepared(plan=PLANS[unit])
    learner = swapper(unit).build(student)
    learner.__class__ = Watched
    learner.rounds, learner.plans = [], []  # type: ignore[attr-defined]
    assert learner.learned_plan() == PLANS[unit]
    fit(student.module, striped(), replace(RECIPE, epochs=8), callbacks=[learner])
    rounds, plans = learner.rounds, learner.plans  # type: ignore[attr-defined]
    for losses, swaps in rounds:
        kept = [swap for swap in swaps if swap.is_kept]
        assert losses[1] <= losses[0] and losses[1] == min([losses[0], *(s.after for s in swaps)])
        assert (losses[1] < losses[0]) == bool(kept)
    # two forward passes an image trained on: 18 images a step, 19 steps, four passes over 30 images a round
    assert len(rounds) == 2 * 18 * 19 // (4 * 30)
    assert len({plan.plan_id for plan in plans}) > 1 and len({plan.plan_id for plan in plans[19:]}) == 1
    assert all(0 < swap.relus <= max(0.1 * BUDGET, 64) for _, swaps in rounds for swap in swaps)


def test_estimates_are_what_each_images_loss_changes_where_a_unit_is_switched() -> None:
    kept = torch.rand((4, 4, 4), generator=torch.Generator().manual_seed(1)) > 0.5
    plan = ReductionPlan(sites=((ONE_LAYER.sites[0].name, PixelMask.of(kept)),))
    teacher = trace_network(OneLayer(7), (3, 6, 6)).module
    student = prepared(ONE_LAYER, plan, teacher=teacher)
    learner = SwapBlocks(budget=int(kept.sum()), unit="pixel", block=1e-9, tries=1, score_every=1).build(student)
    x, labels = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    learner.on_step_start(at(0, student.module))
    F.cross_entropy(student.module.train()(x), labels).backward()
    net, changes = OneLayer(), []
    for image, label in zip(x, labels, strict=True):
        z = net.before(image[None]).detach()
        switched = torch.zeros((4, 4, 4), requires_grad=True)  # 0: as the mask says, 1: the other way round
        now, other = torch.where(kept, F.relu(z), z), torch.where(kept, z, F.relu(z))
        F.cross_entropy(net.after(now + switched * (other - now)), label[None]).backward()
        assert switched.grad is not None
        changes.append(switched.grad.flatten().numpy())
    estimate = np.mean(changes, axis=0) + np.mean(np.square(changes), axis=0) / 2
    flat = kept.flatten().numpy()
    best_off, best_on = (np.flatnonzero(which)[np.argmin(estimate[which])] for which in (flat, ~flat))
    (block,) = learner._blocks()
    assert block.tolist() == [[best_off, best_on]]


@pytest.mark.parametrize("unit", ["pixel", "channel"])
def test_a_polish_that_was_stopped_ends_like_one_that_was_not(unit: Unit) -> None:
    check_resumes(swapper(unit), lambda: prepared(plan=PLANS[unit]), epochs=3)


def test_relus_that_the_original_network_lacks_are_not_swapped_in() -> None:
    network = apply_plan(TINY, ReductionPlan(sites=((TINY.sites[0].name, "identity"),)))
    plan = expected_plan(network, ReductionPlan(), unit="pixel", budget=BUDGET)
    student = prepared(network, plan)
    learner = swapper(budget=BUDGET).build(student)
    fit(student.module, striped(), replace(RECIPE, epochs=3), callbacks=[learner])
    assert learner.swaps and apply_plan(network, learner.learned_plan()).relu_count == BUDGET


def test_without_a_teacher_there_is_no_loss_to_try_blocks_by() -> None:
    student = prepared(plan=PLANS["pixel"])
    student.teacher = None
    with pytest.raises(PlanError, match="has none"):
        swapper().build(student)


# -- the requests -----------------------------------------------------------------------------------------------


def earlier(unit: Unit = "pixel", budget: int = BUDGET, **others: Any) -> EarlierNetwork:
    plan = expected_plan(TINY, ReductionPlan(), unit=unit, budget=budget)
    values: dict[str, Any] = {
        "folder": "/runs/a/candidates/0", "label": f"{unit} masks to {budget}", "plan": plan, "val_accuracy": 0.5,
        "relu_count": apply_plan(TINY, plan).relu_count, "model_name": "tiny", "input_shape": (3, 8, 8),
        "digest": "d",
    }  # fmt: skip
    return EarlierNetwork(**(values | others))


def polish(*found: EarlierNetwork, train: Any, context: Any = CONTEXT, **options: Any) -> Any:
    context = replace(context, earlier=lambda folder: found)
    return run_search(Bcd().search(TINY, BcdOptions(start=("runs/a",), **options), context), train)


def answering(before: float, after: float | None, asked: list[TrainingRequest]) -> Any:
    other = expected_plan(TINY, ReductionPlan(), unit="channel", budget=256)

    def answer(requests: Sequence[TrainingRequest]) -> Answers:
        asked.extend(requests)
        polished = replace(requests[0].proposal, plan=other, label="polished")
        return {
            r: TrainingAnswer(val_accuracy=before, proposal=r.proposal)
            if r.learner is None
            else TrainingAnswer(val_accuracy=after, proposal=polished if after is not None else None)
            for r in requests
        }

    return answer


@pytest.mark.parametrize(("after", "wins"), [(0.6, True), (0.4, False), (None, False)])
def test_the_better_of_start_and_polish_is_the_result(after: float | None, wins: bool) -> None:
    asked: list[TrainingRequest] = []
    start = earlier()
    found = polish(start, train=answering(0.5, after, asked))
    assert [p.label == "polished" for p in found.networks] == [wins]
    measured, polished = asked
    assert measured.epochs == 0 and measured.start == polished.start == start and measured.makes_network
    assert polished.priced_epochs == pytest.approx(1.0) and polished.extra_forwards == 1.0
    assert polished.learner is not None and polished.learner.accepts(BUDGET) and not polished.learner.accepts(299)


def test_budgets_choose_the_most_accurate_network_that_fits() -> None:
    asked: list[TrainingRequest] = []
    large, fit_, small = earlier(budget=400), earlier(budget=290, val_accuracy=0.7), earlier(budget=100)
    polish(large, fit_, small, earlier(budget=280), budgets=(300, 120), train=answering(0.5, 0.6, asked))
    assert [r.start for r in asked if r.learner is None] == [fit_, small]


def test_what_can_not_be_polished_is_refused_in_one_line() -> None:
    def refused(*found: EarlierNetwork, **options: Any) -> str:
        with pytest.raises(PlanError) as caught:
            polish(*found, train=answering(0.5, 0.6, []), **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is a reduction of resnet9" in refused(earlier(model_name="resnet9"))
    assert "has 77 ReLUs, and its plan leaves 300" in refused(earlier(relu_count=77))
    assert "has 50; the smallest network of method.start has 300" in refused(earlier(), budgets=(50,))
    limited = replace(CONTEXT, limits=Limits(max_relus=100, objective=COUNT_OF_RELUS))
    assert "it has more than" in refused(earlier(), context=limited)
    other = replace(CONTEXT, objective=objective_named("latency", "cheetah-lan"))
    assert "take method levers" in refused(earlier(), context=other)
    with pytest.raises(PlanError, match=r"as in method\.start=RUN"):
        run_search(Bcd().search(TINY, BcdOptions(), CONTEXT), answering(0.5, 0.6, []))
