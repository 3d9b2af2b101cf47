"""The frontier and the networks on it as matplotlib figures.

Figures are built without pyplot, so that nothing global is touched and no display is needed.
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

_LABEL_COLUMNS, _LABEL_LINES = 24, 2  # a label that needs more room is numbered


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
    """Test accuracy in percent against what one image costs (log axis), with the frontier drawn through.

    `front` is chosen by the caller on validation accuracy, and the figure says so. Each of its points is
    labelled with network and cost; where the labels do not all fit beside their points, the points are
    numbered and a table below the plot explains the numbers. The other measured candidates are faint; failed
    ones are absent, as are those whose cost is not known; those far below the frontier are left out and counted.
    A network without ReLUs stands left of a break in their axis. `published` points are drawn where ReLUs are the
    objective. The height follows from what has to be shown. Raises `UserError` for a candidate of `front` without a
    measurement or cost and for a width below 5 inches.
    """
    if width_inches < 5:
        raise UserError(f"width_inches is {width_inches!r}; a frontier needs at least 5 inches")
    content = _Content.of(candidates, front, published if objective.name == RELUS else (), objective)
    figure = blank_figure(width_inches)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    scale = CostAxis.of([spot.cost for spot in content.shown], objective)
    draw_axes(axes, scale, [spot.percent for spot in content.shown])
    handles = _draw_points(axes, scale, content)
    frame = Frame(figure, axes, axes_height=axes_height_inches, title=title, note=content.note)
    frame.add_legend(handles)
    frame.lay_out(table_rows=0)
    _draw_labels(frame, scale, content)
    if not content.shown:
        axes.text(0.5, 0.5, "no network was measured", transform=axes.transAxes, ha="center", color=GREY)
    return figure


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What the plot shows: `points` of the frontier by cost, `others` near it, `hidden` ones below it."""

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
    def own(self) -> list[Spot]:
        return [_spot(c, self.objective) for c in self.points]

    @property
    def star(self) -> Spot | None:
        return None if self.teacher is None else _spot(self.teacher, self.objective)

    @property
    def faint(self) -> list[Spot]:
        return [*self.others, *(spot for group in self.literature.values() for spot in group)]

    @property
    def shown(self) -> list[Spot]:
        return [*self.own, *self.faint, *([] if self.star is None else [self.star])]

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
    """The label in lines of at most `_LABEL_COLUMNS`, broken between the parts of a plan where possible."""
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
    """The percentage below which other candidates would only squeeze the frontier together."""
    if not front:
        return min(others, default=0.0)
    return min(front) - max(0.6 * (max(front) - min(front)), 3.0)


def _draw_points(axes: Axes, scale: CostAxis, content: _Content) -> list[Line2D]:
    """All the markers and the frontier's line; returns what the legend explains."""
    own, others, literature = content.own, content.others, content.literature
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
    spot = content.star
    if spot is not None:
        handles += axes.plot(
            scale.x(spot), spot.percent, "*", color=VERMILLION, markersize=TEACHER_MARKER, mec="white",
            mew=0.6, zorder=6, clip_on=False, label="teacher (all ReLUs)",
        )  # fmt: skip
    return handles


def _draw_labels(frame: Frame, scale: CostAxis, content: _Content) -> None:
    """Names beside the points, or numbers and a table where the names find no place."""
    objective = content.objective
    named = [c for c in content.points if not c.is_teacher]
    anchored = [*named, *([] if content.teacher is None else [content.teacher])]
    labeller = Labeller(
        frame,
        scale,
        anchors=[_spot(c, objective) for c in anchored],
        line=content.own,
        faint=content.faint,
        teacher=content.star,
    )
    ids = [c.plan_id for c in anchored]
    last = [] if content.star is None else [f"teacher\n{objective.short(content.star.cost)}"]
    wrapped = [_label_lines(c.label) for c in named]
    if all(len(lines) <= _LABEL_LINES for lines in wrapped):
        costs = [objective.cost(c) for c in named]
        counts = [objective.short(cost) if cost else f"no {objective.noun}" for cost in costs]
        texts = ["\n".join([*lines, count]) for lines, count in zip(wrapped, counts, strict=True)]
        if labeller.label([*texts, *last], ids, reach=REACH, strict=True):
            return
    columns = table_columns(frame, named)
    frame.lay_out(table_rows=table_rows(named, columns=columns))
    numbers = [str(i + 1) for i in range(len(named))]
    for reach, strict in ((REACH, True), (2 * frame.width, True), (2 * frame.width, False)):
        if labeller.label([*numbers, *last], ids, reach=reach, strict=strict):
            break
    draw_table(frame, named, columns=columns, objective=objective)
