"""What is known of a run before anything is trained."""

from __future__ import annotations

from deepreduce.methods.deepreduce import DeepReduce, DeepReduceOptions
from deepreduce.search.schedule import preview_search
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
