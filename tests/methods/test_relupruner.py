"""Method relupruner: its importance is the formula image by image, and its masks shrink to the budget and regrow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepreduce.cost.objective import objective_named
from deepreduce.errors import PlanError
from deepreduce.methods.base import Answers, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.mask_learning import Unit, learnable
from deepreduce.methods.relupruner import Formula, Importance, RankRelus, ReluPruner, ReluPrunerOptions, ReluRanking
from deepreduce.plan import ReductionPlan
from deepreduce.sites import PixelMask
from tests.helpers.images import striped
from tests.helpers.learners import ONE_LAYER, TINY, OneLayer, check_resumes, prepared
from tests.helpers.training import RECIPE, fit
from tests.methods.test_base import CONTEXT

X, LABELS = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
KEPT = torch.rand((4, 4, 4), generator=torch.Generator().manual_seed(1)) > 0.4


def by_hand(formula: Formula) -> np.ndarray[Any, Any]:
    """The importance of each element, from the gradient of every image's own loss."""
    net, mask = OneLayer(), KEPT.numpy()
    z = net.before(X).detach()
    a = torch.where(KEPT, F.relu(z), z)
    gradients = []
    for image, label in zip(a, LABELS, strict=True):
        leaf = image[None].clone().requires_grad_()
        F.cross_entropy(net.after(leaf), label[None]).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad[0].numpy().astype(np.float64))
    g, z = np.stack(gradients), z.numpy().astype(np.float64)  # type: ignore[assignment]
    norms = np.sqrt((g**2).reshape(5, -1).sum(axis=1))
    negative = (np.asarray(z) < 0).mean(axis=0)
    if formula == "code":  # a site alone has the least and the most weight of all: 0 and 0.1
        return 0.1 * (np.abs(g * z).mean(0) * negative + 0.5 * (np.asarray(z) ** 2).mean(0) * (g**2).mean(0))
    r = np.maximum(z, 0) - z
    to_z = g * np.where(mask & (np.asarray(z) < 0), 0.0, 1.0)
    first, second = np.abs(g * r).mean(0), (to_z**2).mean(0) * (r**2).mean(0)
    layer = norms.mean() * np.sqrt((norms**2).mean())
    result: np.ndarray[Any, Any] = (first + second) * negative * layer
    return result


@pytest.mark.parametrize("formula", ["paper", "code"])
@pytest.mark.parametrize("unit", ["pixel", "channel"])
def test_importance_is_the_formula_with_the_gradient_of_each_images_own_loss(formula: Formula, unit: Unit) -> None:
    expected = by_hand(formula)
    plan = ReductionPlan(sites=((ONE_LAYER.sites[0].name, PixelMask.of(KEPT)),))
    network = learnable(ONE_LAYER, plan, unit="pixel")
    importance = Importance(network, formula)
    for _ in range(2):  # an average of equal batches is one of them
        importance.listen()
        F.cross_entropy(network.module.train()(X), LABELS).backward()
        importance.stop_listening()
    (found,) = importance.values().values()
    if unit == "channel":
        (layer,) = network.layers.values()
        layer.mask = torch.ones(1, 4, 1, 1, dtype=torch.bool)
        (found,) = importance.values().values()
        expected = expected.sum(axis=(1, 2), keepdims=True)
    assert found.shape == (1, *expected.shape)
    assert np.allclose(found[0].numpy(), expected, rtol=1e-4, atol=1e-9 * expected.max())
    assert (expected > 0).sum() > expected.size / 2


class Watched(ReluRanking):
    plans: list[ReductionPlan]
    counts: list[int]

    def on_step_end(self, state: Any) -> None:
        super().on_step_end(state)
        self.plans.append(self.learned_plan())
        self.counts.append(self.network.relu_count)


def test_relus_fall_along_the_cosine_to_exactly_the_budget_and_regrow() -> None:
    student, budget, total = prepared(), TINY.relu_count // 5, TINY.relu_count
    learner = RankRelus(budget=budget, whole=0.1, fall=0.5, every=1, score_every=1).build(student)
    learner.__class__ = Watched
    learner.plans, learner.counts = [], []  # type: ignore[attr-defined]
    fit(student.module, striped(), replace(RECIPE, epochs=5), callbacks=[learner])
    counts = learner.counts  # type: ignore[attr-defined]
    assert counts[:2] == [total] * 2 and set(counts[10:]) == {budget}  # of 20 steps
    for step in range(3, 12):
        p = min((step - 2) / 9, 1)
        expected = budget + (total - budget) * 0.5 * (1 + np.cos(np.pi * p**1.5))
        assert counts[step - 1] == pytest.approx(expected, abs=1), step
    grown = [
        name
        for before, after in itertools.pairwise(learner.plans[11:])  # type: ignore[attr-defined]
        for name, action in after.sites
        if not action.within(dict(before.sites)[name])
    ]
    assert grown  # masks of equal count that move


def test_a_network_that_had_lost_relus_before_gets_none_of_them_back() -> None:
    plan = ReductionPlan(sites=((TINY.sites[0].name, "identity"),))
    student = prepared(plan=plan)
    learner = RankRelus(budget=200, every=1, score_every=1).build(student)
    fit(student.module, striped(), replace(RECIPE, epochs=1), callbacks=[learner])
    assert dict(learner.learned_plan().sites)[TINY.sites[0].name].kind == "identity"
    assert learner.network.relu_count == 200


@pytest.mark.parametrize("epochs", [0.25, 0.5])
def test_a_search_of_one_step_meets_its_budget(epochs: float) -> None:
    student = prepared()
    learner = RankRelus(budget=123).build(student)
    fit(student.module, striped(), replace(RECIPE, epochs=epochs, warmup_epochs=0.0), callbacks=[learner])
    assert learner.network.relu_count == 123


@pytest.mark.parametrize("formula", ["paper", "code"])
def test_a_search_that_was_stopped_ends_like_one_that_was_not(formula: Formula) -> None:
    check_resumes(RankRelus(budget=300, formula=formula, every=2, score_every=2), prepared)


def trained(requests: Sequence[TrainingRequest]) -> Answers:
    return {r: TrainingAnswer(val_accuracy=0.5, proposal=r.proposal) for r in requests}


def test_each_budget_is_searched_and_finetuned_and_other_objectives_are_refused() -> None:
    asked: list[TrainingRequest] = []
    options = ReluPrunerOptions(budgets=(640, 128), features=0)
    found = run_search(ReluPruner().search(TINY, options, CONTEXT), lambda r: asked.extend(r) or trained(r))  # type: ignore[func-returns-value]
    assert [p.relu_count for p in found.networks] == [640, 128] and not asked[2].callbacks
    assert [r.priced_epochs for r in asked] == pytest.approx([150 / 390] * 2 + [240 / 390] * 2)
    with pytest.raises(PlanError, match="take method levers"):
        context = replace(CONTEXT, objective=objective_named("latency", "cheetah-lan"))
        run_search(ReluPruner().search(TINY, options, context), trained)
