"""Dominance, fronts, hypervolume and picking, against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.candidate import Candidate, Measurement
from deepreduce.cost.objective import COUNT_OF_RELUS, Objective
from deepreduce.cost.price import CostEstimate, Share
from deepreduce.errors import UserError
from deepreduce.frontier import Point, best, dominates, front_by, hypervolume, knee, log_cost, pareto_front
from deepreduce.plan import ReductionPlan
from tests.helpers.report_examples import priced

# few distinct values, so that ties and duplicates are common
points = st.builds(
    Point,
    cost=st.integers(0, 12).map(float),
    accuracy=st.integers(0, 12).map(lambda n: n / 12),
)


def candidate(relu_count: int, val_accuracy: float, *, plan_id: str = "p", test_accuracy: float = 0.5) -> Candidate:
    return Candidate(
        plan_id=plan_id,
        plan=ReductionPlan(),
        label="cull S1",
        relu_count=relu_count,
        folder=f"candidates/{plan_id}",
        measurement=Measurement(
            relu_count=relu_count,
            stage_relu_counts={"S1": relu_count},
            macs=1,
            val_accuracy=val_accuracy,
            test_accuracy=test_accuracy,
            churn=0.1,
            train_seconds=1.0,
        ),
    )


failed = Candidate(
    plan_id="broken", plan=ReductionPlan(), label="cull S1", relu_count=1, folder="f", failure="diverged"
)


def front_of(given: list[Point]) -> list[Point]:
    return pareto_front(given, cost=lambda p: p.cost, accuracy=lambda p: p.accuracy)


@given(points, points, points)
def test_dominance_is_a_strict_partial_order(a: Point, b: Point, c: Point) -> None:
    assert not dominates(a, a)
    assert not (dominates(a, b) and dominates(b, a))
    assert not (dominates(a, b) and dominates(b, c)) or dominates(a, c)


@given(st.lists(points, max_size=30))
def test_the_front_is_what_brute_force_finds(given: list[Point]) -> None:
    undominated = {p for p in given if not any(dominates(q, p) for q in given)}
    front = front_of(given)
    assert set(front) == undominated
    assert len(front) == len(undominated)
    assert [p.cost for p in front] == sorted(p.cost for p in front)


@given(st.lists(points, max_size=20), st.randoms())
def test_the_order_given_does_not_change_the_front(given: list[Point], random: object) -> None:
    shuffled = list(given)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert front_of(shuffled) == front_of(given)


def test_of_equal_candidates_the_first_is_kept() -> None:
    first, second = candidate(10, 0.5, plan_id="first"), candidate(10, 0.5, plan_id="second")
    assert pareto_front([first, second]) == [first]
    assert pareto_front([second, first]) == [second]


def test_the_front_is_chosen_on_validation_accuracy_and_ignores_failures() -> None:
    small = candidate(10, 0.6, plan_id="small", test_accuracy=0.1)
    large = candidate(20, 0.5, plan_id="large", test_accuracy=0.9)
    assert pareto_front([failed, large, small]) == [small]
    assert pareto_front([failed]) == []
    assert pareto_front([]) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="accuracy is"):
        pareto_front([candidate(1, value)])
    with pytest.raises(UserError, match="cost is"):
        Point(cost=value, accuracy=0.5)
    with pytest.raises(UserError, match="relu_count is"):
        log_cost(value)


@given(st.lists(points, max_size=15), points)
def test_the_hypervolume_is_the_area_of_a_sweep(given: list[Point], reference: Point) -> None:
    # strips between neighbouring costs, each as high as the best point that is no more expensive
    edges = sorted({p.cost for p in given if p.cost < reference.cost} | {reference.cost})
    area = 0.0
    for left, right in itertools.pairwise(edges):
        height = max((p.accuracy - reference.accuracy for p in given if p.cost <= left), default=0.0)
        area += (right - left) * max(height, 0.0)
    assert hypervolume(given, reference=reference) == pytest.approx(area, abs=1e-9)


def test_the_hypervolume_of_log_costs_is_worth_the_same_in_every_decade() -> None:
    def gain(few: int, many: int) -> float:
        reference = Point(cost=log_cost(many), accuracy=0.0)
        return hypervolume([Point(cost=log_cost(few), accuracy=0.5)], reference=reference)

    assert gain(1_000, 10_000) == pytest.approx(0.5)
    assert gain(100_000, 1_000_000) == pytest.approx(0.5)
    assert log_cost(0) == log_cost(1) == 0.0
    assert hypervolume([], reference=Point(cost=1.0, accuracy=0.0)) == 0.0


candidates = st.lists(
    st.builds(candidate, st.integers(0, 12), st.integers(0, 12).map(lambda n: n / 12)),
    min_size=1,
    max_size=12,
)


@given(candidates, st.integers(0, 12), st.integers(0, 12).map(lambda n: n / 12))
def test_the_best_is_what_brute_force_finds(given: list[Candidate], max_relus: int, min_accuracy: float) -> None:
    pairs = [(c.relu_count, c.measurement.val_accuracy) for c in given if c.measurement]
    for budget, floor in ((max_relus, None), (None, min_accuracy), (max_relus, min_accuracy)):
        fitting = [(r, a) for r, a in pairs if (budget is None or r <= budget) and (floor is None or a >= floor)]
        if not fitting:
            with pytest.raises(UserError, match="no candidate has"):
                best([*given, failed], max_relus=budget, min_accuracy=floor)
            continue
        chosen = best([*given, failed], max_relus=budget, min_accuracy=floor)
        assert chosen.measurement is not None
        got = (chosen.relu_count, chosen.measurement.val_accuracy)
        if budget is None:
            assert got == min(fitting, key=lambda p: (p[0], -p[1]))
        else:
            assert got == min(fitting, key=lambda p: (-p[1], p[0]))


def test_a_budget_that_nothing_meets_names_the_nearest() -> None:
    given = [candidate(100, 0.5, plan_id="small"), candidate(1000, 0.75, plan_id="large")]
    with pytest.raises(UserError, match=r"at most 50 ReLUs; the one with the fewest ReLUs is small .*100 ReLUs"):
        best(given, max_relus=50)
    with pytest.raises(UserError, match=r"at least 90.00 %.*the most accurate is large .*75.00 %"):
        best(given, min_accuracy=0.9)
    with pytest.raises(UserError, match=r"within the budget is small"):
        best(given, max_relus=500, min_accuracy=0.6)
    with pytest.raises(UserError, match="no candidate has a measurement"):
        best([failed], max_relus=500)


def test_a_choice_without_or_with_a_senseless_rule_is_refused() -> None:
    with pytest.raises(UserError, match="neither"):
        best([candidate(1, 0.5)])
    with pytest.raises(UserError, match="fraction"):
        best([candidate(1, 0.5)], min_accuracy=93.0)
    with pytest.raises(UserError, match="max_relus is nan"):
        best([candidate(1, 0.5)], max_relus=math.nan)


def test_the_knee_is_the_point_furthest_above_the_chord() -> None:
    front = [candidate(r, a) for r, a in ((0, 0.1), (1_000, 0.2), (10_000, 0.7), (100_000, 0.75), (1_000_000, 0.77))]
    assert knee(front) == front[2]
    assert knee(front[:1]) == front[0]
    assert knee(front[3:]) == front[4]
    assert knee([candidate(0, 0.1), candidate(1, 0.2)]).relu_count == 1
    with pytest.raises(UserError, match="empty"):
        knee([])


def test_a_front_below_its_chord_has_no_knee_but_its_most_accurate_end() -> None:
    front = [candidate(r, a) for r, a in ((1_000, 0.1), (10_000, 0.15), (100_000, 0.7))]
    assert knee(front) == front[2]


# -- another cost than ReLUs ----------------------------------------------------------------------------------

LATENCY = Objective(name="latency", preset="cheetah-lan")


def taking(seconds: float, network: Candidate) -> Candidate:
    return priced(network, "cheetah-lan", CostEstimate.of([Share(kind="ReLU", compute_seconds=seconds)]))


def test_the_front_by_latency_is_not_that_by_relus_and_leaves_out_what_has_none() -> None:
    quick, tight = (
        taking(1.0, candidate(900, 0.6, plan_id="quick")),
        taking(2.0, candidate(100, 0.6, plan_id="tight")),
    )
    unknown = candidate(1, 0.9, plan_id="unknown")
    given = [quick, tight, taking(0.1, failed), unknown]
    assert front_by(LATENCY, given) == [quick]
    assert front_by(COUNT_OF_RELUS, [quick, tight]) == [tight]


def test_the_best_within_a_latency_and_the_cheapest_that_is_accurate_enough() -> None:
    given = [taking(n / 10, candidate(100 - n, n / 20, plan_id=f"p{n}")) for n in range(1, 10)]
    assert best(given, max_cost=0.55, objective=LATENCY).plan_id == "p5"
    assert best(given, min_accuracy=0.3, objective=LATENCY).plan_id == "p6"
    assert best(given, max_cost=0.9, max_relus=97, min_accuracy=0.1, objective=LATENCY).plan_id == "p9"
    with pytest.raises(UserError, match=r"at most 50 ms; the cheapest is p1 .*: 0.1 s, 5.00 %"):
        best(given, max_cost=0.05, objective=LATENCY)
    with pytest.raises(UserError, match="max_cost is -1"):
        best(given, max_cost=-1, objective=LATENCY)


def test_the_knee_is_found_by_the_logarithm_of_the_cost() -> None:
    # accuracies rise by 0.3, 0.02, 0.02 with each tenfold latency
    given = [taking(10.0**n, candidate(n, value, plan_id=f"p{n}")) for n, value in enumerate([0.5, 0.8, 0.82, 0.84])]
    assert knee(given, objective=LATENCY).plan_id == "p1"
