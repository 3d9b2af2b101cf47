"""The axes of a frontier: ticks with short names, and the break left of which no ReLU is left."""

from __future__ import annotations

import pytest

from tests.helpers.figures import assert_well_drawn, drawn, flaws, labels_of, line_of
from tests.helpers.report_examples import candidate, teacher


def test_a_network_without_relus_stands_left_of_a_break_in_the_axis() -> None:
    run = [teacher(), candidate(10_000, 0.6, plan_id="p"), candidate(0, 0.3, "cull S1 S2 S3 S4", plan_id="linear")]
    figure = drawn(run)
    assert_well_drawn(run, figure)
    assert labels_of(figure)["linear"].endswith("no ReLUs")
    axes = figure.axes[0]
    (broken,) = [t for t in axes.texts if t.get_gid() == "break"]
    (zero,) = [t for t in axes.get_xticklabels() if t.get_text() == "0"]
    assert line_of(figure, "frontier")[0][0] == pytest.approx(zero.get_position()[0], rel=1e-5)
    assert zero.get_position()[0] < broken.get_position()[0] < 10_000


def test_without_such_a_network_the_axis_is_whole() -> None:
    assert drawn([teacher()]).axes[0].texts[:] == []


@pytest.mark.parametrize(
    "counts", [[557_056], [1], [12_000, 12_100], [700, 1400], [1, 10**7], [10, 100, 1000], [0], [0, 512]]
)
def test_ticks_have_short_names_that_differ_and_no_accuracy_is_beyond_100_percent(counts: list[int]) -> None:
    run = [candidate(n, 1 - 0.001 * i, plan_id=str(n)) for i, n in enumerate(reversed(counts))]
    figure = drawn(run)
    assert flaws(figure) == []
    axes = figure.axes[0]
    names = [t.get_text() for t in axes.get_xticklabels()]
    assert len(set(names)) == len(names) >= (3 if max(counts) > 2 else 1)
    assert all(0 <= tick <= 100 for tick in axes.get_yticks())
