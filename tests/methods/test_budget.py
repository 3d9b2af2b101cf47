"""A budget is spent to the last epoch, and what is dropped is beaten in plain sight."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.methods.budget import beaten, share_epochs, turns_for

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
    turns = turns_for(epochs, rounds=rounds)
    counts = [turns.count(number) for number in range(len(epochs))]
    assert min(counts) == rounds
    assert counts == [round(rounds * e / min(epochs)) for e in epochs]
    assert len(turns) == sum(counts)


def test_turns_by_hand() -> None:
    assert turns_for([1, 1], rounds=2) == [0, 0, 1, 1]
    assert turns_for([1, 2], rounds=1) == [0, 1, 1]
    assert turns_for([1, 0, 2], rounds=2) == [0, 0, 2, 2, 2, 2]
    assert turns_for([5], rounds=3) == [0, 0, 0]
    assert turns_for([], rounds=4) == turns_for([0.0, 0.0], rounds=4) == []


# -- what is beaten ---------------------------------------------------------------------------------------------

networks = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.tuples(st.integers(0, 6), st.integers(0, 20).map(lambda n: n / 20)),
    max_size=8,
)


@given(networks, st.sampled_from([0.0, 0.02, 0.05, 0.1, 1.0]))
def test_a_network_is_beaten_where_one_with_no_more_relus_is_better_by_the_margin(
    networks: dict[str, tuple[int, float]], margin: float
) -> None:
    counts = {name: count for name, (count, _) in networks.items()}
    accuracies = {name: accuracy for name, (_, accuracy) in networks.items()}
    found = beaten(counts, accuracies, margin=margin)
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
def test_what_beats_is_never_beaten_by_its_victim_and_the_best_always_stay(
    networks: dict[str, tuple[int, float]], margin: float
) -> None:
    counts = {name: count for name, (count, _) in networks.items()}
    accuracies = {name: accuracy for name, (_, accuracy) in networks.items()}
    found = beaten(counts, accuracies, margin=margin)
    # of every budget the most accurate network goes on
    for count in set(counts.values()):
        able = [name for name in networks if counts[name] <= count]
        assert any(accuracies[name] == max(accuracies[n] for n in able) for name in able if name not in found)


def test_a_margin_is_exceeded_not_reached_and_equal_counts_compare() -> None:
    counts = {"a": 10, "b": 10}
    assert beaten(counts, {"a": 0.75, "b": 0.5}, margin=0.25) == {}
    assert beaten(counts, {"a": 0.76, "b": 0.5}, margin=0.25) == {"b": "a"}
    assert beaten({"a": 11, "b": 10}, {"a": 0.9, "b": 0.5}, margin=0.1) == {}


def test_networks_without_an_accuracy_neither_beat_nor_are_beaten() -> None:
    assert beaten({"a": 1, "b": 2, "failed": 3}, {"a": 0.5, "b": 0.9}, margin=0.0) == {}
