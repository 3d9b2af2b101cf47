"""A program is public: it holds no weight, and JSON holds all of it."""

from __future__ import annotations

import json

import pytest

from deepreduce.private.lowering.program import Program
from deepreduce.transforms import apply_plan, cull_plan
from tests.helpers.plain_engine import lowered
from tests.helpers.zoo import TOYS

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


def test_the_program_holds_no_weight_and_survives_json() -> None:
    found = lowered(apply_plan(TOYS["basic"].network(), cull_plan(TOYS["basic"].network(), ["S1"])))
    text = json.dumps(found.program.to_json())
    assert Program.from_json(json.loads(text)) == found.program
    numbers = {f"{float(value):.5g}" for array in found.weights.values() for value in array.flat}
    assert not any(number in text for number in numbers if len(number) > 6)
