"""What the engine approximates is said, with its layers and its error."""

from __future__ import annotations

import pytest
from torch import nn

from deepreduce.network import trace_network
from deepreduce.private.approximations import ERRORS, approximated, describe
from tests.helpers import REPOSITORY
from tests.helpers.plain_engine import lowered

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


def test_the_layers_of_approximated_operations_are_listed_and_no_others() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(), nn.GLU(1), nn.Flatten(), nn.Softmax(1)]
    found = approximated(lowered(trace_network(nn.Sequential(*layers), (3, 8, 8))).program)
    assert found == {"silu": ("1",), "sigmoid": ("4",), "_softmax": ("6",)}
    assert describe(found)[2] == "approximated by the engine: softmax in 6, off by up to 0.0003"
    assert describe({"tanh": ("a", "b", "c", "d")}) == [
        "approximated by the engine: tanh in a, b, c and 1 more, off by up to 0.0002"
    ]


def test_the_page_gives_every_bound() -> None:
    page = (REPOSITORY / "docs" / "private.md").read_text("utf-8")
    bounds = {float(row.split("|")[-2]) for row in page.splitlines() if row.startswith("| ") and "e-4 |" in row[-8:]}
    assert bounds == {float(error.partition(" ")[0]) for error in ERRORS.values()}
