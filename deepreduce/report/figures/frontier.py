"""The frontier figure: accuracy against cost, with the networks on the front named.

Figures are built without pyplot, which would need a display and change global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import COUNT_OF_RELUS, RELUS, Objective
from deepreduce.errors import UserError
from deepreduce.frontier import measurement_of
from deepreduce.report.figures.axes import CostAxis, Spot, draw_axes
from deepreduce.report.figures.frame import Frame, draw_table, table_columns, table_rows
from deepreduce.report.figures.labeller import MARKER, REACH, SMALL_MARKER, TEACHER_MARKER, Labeller
from deepreduce.report.figures.layers import LayerRow, layers_figure
from deepreduce.report.figures.style import BLUE, FAINT, GREY, VERMILLION, blank_figure, figure_bytes, one_line
from deepreduce.report.published import PublishedPoint, read_published_csv, select_published

__all__ = [
    "LayerRow",
    "PublishedPoint",
    "figure_bytes",
    "frontier_figure",
    "layers_figure",
    "read_published_csv",
    "select_published",
]

_PUBLISHED_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F6A3D")
_PUBLISHED_MARKERS = ("s", "^", "v", "D", "P", "X", "<", ">", "p", "h")

_LABEL_COLUMNS, _LABEL_LINES = 24, 2  # a longer label is replaced by a number


def frontier_figure(
    candidates: Sequence[Candidate],
    front: Sequence[Candidate],
    *,
    title: str,
    published: Sequence[PublishedPoint] = (),
    width_inches: float = 8.0,
    axes_height_inches: float = 4.2,
    objective: Objective = COUNT_OF_RELUS,
) -> Figure:
    """Return a figure of test accuracy (percent) against the cost of one image (log axis), the frontier as a line.

    The caller chooses `front` by validation accuracy, and the figure says so. Each point of the front is labelled
    with network and cost; if the labels do not all fit next to their points, the points are numbered and a table
    below the plot explains the numbers. Other measured candidates are faint; those far below the frontier are left
    out and counted. Failed candidates and those of unknown cost are absent. A network without ReLUs is drawn left of
    a break in the axis of ReLUs. `published` points are drawn if the objective is ReLUs. The height depends on the
    content. Raises `UserError` for a candidate of `front` without a measurement or cost, and for a width below 5
    inches.
    """
    if width_inches < 5:
        raise UserError(f"width_inches is {width_inches!r}; a frontier needs at least 5 inches")
    content = _Content.of(candidates, front, published if objective.name == RELUS else (), objective)
    figure = blank_figure(width_inches)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    scale = CostAxis.of([spot.cost for spot in content.spots], objective)
    draw_axes(axes, scale, [spot.percent for spot in content.spots])
    handles = _draw_points(axes, scale, content)
    frame = Frame(figure, axes, axes_height=axes_height_inches, title=title, note=content.note)
    frame.add_legend(handles)
    frame.lay_out(table_rows=0)
    _draw_labels(frame, scale, content)
    if not content.spots:
        axes.text(0.5, 0.5, "no network was measured", transform=axes.transAxes, ha="center", color=GREY)
    return figure


@dataclass(frozen=True, kw_only=True)
class _Content:
    """The plot's content: candidates on the front by cost, `others` near it, the number of `hidden` ones below it.

    `literature` maps a method to its published points.
    """

    objective: Objective

    points: Sequence[Candidate]
    teacher: Candidate | None
    others: Sequence[Spot]
    hidden: int
    literature: Mapping[str, Sequence[Spot]]

    @classmethod
    def of(
        cls,
        candidates: Sequence[Candidate],
        front: Sequence[Candidate],
        published: Sequence[PublishedPoint],
        objective: Objective,
    ) -> _Content:
        points = sorted(front, key=objective.cost)
        on_front = {c.plan_id for c in points}
        measured = [c for c in candidates if c.measurement is not None and objective.knows(c)]
        rest = [_spot(c, objective) for c in measured if c.plan_id not in on_front and not c.is_teacher]
        floor = _floor([_spot(c, objective).percent for c in points], [spot.percent for spot in rest])
        others = [spot for spot in rest if spot.percent >= floor]
        literature: dict[str, list[Spot]] = {method: [] for method in sorted({p.method for p in published})}
        for p in published:
            literature[p.method].append(Spot(cost=p.relu_count, percent=100 * p.test_accuracy))
        return cls(
            objective=objective,
            points=points,
            teacher=next((c for c in [*points, *measured] if c.is_teacher), None),
            others=others,
            hidden=len(rest) - len(others),
            literature=literature,
        )

    @property
    def front_spots(self) -> list[Spot]:
        return [_spot(c, self.objective) for c in self.points]

    @property
    def teacher_spot(self) -> Spot | None:
        return None if self.teacher is None else _spot(self.teacher, self.objective)

    @property
    def background_spots(self) -> list[Spot]:
        return [*self.others, *(spot for group in self.literature.values() for spot in group)]

    @property
    def spots(self) -> list[Spot]:
        teacher = [] if self.teacher_spot is None else [self.teacher_spot]
        return [*self.front_spots, *self.background_spots, *teacher]

    @property
    def note(self) -> str:
        note = "The frontier is chosen by validation accuracy; the plot shows test accuracy."
        if self.literature:
            note += " Open markers are published results."
        if self.hidden:
            lie = "candidates lie" if self.hidden > 1 else "candidate lies"
            note += f" {self.hidden} other {lie} below the plot."
        return note


def _spot(candidate: Candidate, objective: Objective) -> Spot:
    return Spot(cost=objective.cost(candidate), percent=100 * measurement_of(candidate).test_accuracy)


def _label_lines(label: str) -> list[str]:
    """Break a label between the parts of a plan into lines of `_LABEL_COLUMNS`; too many if a part is longer."""
    lines: list[str] = []
    for part in one_line(label).split(", "):
        if lines and len(lines[-1]) + len(part) + 2 <= _LABEL_COLUMNS:
            lines[-1] += f", {part}"
        elif part:
            lines = [*lines[:-1], *(f"{line}," for line in lines[-1:]), part]
    if any(len(line) > _LABEL_COLUMNS + 1 for line in lines):
        return [one_line(label)] * (_LABEL_LINES + 1)
    return lines


def _floor(front: Sequence[float], others: Sequence[float]) -> float:
    """Return the test accuracy, in percent, below which drawing other candidates would only flatten the frontier."""
    if not front:
        return min(others, default=0.0)
    return min(front) - max(0.6 * (max(front) - min(front)), 3.0)


def _draw_points(axes: Axes, scale: CostAxis, content: _Content) -> list[Line2D]:
    """Draw all markers and the frontier's line, and return the handles of the legend."""
    own, others, literature = content.front_spots, content.others, content.literature
    handles = []
    if own:
        handles += axes.plot(
            [scale.x(s) for s in own], [s.percent for s in own], "o-", color=BLUE, markersize=MARKER,
            mec="white", mew=0.8, linewidth=1.6, zorder=5, clip_on=False, label="frontier",
        )  # fmt: skip
    if others:
        handles += axes.plot(
            [scale.x(s) for s in others], [s.percent for s in others], "o", color=FAINT,
            markersize=SMALL_MARKER, mew=0, zorder=3, clip_on=False, label="other candidates",
        )  # fmt: skip
    for i, (method, group) in enumerate(literature.items()):
        handles += axes.plot(
            [scale.x(s) for s in group], [s.percent for s in group],
            _PUBLISHED_MARKERS[i % len(_PUBLISHED_MARKERS)], mfc="none", mew=0.9,
            mec=_PUBLISHED_COLOURS[i % len(_PUBLISHED_COLOURS)], markersize=SMALL_MARKER, zorder=2,
            clip_on=False, label=method,
        )  # fmt: skip
    spot = content.teacher_spot
    if spot is not None:
        handles += axes.plot(
            scale.x(spot), spot.percent, "*", color=VERMILLION, markersize=TEACHER_MARKER, mec="white",
            mew=0.6, zorder=6, clip_on=False, label="teacher (all ReLUs)",
        )  # fmt: skip
    return handles


