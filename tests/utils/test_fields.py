"""Field types take what people write, and refuse the rest by its rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from deepreduce.utils.fields import Count, Fraction, Positive, Real, Resolution, Scale, Whole, split_list


@pytest.mark.parametrize("kind", [Whole, Real, Count, Fraction])
def test_a_bool_is_no_number(kind: object) -> None:
    with pytest.raises(ValidationError, match="needs a number"):
        TypeAdapter(kind).validate_python(True)


@given(st.integers(1, 1000))
def test_a_resolution_is_the_inverse_of_a_whole_number(factor: int) -> None:
    assert TypeAdapter(Resolution).validate_python(1 / factor) == 1 / factor


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Resolution, 0.3), (Scale, 0.0), (Scale, 1.01), (Positive, 0.0), (Real, math.inf), (Count, 0), (Fraction, -0.1)],
)
def test_a_number_out_of_its_range_is_refused(kind: object, value: float) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("value", "parts"),
    [("S1,S4", ["S1", "S4"]), (" S1 , ,S2,", ["S1", "S2"]), (0.5, [0.5]), ([1, 2], [1, 2]), ("", [])],
)
def test_a_text_or_a_number_may_stand_for_a_list(value: object, parts: list[object]) -> None:
    assert split_list(value) == parts
