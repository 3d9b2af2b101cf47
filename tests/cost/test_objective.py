"""The cost that a frontier is about."""

from __future__ import annotations

import pytest

from deepreduce.cost.estimate import LINEAR_LAYERS, OTHER_LAYERS, RELU_LAYERS, CostEstimate, Share
from deepreduce.cost.objective import COUNT_OF_RELUS, UNLIMITED, Limits, Objective, basis_of
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
    latency, sent = (Objective(name=name, preset="cheetah-lan") for name in ("latency", "bytes"))
    assert COUNT_OF_RELUS.cost(NETWORK) == 28_672
    assert latency.cost(NETWORK) == 1.0 + 0.25 + 0.5 + 0.125  # what is done offline is no latency
    assert sent.cost(NETWORK) == 6e6


def test_a_cost_under_another_preset_is_not_known() -> None:
    other = Objective(name="latency", preset="cheetah-wan")
    assert not other.knows(NETWORK) and COUNT_OF_RELUS.knows(NETWORK)
    with pytest.raises(UserError, match="unknown preset of these networks 'cheetah-wan'; did you mean 'cheetah-lan'"):
        other.cost(NETWORK)


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        ("latencies", "cheetah-lan", "unknown objective 'latencies'; did you mean 'latency'"),
        ("relus", "cheetah-lan", "a ReLU count is none's"),
        ("bytes", None, "latency and bytes are those of a preset"),
    ],
)
def test_an_objective_without_sense_is_refused(name: str, preset: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Objective(name=name, preset=preset)


def test_costs_are_told_with_their_unit() -> None:
    assert (COUNT_OF_RELUS.text(28_672), COUNT_OF_RELUS.short(28_672)) == ("28,672 ReLUs", "28.7K")
    assert COUNT_OF_RELUS.text(1) == "1 ReLU"
    assert Objective(name="latency", preset="delphi-wan").text(1.274) == "1.27 s"
    assert Objective(name="bytes", preset="delphi-wan").text(332.4e6) == "332 MB"


@pytest.mark.parametrize("preset", ["semi2k-lan", "mine-semi2k-wan", "measured-semi2k-loopback"])
def test_semi2k_is_never_shown_without_its_dealer(preset: str) -> None:
    assert "trusted dealer, a cost reference" in basis_of(preset)
    assert "trusted dealer, a cost reference" in Objective(name="bytes", preset=preset).title


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
    latency = Objective(name="latency", preset="cheetah-lan")
    assert Limits(objective=latency, **limits).allow(NETWORK) is is_allowed


def test_limits_are_told_and_those_without_sense_refused() -> None:
    latency = Objective(name="latency", preset="cheetah-lan")
    assert Limits(max_relus=1000, max_cost=2.5, objective=latency).text() == "at most 1,000 ReLUs and at most 2.5 s"
    assert not UNLIMITED.given
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UserError, match="give a number, 0 or more"):
            Limits(max_cost=wrong)
    with pytest.raises(UserError, match="unknown preset"):
        Limits(max_cost=1, objective=Objective(name="latency", preset="delphi-lan")).allow(NETWORK)
