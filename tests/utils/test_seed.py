"""Seeds follow from what they are for."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.utils.seed import derived_generator, derived_seed

parts = st.lists(st.integers(-(2**63), 2**63) | st.text(max_size=5), max_size=4)


@given(parts, parts)
def test_seeds_are_equal_for_equal_parts_and_differ_for_others(one: list[int | str], other: list[int | str]) -> None:
    assert 0 <= derived_seed(*one) < 2**63
    assert (derived_seed(*one) == derived_seed(*other)) == (one == other)


def test_a_number_and_its_digits_are_different_parts() -> None:
    assert len({derived_seed(12), derived_seed("12"), derived_seed(1, 2), derived_seed("1", "2")}) == 4


def test_seeds_are_the_same_on_every_machine() -> None:
    # a run that was begun elsewhere goes on with the same numbers only while this holds
    assert derived_seed(0, "order") == 7267664299586512972


def test_a_generator_is_its_own_and_leaves_the_global_state() -> None:
    state = torch.get_rng_state()
    one, same, other = (torch.rand(8, generator=derived_generator("x", n)) for n in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
