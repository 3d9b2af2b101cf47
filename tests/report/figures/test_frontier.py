"""The frontier's figure: what it shows, and that nothing in it collides, measured where it is drawn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from deepreduce.candidate import Candidate
from deepreduce.errors import UserError
from deepreduce.frontier import pareto_front
from deepreduce.report.figures.frontier import PublishedPoint, figure_bytes, frontier_figure
from tests.helpers.report_examples import candidate, failed, random_run, teacher

Box = tuple[float, float, float, float]
SLACK = 0.5  # pixels that two boxes may share by rounding


def drawn(
    candidates: Sequence[Candidate],
    front: Sequence[Candidate] | None = None,
    *,
    title: str = "resnet18 on digits",
    published: Sequence[PublishedPoint] = (),
    width_inches: float = 8.0,
) -> Figure:
    shown = pareto_front(candidates) if front is None else front
    figure = frontier_figure(candidates, shown, title=title, published=published, width_inches=width_inches)
    figure.canvas.draw()
    return figure


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


# -- measuring ----------------------------------------------------------------------------------------------


def extent(artist: Text) -> Box:
    box = artist.get_window_extent()
    return float(box.x0), float(box.y0), float(box.x1), float(box.y1)


def texts_of(figure: Figure) -> Iterator[tuple[str, Box]]:
    """Every text that the figure shows, and the legend as a whole, with its box in pixels."""
    axes = figure.axes[0]
    ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    for text in [*figure.texts, *axes.texts, axes.xaxis.label, axes.yaxis.label, *ticks]:
        if text.get_text().strip() and text.get_visible():
            yield text.get_text(), extent(text)
    for artist in figure.artists:
        if artist.get_gid() == "legend":
            box = artist.get_window_extent()
            yield "legend", (float(box.x0), float(box.y0), float(box.x1), float(box.y1))


def markers_of(figure: Figure) -> Iterator[tuple[str, Box]]:
    """The markers of frontier and teacher with their boxes in pixels."""
    axes = figure.axes[0]
    for line in axes.lines:
        name = str(line.get_label())
        if name == "frontier" or name.startswith("teacher"):
            radius = line.get_markersize() / 2 * figure.dpi / 72
            # the star's points reach out, its box's corners are empty
            radius *= 0.8
            for x, y in axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()])):
                yield name, (x - radius, y - radius, x + radius, y + radius)


def overlaps(a: Box, b: Box) -> bool:
    return (
        min(a[2], b[2]) - max(a[0], b[0]) > SLACK  # across
        and min(a[3], b[3]) - max(a[1], b[1]) > SLACK  # and up
    )


def flaws(figure: Figure) -> list[str]:
    """Every collision of two texts or of a text with a marker, and every text that leaves the figure."""
    texts, markers = list(texts_of(figure)), list(markers_of(figure))
    found = [f"{a!r} on {b!r}" for (a, box), (b, other) in itertools.combinations(texts, 2) if overlaps(box, other)]
    found += [f"{a!r} on the {b}" for a, box in texts for b, other in markers if overlaps(box, other)]
    width, height = figure.get_size_inches() * figure.dpi
    for text, (x0, y0, x1, y1) in texts:
        if x0 < -SLACK or y0 < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
            found.append(f"{text!r} leaves the figure")
    return found


def labels_of(figure: Figure) -> dict[str, str]:
    found = {str(t.get_gid()): t.get_text() for t in figure.texts if str(t.get_gid()).startswith("label-")}
    return {gid.removeprefix("label-"): text for gid, text in found.items()}


def table_of(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.texts if t.get_gid() == "table"]


def line_of(figure: Figure, label: str) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[0].lines if str(line.get_label()).startswith(label)]
    data = [np.column_stack([line.get_xdata(), line.get_ydata()]) for line in lines]
    return [(round(float(x), 6), round(float(y), 6)) for x, y in np.concatenate([np.empty((0, 2)), *data])]


# -- nothing collides ---------------------------------------------------------------------------------------


def assert_well_drawn(candidates: Sequence[Candidate], figure: Figure) -> None:
    assert flaws(figure) == []
    front = pareto_front(candidates)
    assert labels_of(figure).keys() == {c.plan_id for c in [*front, *(c for c in candidates if c.is_teacher)]}


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


def test_a_label_without_a_line_to_its_point_is_nearest_to_its_own() -> None:
    for seed in range(4):
        run = random_run(seed, size=12)
        figure = drawn(run)
        leaders = {str(a.get_gid()).removeprefix("leader-") for a in figure.artists}
        axes = figure.axes[0]
        points = {c.plan_id: c for c in run if c.plan_id in labels_of(figure) and c.relu_count}
        at = {
            plan_id: axes.transData.transform((c.relu_count, 100 * c.measurement.test_accuracy))
            for plan_id, c in points.items()
            if c.measurement
        }
        for text in figure.texts:
            plan_id = str(text.get_gid()).removeprefix("label-")
            if plan_id in at and plan_id not in leaders:
                x0, y0, x1, y1 = extent(text)
                away = {
                    other: float(np.hypot(x - np.clip(x, x0, x1), y - np.clip(y, y0, y1)))
                    for other, (x, y) in at.items()
                }
                assert away[plan_id] == min(away.values()), (seed, text.get_text())


def test_names_that_fit_stand_beside_their_points_and_the_frontier_runs_through_none() -> None:
    counts = [(557_056, 0.76), (229_376, 0.755), (114_688, 0.747), (57_344, 0.727), (28_672, 0.683), (14_336, 0.63)]
    run = [teacher(*counts[0])]
    run += [candidate(n, a, "cull S1, thin, alpha 0.5", plan_id=str(n)) for n, a in counts[1:]]
    figure = drawn(run)
    assert labels_of(figure)["57344"].replace("\n", " ") == "cull S1, thin, alpha 0.5 57.3K"
    assert labels_of(figure)["teacher"] == "teacher\n557.1K"
    assert table_of(figure) == []
    course = figure.axes[0].transData.transform(line_of(figure, "frontier"))
    for a, b in itertools.pairwise(course):
        for step in np.linspace(0, 1, 200):
            x, y = a + step * (b - a)
            inside = [
                t for t in figure.texts if t.get_gid() and "label" in str(t.get_gid()) and holds(extent(t), x, y)
            ]
            assert not inside


def holds(box: Box, x: float, y: float) -> bool:
    return box[0] < x < box[2] and box[1] < y < box[3]


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


def test_where_nothing_was_measured_the_figure_says_so() -> None:
    figure = drawn([failed()])
    assert flaws(figure) == []
    assert "no network was measured" in [t.get_text() for t in figure.axes[0].texts]


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


# -- its bytes ----------------------------------------------------------------------------------------------


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