def _draw_labels(frame: Frame, scale: CostAxis, content: _Content) -> None:
    """Draw names next to the points, or numbers and a table if there is no room for the names."""
    objective = content.objective
    named = [c for c in content.points if not c.is_teacher]
    anchored = [*named, *([] if content.teacher is None else [content.teacher])]
    labeller = Labeller(
        frame,
        scale,
        anchors=[_spot(c, objective) for c in anchored],
        line=content.front_spots,
        faint=content.background_spots,
        teacher=content.teacher_spot,
    )
    ids = [c.plan_id for c in anchored]
    last = [] if content.teacher_spot is None else [f"teacher\n{objective.short(content.teacher_spot.cost)}"]
    labels = [_label_lines(c.label) for c in named]
    if all(len(lines) <= _LABEL_LINES for lines in labels):
        costs = [objective.cost(c) for c in named]
        counts = [objective.short(cost) if cost else f"no {objective.noun}" for cost in costs]
        texts = ["\n".join([*lines, count]) for lines, count in zip(labels, counts, strict=True)]
        if labeller.label([*texts, *last], ids, reach=REACH, strict=True):
            return
    columns = table_columns(frame, named)
    frame.lay_out(table_rows=table_rows(named, columns=columns))
    numbers = [str(i + 1) for i in range(len(named))]
    for reach, strict in ((REACH, True), (2 * frame.width, True), (2 * frame.width, False)):
        if labeller.label([*numbers, *last], ids, reach=reach, strict=strict):
            break
    draw_table(frame, named, columns=columns, objective=objective)
