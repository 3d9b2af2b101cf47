"""What is known of a run before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepreduce.cost.objective import COUNT_OF_RELUS
from deepreduce.data import DataFacts
from deepreduce.methods.base import TrainingRequest
from deepreduce.methods.deepreduce import DeepReduce, DeepReduceOptions
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.search.budget import FullBudget
from deepreduce.search.schedule import make_schedule, preview_search
from deepreduce.transforms import cull_plan
from tests.methods.test_base import BASIC, CONTEXT


def test_a_preview_is_provisional_where_the_method_asks_for_trainings() -> None:
    preview = preview_search(DeepReduce().search(BASIC, DeepReduceOptions(), CONTEXT))
    assert preview.is_provisional
    live = [stage for stage, count in BASIC.stage_relu_counts.items() if count]
    assert [r.proposal.label for r in preview.requests] == [f"only {stage}" for stage in live]
    assert preview.proposals.networks


def test_a_preview_of_a_given_order_is_what_will_be_trained() -> None:
    preview = preview_search(DeepReduce().search(BASIC, DeepReduceOptions(cull_order=("S2",)), CONTEXT))
    assert not preview.is_provisional and not preview.requests
    assert preview.proposals.cull_order == ("S2",)


def test_the_work_of_a_requested_training_counts_its_extra_forward_passes() -> None:
    plan = cull_plan(BASIC, [BASIC.stages[0]])
    plain = TrainingRequest(proposal=Proposal.of(BASIC, plan, "culled"), epochs=3.0)
    facts = DataFacts(train_images=100, val_images=0, test_images=0, num_classes=3, image_shape=(3, 8, 8))
    budget = FullBudget(
        compute=BASIC.compute_cost, facts=facts, epochs=3, batch_size=10, student_batch_size=10, schedule_epochs=3
    )
    works = []
    for requests in ([plain], [replace(plain, extra_forwards=1.5)], [plain, replace(plain, epochs=6.0)]):
        schedule = make_schedule(
            Proposals(networks=(plain.proposal,), trained=frozenset([plain.proposal.plan_id])),
            requests,
            budget,
            COUNT_OF_RELUS,
            teacher_epochs=0,
        )
        works.append(sum(work.total for work in schedule.request_works))
    assert works[1] / works[0] == pytest.approx(1.5)  # three passes a step, and half of that again
    assert works[2] / works[0] == pytest.approx(3.0)  # one network may be trained twice
