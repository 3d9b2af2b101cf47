"""A budget is spent to the last epoch."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.search.shares import share_epochs

costs = st.lists(st.floats(1e-3, 10), min_size=1, max_size=8)
budgets = st.floats(1e-2, 100)


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


def test_priorities_by_hand() -> None:
    assert share_epochs([1.0, 1.0], budget=3.0, limit=10, priorities=[1.0, 4.0]) == pytest.approx([1.0, 2.0])
    assert share_epochs([1.0, 1.0], budget=3.0, limit=10, priorities=[0.0, 4.0]) == [0.0, 3.0]


def test_nothing_to_spend_or_to_spend_it_on_is_no_epochs() -> None:
    assert share_epochs([], budget=3.0, limit=1) == []
    assert share_epochs([1.0, 2.0], budget=0.0, limit=1) == [0.0, 0.0]
    assert share_epochs([1.0, 2.0], budget=-1.0, limit=1) == [0.0, 0.0]
    assert share_epochs([0.0, 1.0], budget=2.0, limit=9) == [0.0, 2.0]  # what costs nothing has nothing to train
