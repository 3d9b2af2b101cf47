"""The parts around the axes of a frontier figure: title, legend, note, and a table below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import Objective
from deepreduce.frontier import measurement_of
from deepreduce.report.figures.style import DPI, GREY, INK, LABEL_SIZE, SMALL_SIZE, TITLE_SIZE, Ruler, one_line

_LEFT, _RIGHT = 0.68, 0.2  # margins in inches
_ROW = 0.19  # height of a line of the table, in inches
_GUTTER = 0.35  # between two columns of the table, in inches


class Frame:
    """The title, legend and note around axes of a fixed size, and their positions; lengths are in inches."""

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
        heading = self.ruler.fit(title, self.width - _LEFT - _RIGHT, TITLE_SIZE, weight="bold")
        self._title = figure.text(
            0, 0, heading, fontsize=TITLE_SIZE, color=INK, weight="bold", va="top", parse_math=False,
            gid="title",
        )  # fmt: skip
        lines = self.ruler.wrap(note, self.width - _LEFT - _RIGHT, SMALL_SIZE)
        self._note_rows = len(lines)
        self._note = figure.text(
            0, 0, "\n".join(lines), fontsize=SMALL_SIZE, color=GREY, va="top", parse_math=False, gid="note"
        )
        self.table_top = 0.0

    def add_legend(self, handles: Sequence[Line2D]) -> None:
        """Add a legend between title and axes, in as few rows as fit the figure's width."""
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
        """Set the figure's height and the position of every part, with room below for a table of `table_rows`."""
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
        """Return inches from the lower left corner as fractions of the figure."""
        return x / self.width, y / float(self.figure.get_figheight())


def table_columns(frame: Frame, listed: Sequence[Candidate]) -> int:
    """Return 2 if the networks' names fit into half the width, or if one column would have too many rows; else 1."""
    room = _name_room(frame, 2)
    fit = all(frame.ruler.fit(c.label, room, SMALL_SIZE) == one_line(c.label) for c in listed)
    return 2 if len(listed) > 12 or (len(listed) > 3 and fit) else 1


def table_rows(listed: Sequence[Candidate], *, columns: int) -> int:
    """Return the number of lines of the table, including its heading."""
    return math.ceil(len(listed) / columns) + 1


def draw_table(frame: Frame, listed: Sequence[Candidate], *, columns: int, objective: Objective) -> None:
    """Draw the table below the plot that explains the numbers: number, network, cost, test accuracy."""
    rows = table_rows(listed, columns=columns) - 1
    block = _block(frame, columns)
    for column in range(math.ceil(len(listed) / rows)):
        left = _LEFT + column * (block + _GUTTER)
        top = frame.table_top - 0.08
        _draw_row(frame, left, top, block, ("", "network", objective.noun, "test %"), weight="bold")
        for i, candidate in enumerate(listed[column * rows : (column + 1) * rows]):
            cells = (
                str(column * rows + i + 1),
                frame.ruler.fit(candidate.label, _name_room(frame, columns), SMALL_SIZE),
                objective.short(objective.cost(candidate)),
                f"{100 * measurement_of(candidate).test_accuracy:.1f}",
            )
            _draw_row(frame, left, top - (i + 1) * _ROW, block, cells)


def _block(frame: Frame, columns: int) -> float:
    return (frame.width - _LEFT - _RIGHT - _GUTTER * (columns - 1)) / columns


def _name_room(frame: Frame, columns: int) -> float:
    return _block(frame, columns) - 0.24 - 1.1


def _draw_row(
    frame: Frame, left: float, y: float, block: float, cells: tuple[str, str, str, str], *, weight: str = "normal"
) -> None:
    aligns: tuple[Literal["left", "right"], ...] = ("right", "left", "right", "right")
    places = (left + 0.14, left + 0.24, left + block - 0.52, left + block)
    for text, x, align in zip(cells, places, aligns, strict=True):
        frame.figure.text(
            *frame.at(x, y), text, fontsize=SMALL_SIZE, ha=align, va="top", color=INK, weight=weight,
            parse_math=False, gid="table",
        )  # fmt: skip
