"""The frontier and the networks on it as matplotlib figures.

Figures are built without pyplot, so that nothing global is touched and no display is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from deepreduce.errors import UserError
from deepreduce.frontier import measurement_of
from deepreduce.plan import Candidate
from deepreduce.report.counts import short_count
from deepreduce.report.drawing import (
    BLUE,
    DPI,
    FAINT,
    GREY,
    GRID,
    INK,
    LABEL_SIZE,
    LINE_SPACING,
    SMALL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    VERMILLION,
    Ruler,
    blank_figure,
    figure_bytes,
    one_line,
)
from deepreduce.report.labels import Placement, Surroundings, place_labels
from deepreduce.report.layers import LayerRow, layers_figure
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

_MARKER = 6.5  # diameter of a frontier point, in points of 1/72 inch
_TEACHER_MARKER = 12.0
_SMALL_MARKER = 4.5

_LEFT, _RIGHT = 0.68, 0.2  # margins in inches
_ROW = 0.19  # height of a line of small text, in inches
_LABEL_COLUMNS, _LABEL_LINES = 24, 2  # a label that needs more room is numbered
_REACH = 0.62  # furthest a label may stand from its point, in inches


@dataclass(frozen=True, kw_only=True)
class _Spot:
    """A point as drawn: ReLUs of one image, test accuracy in percent."""

    relu_count: int
    percent: float


def frontier_figure(
    candidates: Sequence[Candidate],
    front: Sequence[Candidate],
    *,
    title: str,
    published: Sequence[PublishedPoint] = (),
    width_inches: float = 8.0,
    axes_height_inches: float = 4.2,
) -> Figure:
    """Test accuracy in percent against ReLUs of one image (log axis), with the frontier drawn through.

    `front` is chosen by the caller on validation accuracy, and the figure says so. Each of its points is
    labelled with network and ReLU count; where the labels do not all fit beside their points, the points are
    numbered and a table below the plot explains the numbers. The other measured candidates are faint; failed
    ones are absent; those far below the frontier are left out and counted. A network without ReLUs stands
    left of a break in the axis. The height follows from what has to be shown. Raises `UserError` for a
    candidate of `front` without a measurement and for a width below 5 inches.
    """
    if width_inches < 5:
        raise UserError(f"width_inches is {width_inches!r}; a frontier needs at least 5 inches")
    points = sorted(front, key=lambda c: c.relu_count)
    on_front = {c.plan_id for c in points}
    spots = {c.plan_id: _spot(c) for c in points}
    teacher = next((c for c in [*points, *candidates] if c.is_teacher and c.measurement is not None), None)
    rest = [
        _spot(c) for c in candidates if c.measurement is not None and c.plan_id not in on_front and not c.is_teacher
    ]
    floor = _floor([spot.percent for spot in spots.values()], [spot.percent for spot in rest])
    others = [spot for spot in rest if spot.percent >= floor]
    literature = {
        method: [
            _Spot(relu_count=p.relu_count, percent=100 * p.test_accuracy) for p in published if p.method == method
        ]
        for method in sorted({p.method for p in published})
    }
    shown = [*spots.values(), *others, *(s for group in literature.values() for s in group)]
    if teacher is not None:
        shown.append(_spot(teacher))

    figure = blank_figure(width_inches)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    scale = _ReluAxis.of([spot.relu_count for spot in shown])
    _draw_axes(axes, scale, [spot.percent for spot in shown])
    own = [spots[c.plan_id] for c in points]
    handles = _draw_points(axes, scale, own=own, others=others, literature=literature)
    if teacher is not None:
        spot = _spot(teacher)
        handles += axes.plot(
            scale.x(spot), spot.percent, "*", color=VERMILLION, markersize=_TEACHER_MARKER, mec="white",
            mew=0.6, zorder=6, clip_on=False, label="teacher (all ReLUs)",
        )  # fmt: skip
    if not shown:
        axes.text(0.5, 0.5, "no network was measured", transform=axes.transAxes, ha="center", color=GREY)

    note = "The frontier is chosen by validation accuracy; the plot shows test accuracy."
    if literature:
        note += " Open markers are published results."
    if len(others) < len(rest):
        hidden = len(rest) - len(others)
        note += f" {hidden} other candidate{'s lie' if hidden > 1 else ' lies'} below the plot."
    frame = _Frame(figure, axes, axes_height=axes_height_inches, title=title, note=note)
    frame.add_legend(handles)
    frame.lay_out(table_rows=0)

    labelled = [c for c in points if not c.is_teacher]
    anchors = [_spot(c) for c in labelled] + ([_spot(teacher)] if teacher is not None else [])
    teacher_text = [f"teacher\n{short_count(teacher.relu_count)}"] if teacher is not None else []
    labeller = _Labeller(
        frame,
        scale,
        anchors=anchors,
        line=own,
        faint=[*others, *(s for group in literature.values() for s in group)],
        teacher=_spot(teacher) if teacher is not None else None,
    )
    wrapped = [_label_lines(c.label) for c in labelled]
    texts = [
        "\n".join([*lines, short_count(c.relu_count) if c.relu_count else "no ReLUs"])
        for lines, c in zip(wrapped, labelled, strict=True)
    ]
    ids = [c.plan_id for c in labelled] + (["teacher"] if teacher is not None else [])
    reach = _REACH * DPI
    short = all(len(lines) <= _LABEL_LINES for lines in wrapped)
    if short and labeller.label([*texts, *teacher_text], ids, reach=reach, firm=True):
        return figure
    columns = 2 if len(labelled) > 3 and width_inches >= 7 else 1
    frame.lay_out(table_rows=math.ceil(len(labelled) / columns) + 1)
    numbers = [str(i + 1) for i in range(len(labelled))] + teacher_text
    whole = 2 * width_inches * DPI
    for distance, firm in ((reach, True), (whole, True), (whole, False)):
        if labeller.label(numbers, ids, reach=distance, firm=firm):
            break
    _draw_table(frame, labelled, columns=columns)
    return figure


def _spot(candidate: Candidate) -> _Spot:
    return _Spot(relu_count=candidate.relu_count, percent=100 * measurement_of(candidate).test_accuracy)


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


@dataclass(frozen=True, kw_only=True)
class _ReluAxis:
    """A log axis of ReLU counts with a place for 0, left of `low`, where some network has none."""

    low: float
    high: float
    zero: float | None
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, relu_counts: Sequence[int]) -> _ReluAxis:
        positive = [n for n in relu_counts if n > 0] or [1000]
        # room at both ends for labels and markers
        spread = max(math.log10(max(positive) / min(positive)), 0.3)
        low, high = min(positive) / 10 ** (0.1 * spread), max(positive) * 10 ** (0.12 * spread)
        zero = low / 10 ** (0.1 * spread) if 0 in relu_counts else None
        return cls(low=low, high=high, zero=zero, ticks=_relu_ticks(low, high))

    @property
    def start(self) -> float:
        return self.low if self.zero is None else self.zero / (self.low / self.zero) ** 0.6

    def x(self, spot: _Spot) -> float:
        return float(spot.relu_count) if spot.relu_count > 0 or self.zero is None else self.zero


def _relu_ticks(low: float, high: float) -> tuple[float, ...]:
    ticks: list[float] = []
    for leading in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**d for d in decades for m in leading if low <= m * 10.0**d <= high]
        if len(ticks) >= 4:
            return tuple(ticks)
    nice = MaxNLocator(nbins=5).tick_values(low, high)
    return tuple(float(t) for t in nice if low <= t <= high) if len(ticks) < 3 else tuple(ticks)


def _draw_axes(axes: Axes, scale: _ReluAxis, percents: Sequence[float]) -> None:
    low, high = min(percents, default=0.0), max(percents, default=100.0)
    margin = max(0.09 * (high - low), 0.25)
    axes.set_xscale("log")
    axes.set_xlim(scale.start, scale.high)
    axes.set_ylim(low - margin, high + 1.6 * margin)
    places = ([] if scale.zero is None else [scale.zero]) + list(scale.ticks)
    names = ([] if scale.zero is None else ["0"]) + [short_count(t) for t in scale.ticks]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter(names))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("ReLUs for one image (log scale)", fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel("Test accuracy (%)", fontsize=TEXT_SIZE, color=INK)
    axes.tick_params(labelsize=TEXT_SIZE, colors=INK, color=GREY, length=3, width=0.7)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor("white")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
        axes.spines[side].set_linewidth(0.7)
    if scale.zero is not None:
        middle = math.sqrt(scale.zero * scale.low)
        axes.text(
            middle, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center",
            fontsize=TEXT_SIZE, color=GREY, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.2},
            clip_on=False,
        )  # fmt: skip


def _draw_points(
    axes: Axes,
    scale: _ReluAxis,
    *,
    own: Sequence[_Spot],
    others: Sequence[_Spot],
    literature: Mapping[str, Sequence[_Spot]],
) -> list[Line2D]:
    handles = []
    if own:
        handles += axes.plot(
            [scale.x(s) for s in own], [s.percent for s in own], "o-", color=BLUE, markersize=_MARKER,
            mec="white", mew=0.8, linewidth=1.6, zorder=5, clip_on=False, label="frontier",
        )  # fmt: skip
    if others:
        handles += axes.plot(
            [scale.x(s) for s in others], [s.percent for s in others], "o", color=FAINT,
            markersize=_SMALL_MARKER, mew=0, zorder=3, clip_on=False, label="other candidates",
        )  # fmt: skip
    for i, (method, group) in enumerate(literature.items()):
        handles += axes.plot(
            [scale.x(s) for s in group], [s.percent for s in group],
            _PUBLISHED_MARKERS[i % len(_PUBLISHED_MARKERS)], mfc="none", mew=0.9,
            mec=_PUBLISHED_COLOURS[i % len(_PUBLISHED_COLOURS)], markersize=_SMALL_MARKER, zorder=2,
            clip_on=False, label=method,
        )  # fmt: skip
    return handles


class _Frame:
    """The parts around the axes, and where they stand: lengths in inches, the axes of one fixed size."""

    def __init__(
        self,
        figure: Figure,
        axes: Axes,
        *,
        axes_height: float,
        title: str,
        note: str,
    ) -> None:
        self.figure, self.axes, self.ruler = figure, axes, Ruler(figure)
        self.width = float(figure.get_figwidth())
        self._axes_height = axes_height
        self._legend: Legend | None = None
        self._legend_height = 0.0
        heading = self.ruler.fitted(title, self.width - _LEFT - _RIGHT, TITLE_SIZE, weight="bold")
        self._title = figure.text(
            0, 0, heading, fontsize=TITLE_SIZE, color=INK, weight="bold", va="top", parse_math=False,
            gid="title",
        )  # fmt: skip
        lines = self.ruler.wrapped(note, self.width - _LEFT - _RIGHT, SMALL_SIZE)
        self._note_rows = len(lines)
        self._note = figure.text(
            0, 0, "\n".join(lines), fontsize=SMALL_SIZE, color=GREY, va="top", parse_math=False, gid="note"
        )
        self.table_top = 0.0

    def add_legend(self, handles: Sequence[Line2D]) -> None:
        """A legend in as few rows as fit between title and axes."""
        for columns in range(len(handles), 0, -1):
            if self._legend is not None:
                self._legend.remove()
            self._legend = Legend(
                self.axes, handles, [str(h.get_label()) for h in handles], ncols=columns, loc="upper left",
                bbox_to_anchor=(0, 0), bbox_transform=self.figure.transFigure, frameon=False,
                fontsize=LABEL_SIZE, labelcolor=INK, borderpad=0, borderaxespad=0, columnspacing=1.4,
                handletextpad=0.4, handlelength=1.6, labelspacing=0.35,
            )  # fmt: skip
            self._legend.set_gid("legend")
            self.figure.add_artist(self._legend)
            box = self._legend.get_window_extent()
            self._legend_height = float(box.height) / DPI
            if box.width <= (self.width - _LEFT - _RIGHT) * DPI:
                return

    def lay_out(self, *, table_rows: int) -> None:
        """Sets the figure's height and every part's place, with room below for a table of so many rows."""
        head = 0.14 + 0.26 + (self._legend_height + 0.16 if self._legend is not None else 0.06)
        foot = 0.62 + 0.155 * self._note_rows
        table = 0.12 + _ROW * table_rows if table_rows else 0.0
        height = head + self._axes_height + foot + table
        self.figure.set_size_inches(self.width, height)
        base = foot + table
        self.axes.set_position(
            (
                _LEFT / self.width,
                base / height,
                (self.width - _LEFT - _RIGHT) / self.width,
                self._axes_height / height,
            )
        )
        left = _LEFT / self.width
        self._title.set_position((left, 1 - 0.14 / height))
        if self._legend is not None:
            self._legend.set_bbox_to_anchor((left, 1 - 0.44 / height), transform=self.figure.transFigure)
        self._note.set_position((left, (base - 0.52) / height))
        self.table_top = table
        self.axes.xaxis.labelpad = 3

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Inches from the lower left corner as fractions of the figure."""
        return x / self.width, y / float(self.figure.get_figheight())


