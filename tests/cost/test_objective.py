"""The cost that a frontier is about."""

from __future__ import annotations

import json

import pytest

from deepreduce.cost.estimate import LINEAR_LAYERS, OTHER_LAYERS, RELU_LAYERS, CostEstimate, Share
from deepreduce.cost.objective import (
    COUNT_OF_RELUS,
    UNLIMITED,
    Limits,
    Objective,
    basis_of,
    objective_class,
    objective_named,
    objectives_under,
)
from deepreduce.errors import UserError
from tests.helpers.report_examples import candidate, with_estimate

ESTIMATE = CostEstimate.of(
    [
        Share(
            kind=RELU_LAYERS, compute_seconds=1.0, sending_seconds=0.25, online_bytes=1e6, rounds=4, offline_bytes=5e6
        ),
        Share(kind=LINEAR_LAYERS, waiting_seconds=0.5, offline_seconds=9.0),
        Share(kind=OTHER_LAYERS, compute_seconds=0.125),
    ]
)
NETWORK = with_estimate(candidate(28_672, 0.7, plan_id="p"), "cheetah-lan", ESTIMATE)


def test_a_cost_is_relus_or_the_latency_or_all_bytes_under_its_preset() -> None:
    latency, sent = (objective_named(name, "cheetah-lan") for name in ("latency", "bytes"))
    assert COUNT_OF_RELUS.cost(NETWORK) == 28_672
    assert latency.cost(NETWORK) == 1.0 + 0.25 + 0.5 + 0.125  # what is done offline is no latency
    assert sent.cost(NETWORK) == 6e6


def test_a_cost_under_another_preset_is_not_known() -> None:
    other = objective_named("latency", "cheetah-wan")
    assert not other.knows(NETWORK) and COUNT_OF_RELUS.knows(NETWORK)
    with pytest.raises(UserError, match="unknown preset of these networks 'cheetah-wan'; did you mean 'cheetah-lan'"):
        other.cost(NETWORK)


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        ("latencies", "cheetah-lan", "unknown objective 'latencies'; did you mean 'latency'"),
        ("relus", "cheetah-lan", "relus is a cost under no protocol; leave out the preset cheetah-lan"),
        ("bytes", None, "bytes needs a preset"),
    ],
)
def test_an_objective_without_sense_is_refused(name: str, preset: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective_named(name, preset)


def test_costs_have_their_unit() -> None:
    assert [COUNT_OF_RELUS.text(28_672), COUNT_OF_RELUS.short(28_672)] == ["28,672 ReLUs", "28.7K"]
    assert COUNT_OF_RELUS.text(1) == "1 ReLU" and COUNT_OF_RELUS.cell(28_672) == "28,672"
    assert objective_named("latency", "delphi-wan").text(1.274) == "1.27 s"
    assert objective_named("bytes", "delphi-wan").text(332.4e6) == "332 MB"


def test_a_gain_compares_with_the_teacher_where_its_cost_is_known() -> None:
    latency = objective_named("latency", "delphi-wan")
    assert latency.gain(2.0, 5.0) == "a latency of 2 s (2.5\u00d7 less)"
    assert latency.gain(2.0, None) == "a latency of 2 s"
    assert COUNT_OF_RELUS.gain(1_000, 4_500) == "4.5\u00d7 fewer ReLUs"
    assert COUNT_OF_RELUS.gain(0, 4_500) == "0 ReLUs"


OBJECTIVES = objectives_under(["cheetah-lan", "semi2k-wan"])


def test_every_objective_is_there_once_for_each_preset_relus_first() -> None:
    keys = [each.key for each in OBJECTIVES]
    assert keys[0] == "relus" and len(set(keys)) == len(keys)
    assert set(keys) == {"relus"} | {f"{n} {p}" for n in ("latency", "bytes") for p in ("cheetah-lan", "semi2k-wan")}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.key)
def test_every_objective_has_all_that_is_said_and_drawn_of_it(objective: Objective) -> None:
    again = objective_named(**objective.to_json())
    assert again == objective and hash(again) == hash(objective)
    assert type(objective) is objective_class(objective.name)
    for cost in (0, 1, 12.5, 1e7):
        assert all(text(cost) for text in (objective.short, objective.cell, objective.text))
    texts = (objective.title, objective.noun, objective.phrase, objective.comparative, objective.cheapest)
    assert all(text.strip() == text != "" for text in texts) and objective.least > 0
    json.dumps([objective.unit.to_json(), objective.to_json()])
    under = objective.under("delphi-lan")
    assert under.preset == "delphi-lan" and under.under("cheetah-lan") == objective.under("cheetah-lan")


@pytest.mark.parametrize("preset", ["semi2k-lan", "mine-semi2k-wan", "measured-semi2k-loopback"])
def test_semi2k_is_never_shown_without_its_dealer(preset: str) -> None:
    assert "trusted dealer, a cost reference" in basis_of(preset)
    assert "trusted dealer, a cost reference" in objective_named("bytes", preset).title


def test_what_was_measured_is_told_from_what_was_computed_and_from_estimates() -> None:
    assert basis_of("cheetah-lan") == "cheetah over lan (estimated)"
    assert basis_of("measured-cheetah-loopback") == "cheetah over loopback (measured)"
    assert basis_of("measured-cheetah-wan") == "cheetah over wan (measured; link computed)"
    assert "estimated" in basis_of("mine-cheetah-lan")


@pytest.mark.parametrize(
    ("limits", "is_allowed"),
    [
        ({}, True),
        ({"max_relus": 28_672}, True),
        ({"max_relus": 28_671}, False),
        ({"max_cost": 1.875}, True),  # 1 + 0.25 + 0.5 + 0.125 seconds
        ({"max_cost": 1.874}, False),
        ({"max_relus": 28_672, "max_cost": 1.874}, False),
        ({"max_relus": 1, "max_cost": 9}, False),
    ],
)
def test_limits_allow_what_keeps_to_all_of_them(limits: dict[str, float], is_allowed: bool) -> None:
    latency = objective_named("latency", "cheetah-lan")
    assert Limits(objective=latency, **limits).allow(NETWORK) is is_allowed


def test_limits_are_told_and_those_without_sense_refused() -> None:
    latency = objective_named("latency", "cheetah-lan")
    assert Limits(max_relus=1000, max_cost=2.5, objective=latency).text() == "at most 1,000 ReLUs and at most 2.5 s"
    assert not UNLIMITED.given
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UserError, match="give a number, 0 or more"):
            Limits(max_cost=wrong)
    with pytest.raises(UserError, match="unknown preset"):
        Limits(max_cost=1, objective=objective_named("latency", "delphi-lan")).allow(NETWORK)
