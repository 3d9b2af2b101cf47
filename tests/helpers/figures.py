"""Frontier figures drawn for tests, and where their parts are, in pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from deepreduce.candidate import Candidate
from deepreduce.frontier import pareto_front
from deepreduce.report.figures.frontier import PublishedPoint, frontier_figure

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


def assert_well_drawn(candidates: Sequence[Candidate], figure: Figure) -> None:
    assert flaws(figure) == []
    front = pareto_front(candidates)
    assert labels_of(figure).keys() == {c.plan_id for c in [*front, *(c for c in candidates if c.is_teacher)]}


def holds(box: Box, x: float, y: float) -> bool:
    return box[0] < x < box[2] and box[1] < y < box[3]
