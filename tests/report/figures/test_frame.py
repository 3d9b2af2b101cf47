"""What is around the axes: the title, and the table of numbered networks."""

from __future__ import annotations

import pytest

from tests.helpers.figures import drawn, flaws, labels_of, table_of
from tests.helpers.report_examples import candidate, random_run, teacher

LONG = "cull S1 S4 S2, thin (keep last), alpha 0.5 rho 0.5 depth 1-1-1-1 and then some"


@pytest.mark.parametrize("size", [1, 4, 20])
def test_networks_with_long_names_are_numbered_and_named_in_a_table(size: int) -> None:
    run = [teacher()]
    run += [candidate(1000 * 2**i, 0.3 + 0.02 * i, f"{LONG} {i}", plan_id=f"p{i}") for i in range(size)]
    run = [*run[:1], *sorted(run[1:], key=lambda c: c.relu_count)]
    figure = drawn(run, run)
    assert flaws(figure) == []
    assert [labels_of(figure)[f"p{i}"] for i in range(size)] == [str(i + 1) for i in range(size)]
    cells = table_of(figure)
    for i in range(size):
        # cut where the table has two columns
        assert cells[cells.index(str(i + 1)) + 1].startswith("cull S1 S4 S2, thin (keep")


def test_a_name_that_fits_one_column_of_the_table_is_not_cut() -> None:
    run = [candidate(1000 * 2**i, 0.3 + 0.02 * i, LONG, plan_id=f"p{i}") for i in range(6)]
    assert table_of(drawn(run)).count(LONG) == len(run)


def test_a_long_title_is_cut_within_the_figure() -> None:
    run = random_run(1, size=3)
    figure = drawn(run, title="a title " * 40)
    assert flaws(figure) == []
    assert next(t.get_text() for t in figure.texts if t.get_gid() == "title").endswith("…")
