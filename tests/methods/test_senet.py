"""Method senet: its counts meet every budget, its masks are the top units of the differences from the teacher."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepreduce.cost.objective import objective_named
from deepreduce.errors import PlanError
from deepreduce.methods.base import Answers, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.senet import Criterion, LocateRelus, ReluLocating, Senet, SenetOptions, site_counts
from deepreduce.network import trace_network
from deepreduce.training.loop import train
from tests.helpers.images import CPU, striped
from tests.helpers.learners import ONE_LAYER, TINY, OneLayer, at, check_resumes, prepared
from tests.helpers.training import FP32, RECIPE
from tests.methods.test_base import CONTEXT

RESNET18 = [64 * 32 * 32] * 5 + [128 * 16 * 16] * 4 + [256 * 8 * 8] * 4 + [512 * 4 * 4] * 4


def test_the_default_counts_are_the_published_ones_of_resnet18_within_15_percent_per_stage() -> None:
    counts = site_counts(RESNET18, [1] * 17, 100_000)
    assert sum(counts) == 100_000
    stages = [sum(counts[:5]), sum(counts[5:9]), sum(counts[9:13]), sum(counts[13:])]
    # a stem of 600, then four sites a stage: 2.1 to 3.1, 3.9 to 6.2, 7.5 to 9.6 and 8.2 thousand
    published = [600 + 4 * 2600, 4 * 5050, 4 * 8550, 4 * 8192]
    assert stages == pytest.approx(published, rel=0.15)
    assert counts[13:] == [8192] * 4 and counts[:13] == sorted(counts[:13])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_counts_are_within_their_sites_and_sum_up_to_the_budget(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 9))
    costs = data.draw(st.lists(st.sampled_from([1, 4, 16]), min_size=number, max_size=number))
    sizes = [cost * data.draw(st.integers(1, 30)) for cost in costs]
    given_ = data.draw(st.none() | st.lists(st.floats(0.01, 1), min_size=number, max_size=number))
    budget = data.draw(st.integers(1, sum(sizes)))
    counts = site_counts(sizes, costs, budget, sensitivities=given_)
    assert all(0 <= n <= size and n % cost == 0 for n, size, cost in zip(counts, sizes, costs, strict=True))
    left = budget - sum(counts)
    assert 0 <= left and (left == 0 or max(costs) > 1)
    assert all(left < cost or n == size for n, size, cost in zip(counts, sizes, costs, strict=True))


def test_given_sensitivities_are_shares_and_capped_at_1() -> None:
    assert site_counts([100, 200, 100], [1, 1, 1], 110, sensitivities=[0.1, 0.2, 0.6]) == [10, 40, 60]
    assert site_counts([100, 200, 100], [1, 1, 1], 200, sensitivities=[0.1, 0.2, 9.0]) == [20, 80, 100]
    with pytest.raises(PlanError, match="has 2 numbers and the network 3 ReLU sites"):
        site_counts([100, 200, 100], [1, 1, 1], 110, sensitivities=[0.1, 0.2])
    with pytest.raises(PlanError, match="have 300 ReLUs, fewer than the budget of 350"):
        site_counts([100, 200, 100], [1, 1, 1], 350, sensitivities=[0.1, 0.2, 0.0])


# -- the search for masks ---------------------------------------------------------------------------------------


def located(criterion: Criterion = "linear", **options: Any) -> tuple[ReluLocating, torch.nn.Module]:
    student = prepared(ONE_LAYER, teacher=trace_network(OneLayer(7), (3, 6, 6)).module)
    learner = LocateRelus(**{"budget": 10, "criterion": criterion, "score_every": 1, **options}).build(student)
    return learner, student.module


@pytest.mark.parametrize("criterion", ["linear", "paper"])
def test_the_units_that_differ_most_from_the_teacher_over_all_batches_get_the_relus(criterion: Criterion) -> None:
    learner, module = located(criterion)
    (layer,) = learner.network.layers.values()
    mask = layer.mask[0].numpy().copy()
    assert mask.sum() == 10
    own, taught, total = OneLayer(0), OneLayer(7), np.zeros((4, 4, 4))
    for batch in range(2):
        x = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(batch))
        learner.on_step_start(at(batch, module))
        module.train()(x).sum().backward()
        assert learner.loss_term(at(batch, module), x) is None
        z, a = own.before(x).detach().numpy(), np.maximum(taught.before(x).detach().numpy(), 0)
        compared = z if criterion == "linear" else np.where(mask, np.maximum(z, 0), z)
        total += np.abs(a - compared).sum(axis=0)
    learner.on_step_end(at(100, module))
    best = np.argsort(-total.ravel())[:10]
    assert set(np.flatnonzero(layer.mask.numpy().ravel())) == set(best)


def test_ties_cost_no_relu() -> None:
    student = prepared(ONE_LAYER, teacher=trace_network(OneLayer(0), (3, 6, 6)).module)
    for weights in (student.module, student.teacher):
        weights.get_parameter("conv.weight").data.zero_()  # type: ignore[union-attr]
        weights.get_parameter("conv.bias").data.zero_()  # type: ignore[union-attr]
    learner = LocateRelus(budget=13, score_every=1).build(student)
    x = torch.randn(5, 3, 6, 6)
    learner.on_step_start(at(0, student.module))
    student.module.train()(x)
    learner.loss_term(at(0, student.module), x)
    learner.on_step_end(at(100, student.module))
    assert learner.network.relu_count == 13


def test_masks_begin_at_the_same_positions_in_all_channels() -> None:
    learner, _ = located(budget=4 * 5)
    (layer,) = learner.network.layers.values()
    assert layer.mask.sum() == 20 and all(torch.equal(layer.mask[0, 0], channel) for channel in layer.mask[0])


@pytest.mark.parametrize("unit", ["pixel", "channel"])
def test_the_budget_is_met_at_every_step_and_settled_masks_stay(unit: Any) -> None:
    student, masks = prepared(), []
    budget = TINY.relu_count // 3
    learner = LocateRelus(budget=budget, unit=unit, score_every=1, settled=1.0, patience=1).build(student)

    class Watched(ReluLocating):
        def on_step_end(self, state: Any) -> None:
            super().on_step_end(state)
            masks.append(self.learned_plan())

    learner.__class__ = Watched
    recipe = replace(RECIPE, epochs=11)
    train(student.module, striped(), recipe, seed=1, precision=FP32, device=CPU, callbacks=[learner])
    changes = [step for step, (a, b) in enumerate(itertools.pairwise(masks), start=2) if a != b]
    assert changes == [20]  # of 44 steps: the first choice settles them
    assert learner.network.relu_count == budget if unit == "pixel" else budget - 64 < learner.network.relu_count


def test_a_search_that_was_stopped_ends_like_one_that_was_not() -> None:
    check_resumes(LocateRelus(budget=300, score_every=2), prepared)


# -- the requests -----------------------------------------------------------------------------------------------


def trained(requests: Sequence[TrainingRequest]) -> Answers:
    return {r: TrainingAnswer(val_accuracy=0.5, proposal=r.proposal) for r in requests}


def test_each_budget_is_searched_and_finetuned_at_the_published_proportion_of_its_price() -> None:
    asked: list[TrainingRequest] = []
    options = SenetOptions(budgets=(640, 128))
    found = run_search(Senet().search(TINY, options, CONTEXT), lambda r: asked.extend(r) or trained(r))  # type: ignore[func-returns-value]
    assert [p.relu_count for p in found.networks] == [640, 128]
    searches, finetunings = asked[:2], asked[2:]
    assert [r.after for r in finetunings] == searches
    for request, share in [(searches[0], 150 / 330), (finetunings[0], 180 / 330)]:
        assert request.priced_epochs == pytest.approx(share)  # of one epoch
    assert searches[0].extra_forwards == 0.25 and finetunings[0].extra_forwards == 1.0
    (match,), changes = finetunings[0].callbacks, finetunings[0].changes
    # 0.1 of the labels and 0.5 of the logits, and 1000 of the features, divided by 0.6
    assert match.weight == pytest.approx(1000 / 0.6)  # type: ignore[attr-defined]
    assert changes is not None and changes.distillation is not None
    assert changes.distillation.weight == pytest.approx(5 / 6) and changes.rate == pytest.approx(0.2 * 0.6)


def test_what_senet_can_not_do_is_refused() -> None:
    with pytest.raises(PlanError, match=r"has 1 numbers and the network 3 ReLU sites"):
        run_search(Senet().search(TINY, SenetOptions(budgets=(64,), sensitivities=(1.0,)), CONTEXT), trained)
    with pytest.raises(PlanError, match="take method levers"):
        context = replace(CONTEXT, objective=objective_named("latency", "cheetah-lan"))
        run_search(Senet().search(TINY, SenetOptions(), context), trained)
