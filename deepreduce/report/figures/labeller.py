"""Draw the names of networks next to their points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from deepreduce.report.figures.axes import CostAxis, Spot
from deepreduce.report.figures.frame import Frame
from deepreduce.report.figures.label_placement import Placement, Surroundings, place_labels
from deepreduce.report.figures.style import DPI, GREY, INK, LABEL_SIZE, LINE_SPACING, VERMILLION

MARKER, TEACHER_MARKER, SMALL_MARKER = 6.5, 12.0, 4.5
"""Diameters of the frontier's markers, the teacher's and all others, in points of 1/72 inch."""

REACH = 0.62
"""Largest distance of a label from its point, in inches, as long as all labels fit."""

_PIXEL = DPI / 72  # pixels in a point of 1/72 inch


class Labeller:
    """A drawer of texts next to points: `anchors` are the points in the order of the texts, `line` the frontier.

    Texts avoid the markers of `anchors`, `line` and `teacher`, and those of the `faint` points if possible.
    """

    def __init__(
        self,
        frame: Frame,
        scale: CostAxis,
        *,
        anchors: Sequence[Spot],
        line: Sequence[Spot],
        faint: Sequence[Spot],
        teacher: Spot | None,
    ) -> None:
        self._frame, self._scale = frame, scale
        self._anchors, self._line, self._faint, self._teacher = anchors, line, faint, teacher

    def label(self, texts: Sequence[str], ids: Sequence[str], *, reach: float, strict: bool) -> bool:
        """Draw all texts and return True; if there is no room for one of them, draw none and return False.

        `reach` is the largest distance of a text from its point, in inches. If `strict`, texts never touch faint
        markers or the frontier's line; else they avoid them as far as possible.
        """
        placements = place_labels(
            [self._pixels(s) for s in self._anchors],
            [self._frame.ruler.extent(text, LABEL_SIZE) for text in texts],
            self._surroundings(strict=strict),
            radius=MARKER * _PIXEL / 2,
            reach=reach * DPI,
        )
        if placements is None:
            return False
        for text, plan_id, spot, placement in zip(texts, ids, self._anchors, placements, strict=True):
            self._draw(text, plan_id, spot, placement)
        return True

    def _surroundings(self, *, strict: bool) -> Surroundings:
        figure, axes = self._frame.figure, self._frame.axes
        box = axes.get_window_extent()
        right = figure.get_figwidth() * DPI
        hard = [self._box(s, MARKER * _PIXEL) for s in [*self._line, *self._anchors]]
        if self._teacher is not None:
            hard.append(self._box(self._teacher, TEACHER_MARKER * _PIXEL))
        for text in axes.texts:  # the break in the axis
            extent = text.get_window_extent()
            hard.append((float(extent.x0), float(extent.y0), float(extent.x1), float(extent.y1)))
        faint = [self._box(s, SMALL_MARKER * _PIXEL) for s in self._faint]
        segments = [(*a, *b) for a, b in itertools.pairwise(self._pixels(s) for s in self._line)]
        return Surroundings(
            hard=_array([*hard, *faint] if strict else hard),
            soft=_array([] if strict else faint),
            walls=_array(segments if strict else []),
            segments=_array([] if strict else segments),
            bounds=(float(box.x0), float(box.y0), float(right) - 0.04 * DPI, float(box.y1) + 0.08 * DPI),
            gap=2.2 * _PIXEL,
        )

    def _draw(self, text: str, plan_id: str, spot: Spot, placement: Placement) -> None:
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
        inside = (TEACHER_MARKER if at_teacher else MARKER) / 2 * DPI / 72 / length  # the part that the marker hides
        from_x, from_y = self._fraction(start_x + inside * (end_x - start_x), start_y + inside * (end_y - start_y))
        to_x, to_y = self._fraction(end_x, end_y)
        leader = Line2D([from_x, to_x], [from_y, to_y], color=GREY, linewidth=0.6, zorder=7)
        leader.set_transform(figure.transFigure)
        leader.set_gid(f"leader-{plan_id}")
        figure.add_artist(leader)

    def _fraction(self, x: float, y: float) -> tuple[float, float]:
        across, up = self._frame.figure.transFigure.inverted().transform((x, y))
        return float(across), float(up)

    def _pixels(self, spot: Spot) -> tuple[float, float]:
        x, y = self._frame.axes.transData.transform((self._scale.x(spot), spot.percent))
        return float(x), float(y)

    def _box(self, spot: Spot, diameter: float) -> tuple[float, float, float, float]:
        x, y = self._pixels(spot)
        return x - diameter / 2, y - diameter / 2, x + diameter / 2, y + diameter / 2


def _array(rows: Sequence[tuple[float, ...]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array(rows, dtype=float).reshape(-1, 4)