class _Labeller:
    """Puts texts beside points. `anchors` are the points, in the order of the texts."""

    def __init__(
        self,
        frame: _Frame,
        scale: _ReluAxis,
        *,
        anchors: Sequence[_Spot],
        line: Sequence[_Spot],
        faint: Sequence[_Spot],
        teacher: _Spot | None,
    ) -> None:
        self._frame, self._scale = frame, scale
        self._anchors, self._line, self._faint, self._teacher = anchors, line, faint, teacher

    def label(self, texts: Sequence[str], ids: Sequence[str], *, reach: float, firm: bool) -> bool:
        """Draws all the texts, or none and returns False where they find no place.

        `reach` in pixels; `firm` also keeps faint markers free altogether, else only if possible.
        """
        figure = self._frame.figure
        pixel = DPI / 72
        box = self._frame.axes.get_window_extent()
        right = figure.get_figwidth() * DPI
        strong = [self._box(s, _MARKER * pixel) for s in [*self._line, *self._anchors]]
        if self._teacher is not None:
            strong.append(self._box(self._teacher, _TEACHER_MARKER * pixel))
        faint = [self._box(s, _SMALL_MARKER * pixel) for s in self._faint]
        course = [self._pixels(s) for s in self._line]
        segments = [(*a, *b) for a, b in itertools.pairwise(course)]
        placements = place_labels(
            [self._pixels(s) for s in self._anchors],
            [self._frame.ruler.extent(text, LABEL_SIZE) for text in texts],
            Surroundings(
                hard=_array([*strong, *faint] if firm else strong),
                soft=_array([] if firm else faint),
                segments=_array(segments),
                bounds=(float(box.x0), float(box.y0), float(right), float(box.y1) + 0.08 * DPI),
                gap=2.2 * pixel,
            ),
            radius=_MARKER * pixel / 2,
            reach=reach,
        )
        if placements is None:
            return False
        for text, plan_id, spot, placement in zip(texts, ids, self._anchors, placements, strict=True):
            self._draw(text, plan_id, spot, placement)
        return True

    def _draw(self, text: str, plan_id: str, spot: _Spot, placement: Placement) -> None:
        figure = self._frame.figure
        x0, y0, x1, _ = placement.box
        anchor_x, _ = self._pixels(spot)
        align: Literal["left", "right", "center"] = "center"
        if anchor_x >= x0 + 0.7 * (x1 - x0):
            align = "right"
        elif anchor_x <= x0 + 0.3 * (x1 - x0):
            align = "left"
        x = {"left": x0, "right": x1, "center": (x0 + x1) / 2}[align]
        at_teacher = spot == self._teacher and plan_id == "teacher"
        label_x, label_y = self._fraction(x, y0)
        figure.text(
            label_x, label_y, text, fontsize=LABEL_SIZE, color=VERMILLION if at_teacher else INK, ha=align,
            va="bottom", multialignment=align, linespacing=LINE_SPACING, parse_math=False, zorder=8,
            gid=f"label-{plan_id}", path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        if placement.leader is None:
            return
        start_x, start_y, end_x, end_y = placement.leader
        length = math.hypot(end_x - start_x, end_y - start_y)
        inside = (_TEACHER_MARKER if at_teacher else _MARKER) / 2 * DPI / 72 / length  # hidden by the marker
        from_x, from_y = self._fraction(start_x + inside * (end_x - start_x), start_y + inside * (end_y - start_y))
        to_x, to_y = self._fraction(end_x, end_y)
        leader = Line2D([from_x, to_x], [from_y, to_y], color=GREY, linewidth=0.6, zorder=7)
        leader.set_transform(figure.transFigure)
        leader.set_gid(f"leader-{plan_id}")
        figure.add_artist(leader)

    def _fraction(self, x: float, y: float) -> tuple[float, float]:
        across, up = self._frame.figure.transFigure.inverted().transform((x, y))
        return float(across), float(up)

    def _pixels(self, spot: _Spot) -> tuple[float, float]:
        x, y = self._frame.axes.transData.transform((self._scale.x(spot), spot.percent))
        return float(x), float(y)

    def _box(self, spot: _Spot, diameter: float) -> tuple[float, float, float, float]:
        x, y = self._pixels(spot)
        return x - diameter / 2, y - diameter / 2, x + diameter / 2, y + diameter / 2


def _array(rows: Sequence[tuple[float, ...]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array(rows, dtype=float).reshape(-1, 4)


def _draw_table(frame: _Frame, labelled: Sequence[Candidate], *, columns: int) -> None:
    """The numbers' meaning below the plot: number, network, ReLUs, test accuracy."""
    rows = math.ceil(len(labelled) / columns)
    space = 0.35
    block = (frame.width - _LEFT - _RIGHT - space * (columns - 1)) / columns
    for column in range(min(columns, math.ceil(len(labelled) / max(rows, 1)))):
        left = _LEFT + column * (block + space)
        top = frame.table_top - 0.08
        part = labelled[column * rows : (column + 1) * rows]
        _table_line(frame, left, top, block, ("", "network", "ReLUs", "test %"), weight="bold")
        for i, candidate in enumerate(part):
            cells = (
                str(column * rows + i + 1),
                frame.ruler.fitted(candidate.label, block - 0.24 - 1.1, SMALL_SIZE),
                short_count(candidate.relu_count),
                f"{100 * measurement_of(candidate).test_accuracy:.1f}",
            )
            _table_line(frame, left, top - (i + 1) * _ROW, block, cells)


def _table_line(
    frame: _Frame,
    left: float,
    y: float,
    block: float,
    cells: tuple[str, str, str, str],
    *,
    weight: str = "normal",
) -> None:
    aligns: tuple[Literal["left", "right"], ...] = ("right", "left", "right", "right")
    places = (left + 0.14, left + 0.24, left + block - 0.52, left + block)
    for text, x, align in zip(cells, places, aligns, strict=True):
        frame.figure.text(
            *frame.at(x, y), text, fontsize=SMALL_SIZE, ha=align, va="top", color=INK, weight=weight,
            parse_math=False, gid="table",
        )  # fmt: skip
