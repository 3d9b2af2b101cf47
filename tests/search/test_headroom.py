"""A budget is spent to the last epoch, and a network is dropped only for a better one."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.search.headroom import FrontierState, Incumbent, dominated, priorities, share_epochs, turn_order

costs = st.lists(st.floats(1e-3, 10), min_size=1, max_size=8)
budgets = st.floats(1e-2, 100)

# -- epochs ---------------------------------------------------------------------------------------------------


@given(costs, budgets)
def test_the_budget_is_spent_exactly_where_nothing_limits_it(costs: list[float], budget: float) -> None:
    epochs = share_epochs(costs, budget=budget, limit=math.inf)
    assert sum(c * e for c, e in zip(costs, epochs, strict=True)) == pytest.approx(budget)


@given(costs, budgets, st.floats(0.1, 20))
def test_the_budget_is_spent_unless_every_network_has_all_that_it_may(
    costs: list[float], budget: float, limit: float
) -> None:
    epochs = share_epochs(costs, budget=budget, limit=limit)
    assert all(0 < e <= limit for e in epochs)
    spent = sum(c * e for c, e in zip(costs, epochs, strict=True))
    assert spent == pytest.approx(min(budget, limit * sum(costs)))


@given(costs, budgets, st.floats(0.1, 20))
def test_epochs_that_are_not_limited_go_with_the_inverse_root_of_the_cost(
    costs: list[float], budget: float, limit: float
) -> None:
    epochs = share_epochs(costs, budget=budget, limit=limit)
    free = [(c, e) for c, e in zip(costs, epochs, strict=True) if e < limit]
    for (c, e), (other_c, other_e) in itertools.pairwise(free):
        assert e / other_e == pytest.approx(math.sqrt(other_c / c))
    # and one that is limited would have had more than it may
    if free:
        c, e = free[0]
        for capped in (c for c, e in zip(costs, epochs, strict=True) if e == limit):
            assert e * math.sqrt(c / capped) >= limit * (1 - 1e-9)


@given(costs, budgets, st.randoms())
def test_the_order_of_the_networks_changes_nothing(costs: list[float], budget: float, random: object) -> None:
    order = list(range(len(costs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    epochs = share_epochs(costs, budget=budget, limit=5.0)
    shuffled = share_epochs([costs[i] for i in order], budget=budget, limit=5.0)
    assert shuffled == pytest.approx([epochs[i] for i in order])


def test_epochs_by_hand() -> None:
    assert share_epochs([1.0, 0.25], budget=3.0, limit=10) == pytest.approx([2.0, 4.0])
    # the small one may have three, so 3 - 0.75 is left for the large one
    assert share_epochs([1.0, 0.25], budget=3.0, limit=3) == pytest.approx([2.25, 3.0])
    assert share_epochs([1.0, 0.25], budget=99.0, limit=3) == [3, 3]


def test_nothing_to_spend_or_to_spend_it_on_is_no_epochs() -> None:
    assert share_epochs([], budget=3.0, limit=1) == []
    assert share_epochs([1.0, 2.0], budget=0.0, limit=1) == [0.0, 0.0]
    assert share_epochs([1.0, 2.0], budget=-1.0, limit=1) == [0.0, 0.0]
    assert share_epochs([0.0, 1.0], budget=2.0, limit=9) == [0.0, 2.0]  # what costs nothing has nothing to train


# -- turns ----------------------------------------------------------------------------------------------------

some_epochs = st.lists(st.floats(0.1, 10), min_size=1, max_size=6)


@given(some_epochs, st.integers(1, 6))
def test_each_network_has_turns_in_proportion_to_its_epochs(epochs: list[float], rounds: int) -> None:
    turns = turn_order(epochs, rounds=rounds)
    counts = [turns.count(number) for number in range(len(epochs))]
    assert min(counts) == rounds
    assert counts == [round(rounds * e / min(epochs)) for e in epochs]
    assert len(turns) == sum(counts)


def test_turns_by_hand() -> None:
    assert turn_order([1, 1], rounds=2) == [0, 0, 1, 1]
    assert turn_order([1, 2], rounds=1) == [0, 1, 1]
    assert turn_order([1, 0, 2], rounds=2) == [0, 0, 2, 2, 2, 2]
    assert turn_order([5], rounds=3) == [0, 0, 0]
    assert turn_order([], rounds=4) == turn_order([0.0, 0.0], rounds=4) == []


# -- dominated ----------------------------------------------------------------------------------------------

networks = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.tuples(st.integers(0, 6), st.integers(0, 20).map(lambda n: n / 20)),
    max_size=8,
)


@given(networks, st.sampled_from([0.0, 0.02, 0.05, 0.1, 1.0]))
def test_a_network_is_dominated_where_one_with_no_more_relus_is_better_by_the_margin(
    networks: dict[str, tuple[int, float]], margin: float
) -> None:
    counts = {name: count for name, (count, _) in networks.items()}
    accuracies = {name: accuracy for name, (_, accuracy) in networks.items()}
    found = dominated(counts, accuracies, margin=margin)
    for name in networks:
        rivals = {
            other: accuracies[other]
            for other in networks
            if counts[other] <= counts[name] and accuracies[other] > accuracies[name] + margin
        }
        assert (name in found) == bool(rivals)
        if rivals:
            assert found[name] in rivals and accuracies[found[name]] == max(rivals.values())


@given(networks, st.sampled_from([0.0, 0.05]))
def test_the_best_network_of_every_budget_is_never_dominated(
    networks: dict[str, tuple[int, float]], margin: float
) -> None:
    counts = {name: count for name, (count, _) in networks.items()}
    accuracies = {name: accuracy for name, (_, accuracy) in networks.items()}
    found = dominated(counts, accuracies, margin=margin)
    # of every budget the most accurate network goes on
    for count in set(counts.values()):
        able = [name for name in networks if counts[name] <= count]
        assert any(accuracies[name] == max(accuracies[n] for n in able) for name in able if name not in found)


def test_a_margin_is_exceeded_not_reached_and_equal_counts_compare() -> None:
    counts = {"a": 10, "b": 10}
    assert dominated(counts, {"a": 0.75, "b": 0.5}, margin=0.25) == {}
    assert dominated(counts, {"a": 0.76, "b": 0.5}, margin=0.25) == {"b": "a"}
    assert dominated({"a": 11, "b": 10}, {"a": 0.9, "b": 0.5}, margin=0.1) == {}


def test_networks_without_an_accuracy_neither_dominate_nor_are_dominated() -> None:
    assert dominated({"a": 1, "b": 2, "failed": 3}, {"a": 0.5, "b": 0.9}, margin=0.0) == {}


# -- what is worth training -----------------------------------------------------------------------------------

points = st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1)), max_size=6)


def state(rivals: list[tuple[float, float]] = [], **changes: float) -> FrontierState:  # noqa: B006
    values = {"full_cost": 1e6, "full_accuracy": 0.9, "error": 0.01, "chance": 0.1}
    return FrontierState(
        **(values | changes), incumbents=tuple(Incumbent(label="x", cost=c, accuracy=a) for c, a in rivals)
    )


@given(points, st.floats(1, 1e6))
def test_the_headroom_above_a_network_is_what_the_best_of_no_more_cost_leaves(
    rivals: list[tuple[float, float]], cost: float
) -> None:
    known = state(rivals)
    had = max([a for c, a in rivals if c <= cost], default=0.1)
    best_of_all = max([a for _, a in rivals], default=0.0)
    assert known.headroom(cost) == pytest.approx(max((1.0 if best_of_all > 0.91 else 0.9) - max(had, 0.1), 0))
    # and more expensive networks have no more of it
    assert known.headroom(2 * cost) <= known.headroom(cost)


@given(points, st.floats(1, 1e6), st.floats(0.01, 100), st.floats(1.01, 10))
def test_more_epochs_gain_no_less_and_nothing_is_given_up_without_an_incumbent(
    rivals: list[tuple[float, float]], cost: float, epochs: float, factor: float
) -> None:
    known = state(rivals)
    assert known.gain(cost, epochs * factor) >= known.gain(cost, epochs)
    assert (known.gain(cost, 1e-9) == math.inf) == all(c > cost for c, _ in rivals)
    if known.best(cost) is not None:
        assert known.gain(cost, epochs) <= known.headroom(cost) - known.error


def test_a_full_network_that_is_beaten_or_guesses_is_no_ceiling() -> None:
    assert state([(100, 0.91)]).ceiling == 0.9
    assert state([(100, 0.92)]).ceiling == 1.0
    assert state(full_accuracy=0.12).ceiling == 1.0
    assert state(full_accuracy=0.121).ceiling == 0.121


def test_what_a_network_gains_by_hand() -> None:
    known = state([(100, 0.8)])
    # room 0.1; after an epoch 0.05 of 0.8 is lacking, after four a quarter of that, and no gain is below the error
    assert known.gain(100, 1) == pytest.approx(0.1 - 0.04)
    assert known.gain(1e5, 4) == pytest.approx(0.1 - 0.01)
    assert known.gain(1e5, 1e9) == pytest.approx(0.1 - 0.01)
    assert known.gain(1e5, 0.1) == pytest.approx(0.1 - 0.4)
    assert known.gain(1e5, 0) == -math.inf
    assert known.gain(99, 0) == math.inf
    assert state([(100, 0.895)]).gain(1e5, 1e9) < 0  # it could not be told from its incumbent


def test_a_priority_is_part_of_the_frontier_times_root_of_headroom_times_distance_by_hand() -> None:
    # decades from 10 to 1,000,000: 10 has one on one side, 100 one and two, 10,000 two and two
    expected = [1 * 0.8**0.5 * 5, 1.5 * 0.8**0.5 * 4, 2 * 0.8**0.5 * 2]
    assert priorities([10, 100, 1e4], state()) == pytest.approx(expected)
    # an incumbent in between leaves less headroom above it
    assert priorities([10, 1e4], state([(1e3, 0.65)])) == pytest.approx([2 * 0.8**0.5 * 5, 1.5 * 0.25**0.5 * 2])
    assert priorities([], state()) == []
    assert priorities([0.0], state()) > [0.0]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), points)
def test_every_priority_is_a_positive_number(costs: list[float], rivals: list[tuple[float, float]]) -> None:
    assert all(0 < worth < math.inf for worth in priorities(costs, state(rivals)))


@given(costs, budgets, st.lists(st.floats(1e-3, 10), min_size=8, max_size=8))
def test_epochs_go_with_the_root_of_the_priority(costs: list[float], budget: float, worth: list[float]) -> None:
    epochs = share_epochs(costs, budget=budget, limit=math.inf, priorities=worth[: len(costs)])
    assert sum(c * e for c, e in zip(costs, epochs, strict=True)) == pytest.approx(budget)
    rates = [e / math.sqrt(w / c) for c, e, w in zip(costs, epochs, worth, strict=False)]
    assert rates == pytest.approx([rates[0]] * len(rates))
