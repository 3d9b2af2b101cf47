"""The bytes of a figure: the same for the same figure."""

from __future__ import annotations

import random

import pytest

from deepreduce.frontier import pareto_front
from deepreduce.report.figures.frontier import figure_bytes, frontier_figure
from tests.helpers.figures import drawn
from tests.helpers.report_examples import random_run


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_run_makes_the_same_bytes(kind: str) -> None:
    run = random_run(3, size=6)
    shuffled = [*run]
    random.Random(0).shuffle(shuffled)
    first, second = (figure_bytes(drawn(run), kind) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert figure_bytes(frontier_figure(run, pareto_front(shuffled), title="resnet18 on digits"), kind) == first  # type: ignore[arg-type]


def test_the_svg_has_neither_a_date_nor_a_version() -> None:
    svg = figure_bytes(drawn(random_run(3, size=3)), "svg").decode()
    assert svg.startswith("<?xml")
    assert "dc:date" not in svg
    assert "Matplotlib" not in svg
