"""A program is public: it contains no weight, and its JSON is complete."""

from __future__ import annotations

import json

import pytest

from deepreduce.private.lowering.program import Op, Program, ProgramLayer, Ref, refs
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


def test_references_are_found_in_nested_arguments() -> None:
    assert refs((Ref("a"), 1, (Ref("b"), None, (Ref("a"),)))) == ["a", "b", "a"]
    assert refs(2.5) == refs("text") == []


def test_arguments_of_every_type_survive_json() -> None:
    op = Op(name="op", args=(Ref("image"), 1, 2.5, True, "text", None, (1, (Ref("w"),))), output="out", shape=(1, 2))
    layer = ProgramLayer(name="l", kind="add", ops=(op,), inputs=("image",), weights=("w",), outputs=("out",))
    shapes = {"image": (1, 2), "w": (2,), "out": (1, 2)}
    program = Program(network="toy", image="image", logits="out", layers=(layer, layer), shapes=shapes)
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program
    assert program.weights == ("w",)  # once, though two layers use it
