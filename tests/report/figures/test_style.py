"""The bytes of a figure: the same for the same figure."""

from __future__ import annotations

import random

import pytest

from deepreduce.frontier import pareto_front
from deepreduce.report.figures.frontier import figure_bytes, frontier_figure
from deepreduce.report.figures.style import DPI, Ruler, blank_figure
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


@pytest.mark.parametrize("inches", [0.3, 1.0, 2.5])
def test_text_is_shortened_and_broken_to_the_width_that_it_has(inches: float) -> None:
    ruler = Ruler(blank_figure(8.0))
    text = "culling S1 and S4, thinning, half the channels"
    short = ruler.fit(text, inches, 8.0)
    assert ruler.extent(short, 8.0)[0] <= inches * DPI
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))
    assert ruler.fit("a\n  b", 5.0, 8.0) == "a b"
    lines = ruler.wrap(text, max(inches, 1.6), 8.0)
    assert " ".join(lines) == text
    assert all(ruler.extent(line, 8.0)[0] <= max(inches, 1.6) * DPI for line in lines)
