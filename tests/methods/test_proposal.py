"""Proposals are exact, each network once, and what could not be done is said."""

from __future__ import annotations

import pytest

from deepreduce.cost.objective import Limits
from deepreduce.errors import PlanError
from deepreduce.methods.proposal import Collector, Proposal
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import cull_plan
from tests.helpers.independent import executed_relus
from tests.helpers.zoo import TOYS

BASIC = TOYS["basic"].network()


def test_a_proposal_holds_the_network_that_its_plan_leaves() -> None:
    proposal = Proposal.of(BASIC, cull_plan(BASIC, ["S1"]), "cull S1")
    assert proposal.relu_count == sum(executed_relus(proposal.network.module, BASIC.input_shape))
    assert proposal == Proposal.of(BASIC, cull_plan(BASIC, ["S1"]), "cull S1")  # whatever the network object


def test_a_plan_that_drops_no_relu_is_no_proposal() -> None:
    with pytest.raises(PlanError, match="as many ReLUs as the full network"):
        Proposal.of(BASIC, ReductionPlan(), "nothing")


def test_the_same_plan_is_collected_once_under_its_first_label() -> None:
    collected = Collector(BASIC)
    first = collected.add_plan(cull_plan(BASIC, ["S1"]), "first")
    assert collected.add_plan(cull_plan(BASIC, ["S1"]), "second") is first
    assert [p.label for p in collected.proposals().networks] == ["first"]


def test_what_is_dropped_or_does_not_fit_is_left_out_with_the_reason() -> None:
    collected = Collector(BASIC)
    assert collected.add_plan(ReductionPlan(sites={"nowhere": "identity"}), "wrong") is None  # type: ignore[arg-type]
    collected.add_plan(cull_plan(BASIC, ["S1"]), "one")
    other = collected.add_plan(cull_plan(BASIC, ["S2"]), "two")
    assert other is not None
    collected.drop(other, "enough")
    left_out = collected.proposals().left_out
    assert any("unknown ReLU site 'nowhere'" in reason and "wrong" in reason for reason in left_out)
    assert "enough (left out: two)" in left_out


def test_limits_that_nothing_keeps_name_the_smallest_network() -> None:
    collected = Collector(BASIC)
    smallest = collected.add_plan(cull_plan(BASIC, ["S1"]), "cull S1")
    assert smallest is not None
    with pytest.raises(
        PlanError, match=rf"the smallest, cull S1, has {smallest.relu_count:,} ReLUs: raise max_relus"
    ):
        collected.keep_within(Limits(max_relus=1))
