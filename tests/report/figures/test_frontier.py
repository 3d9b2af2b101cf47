"""The frontier's figure: what it shows, and that nothing in it collides, measured where it is drawn."""

from __future__ import annotations

import random

import pytest

from deepreduce.errors import UserError
from deepreduce.report.figures.frontier import PublishedPoint, figure_bytes, frontier_figure
from tests.helpers.figures import assert_well_drawn, drawn, flaws, labels_of, line_of
from tests.helpers.report_examples import candidate, failed, random_run, teacher


def published_points(count: int, seed: int = 0) -> list[PublishedPoint]:
    draw = random.Random(seed)
    return [
        PublishedPoint(
            method=draw.choice(["DeepReDuce", "SNL", "SENet", "a method whose name is rather long"]),
            year=2021,
            dataset="CIFAR-100",
            backbone="ResNet18",
            relu_count=round(10 ** draw.uniform(4, 6)),
            test_accuracy=draw.uniform(0.6, 0.8),
            latency_s=None,
            source="made up",
        )
        for _ in range(count)
    ]


# -- nothing collides ---------------------------------------------------------------------------------------


def test_the_measure_sees_collisions() -> None:
    figure = drawn([teacher(), candidate(1000, 0.5, plan_id="p")])
    assert flaws(figure) == []
    figure.text(0.99, 0.5, "out of the figure")
    x, y = figure.transFigure.inverted().transform(figure.axes[0].transData.transform((1000, 50)))
    figure.text(float(x), float(y), "on a marker")
    found = " ".join(flaws(figure))
    assert "'out of the figure' leaves the figure" in found
    assert "'on a marker' on the frontier" in found


@pytest.mark.parametrize("size", [0, 1, 2, 5, 9, 14, 20])
def test_nothing_collides_or_leaves_the_figure(size: int) -> None:
    run = random_run(size, size=size)
    assert_well_drawn(run, drawn(run))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_collides_where_published_points_are_drawn_too(seed: int) -> None:
    run = random_run(seed, size=8)
    assert_well_drawn(run, drawn(run, published=published_points(30, seed)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 220))
def test_nothing_collides_in_many_figures(seed: int) -> None:
    draw = random.Random(seed)
    run = random_run(seed, size=draw.randint(0, 22))
    published = published_points(draw.choice([0, 0, 5, 60]), seed)
    assert_well_drawn(run, drawn(run, published=published, width_inches=draw.choice([5.0, 6.5, 8.0, 10.0])))


@pytest.mark.parametrize("label", ["", "cull $S_1$ & <b>", "x" * 200, "a\nb", "löschen ½, Größe 0.5"])
def test_any_label_can_be_drawn(label: str) -> None:
    run = [teacher(), candidate(1000, 0.5, label, plan_id="p")]
    assert_well_drawn(run, drawn(run))


# -- what it shows ------------------------------------------------------------------------------------------


def test_the_line_runs_through_the_front_in_order_of_relus_and_shows_test_accuracy() -> None:
    run = [
        teacher(),
        candidate(2000, 0.5, plan_id="b", val_accuracy=0.6),
        candidate(1000, 0.7, plan_id="a", val_accuracy=0.4),
        candidate(1500, 0.65, plan_id="dominated", val_accuracy=0.3),
    ]
    figure = drawn(run)
    assert line_of(figure, "frontier") == [(1000, 70), (2000, 50), (557_056, 76)]
    assert line_of(figure, "other") == [(1500, 65)]
    assert line_of(figure, "teacher") == [(557_056, 76)]
    assert figure.axes[0].get_xscale() == "log"


def test_a_teacher_off_the_front_is_marked_but_not_on_the_line() -> None:
    run = [teacher(10_000, 0.5), candidate(1000, 0.6, plan_id="better")]
    figure = drawn(run)
    assert line_of(figure, "frontier") == [(1000, 60)]
    assert line_of(figure, "teacher") == [(10_000, 50)]
    assert labels_of(figure).keys() == {"better", "teacher"}


def test_a_failed_network_is_absent() -> None:
    run = [teacher(), candidate(1000, 0.5, plan_id="p")]
    assert figure_bytes(drawn([*run, failed()]), "png") == figure_bytes(drawn(run), "png")


def test_networks_far_below_the_frontier_are_left_out_and_counted() -> None:
    run = [teacher(), candidate(200_000, 0.75, plan_id="p"), candidate(300_000, 0.10, plan_id="bad")]
    figure = drawn(run)
    assert line_of(figure, "other") == []
    note = next(t.get_text() for t in figure.texts if t.get_gid() == "note")
    assert "1 other candidate lies below the plot." in " ".join(note.split())


def test_where_nothing_was_measured_the_figure_says_so() -> None:
    figure = drawn([failed()])
    assert flaws(figure) == []
    assert "no network was measured" in [t.get_text() for t in figure.axes[0].texts]


def test_published_points_are_drawn_by_method_and_named_in_the_legend() -> None:
    points = published_points(40)
    figure = drawn(random_run(1, size=4), published=points)
    legend = next(a for a in figure.artists if a.get_gid() == "legend")
    shown = {t.get_text() for t in legend.get_texts()}  # type: ignore[attr-defined]
    for method in {p.method for p in points}:
        assert method in shown
        want = [(p.relu_count, round(100 * p.test_accuracy, 6)) for p in points if p.method == method]
        assert line_of(figure, method) == want


def test_a_point_of_the_front_without_a_measurement_and_a_narrow_figure_are_refused() -> None:
    with pytest.raises(UserError, match=r"broken .* has no measurement: the loss is not finite"):
        frontier_figure([failed()], [failed()], title="t")
    with pytest.raises(UserError, match=r"width_inches is 4\.9; a frontier needs at least 5"):
        frontier_figure([], [], title="t", width_inches=4.9)
