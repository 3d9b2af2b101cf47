"""The layers figure: the ReLUs that each network keeps at each site."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from deepreduce.errors import UserError
from deepreduce.report.figures.style import (
    DPI,
    GREY,
    INK,
    LABEL_SIZE,
    SMALL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    Ruler,
    blank_figure,
    one_line,
)
from deepreduce.utils.format import COUNT


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A row of `layers_figure`: a network's ReLUs for one image, in total and `kept` at each site (by site name).

    `masked` names the sites where an action keeps some of a layer's ReLUs.
    """

    label: str
    relu_count: int
    kept: Mapping[str, int]
    masked: frozenset[str] = frozenset()


_SITE_COLUMNS = 28  # longer site names show their end
_LABEL_COLUMNS, _LABEL_LINES = 30, 2
_LEAST_SITE_SIZE = 6.0  # in points; of narrower columns only some are named
_CELL_HEIGHT, _EDGE = 0.32, 0.15  # in inches
_LAYER_STEPS = ("#FFFFFF", "#DCEAF6", "#B3D3EA", "#79B2D8", "#3F8CC0", "#0B4F86")
_LAYER_NAMES = ("removed", "up to 25 %", "up to 50 %", "up to 75 %", "below 100 %", "all kept")

# name, stage, ReLUs for one image
_Site = tuple[str, str, int]


def layers_figure(
    rows: Sequence[LayerRow],
    sites: Sequence[tuple[str, str, int]],
    *,
    title: str,
    width_inches: float = 9.0,
) -> Figure:
    """Return a figure of the ReLUs kept: a row per network, a column per ReLU site of the original.

    `sites` are (name, stage, ReLUs for one image) of the original in network order; neighbours of one stage share a
    heading. A cell's colour is the share of the site's ReLUs that the network keeps; its text, if the columns are
    wide enough, their number. In a masked site's cell, the colour fills only that share of the width. A site that is
    missing in a row's `kept` counts as removed. Raises `UserError` if `sites` is empty, and for a site in `kept` that
    is not among `sites`.
    """
    _check_sites(rows, sites)
    figure = blank_figure(width_inches)
    ruler = Ruler(figure)
    names = [_label(row.label) for row in rows]
    counts = [COUNT.text(row.relu_count) for row in rows]
    name_width = max((ruler.extent(n, LABEL_SIZE)[0] / DPI for n in names), default=0.0)
    count_width = max((ruler.extent(c, LABEL_SIZE, weight="bold")[0] / DPI for c in counts), default=0.0)
    left = _EDGE + name_width + 0.15 + count_width + 0.1
    cell = (width_inches - left - _EDGE) / len(sites)
    site_names, site_size = _site_names(sites, cell)
    foot = 0.12 + max(ruler.extent(name, site_size)[0] for name in site_names) / DPI + 0.4
    grid = _CELL_HEIGHT * max(len(rows), 1)
    height = 0.14 + 0.26 + 0.12 + 0.24 + grid + foot
    figure.set_size_inches(width_inches, height)
    axes = figure.add_axes((left / width_inches, foot / height, cell * len(sites) / width_inches, grid / height))
    axes.set_xlim(0, len(sites))
    axes.set_ylim(max(len(rows), 1), 0)
    axes.axis("off")

    _draw_cells(axes, rows, sites, cell=cell, ruler=ruler)
    _draw_row_heads(figure, names, counts, count_x=left - 0.1, top=foot + grid)
    _draw_stages(figure, axes, sites, ruler=ruler, head_y=(foot + grid + 0.06) / height)
    for s, name in enumerate(site_names):
        axes.text(
            s + 0.5, max(len(rows), 1) + 0.05 / _CELL_HEIGHT, name, rotation=90, ha="center", va="top",
            fontsize=site_size, color=GREY, parse_math=False, gid="site",
        )  # fmt: skip
    heading = ruler.fit(title, width_inches - 2 * _EDGE, TITLE_SIZE, weight="bold")
    figure.text(
        _EDGE / width_inches, 1 - 0.14 / height, heading, fontsize=TITLE_SIZE, weight="bold", va="top",
        color=INK, parse_math=False, gid="title",
    )  # fmt: skip
    _draw_legend(figure, has_masks=any(row.masked for row in rows))
    return figure


def _check_sites(rows: Sequence[LayerRow], sites: Sequence[_Site]) -> None:
    if not sites:
        raise UserError("the network has no ReLU sites; there is nothing to draw")
    known = {name for name, _, _ in sites}
    for row in rows:
        strange = [name for name in row.kept if name not in known]
        if strange:
            raise UserError(f"{row.label} keeps ReLUs at {', '.join(strange)}; the network has no such site")


def _draw_legend(figure: Figure, *, has_masks: bool) -> None:
    width, height = figure.get_size_inches()
    swatches = [Rectangle((0, 0), 1, 1, facecolor=c, edgecolor="#B0B0B0", linewidth=0.6) for c in _LAYER_STEPS]
    names = list(_LAYER_NAMES)
    if has_masks:
        swatches.append(Rectangle((0, 0), 1, 1, facecolor="none", edgecolor="none"))
        names.append("bars: masked")
    figure.legend(
        swatches, names, loc="lower left", bbox_to_anchor=(_EDGE / width, 0.1 / height), ncols=len(swatches),
        frameon=False, fontsize=SMALL_SIZE, borderpad=0, borderaxespad=0, handlelength=1.1, handleheight=1.1,
        columnspacing=1.2, labelcolor=INK, title=None,
    )  # fmt: skip


def _draw_row_heads(
    figure: Figure, names: Sequence[str], counts: Sequence[str], *, count_x: float, top: float
) -> None:
    """Draw the networks' names and ReLU counts, `top` inches from the figure's lower end downwards."""
    width, height = figure.get_size_inches()
    for r, (name, count) in enumerate(zip(names, counts, strict=True)):
        y = (top - _CELL_HEIGHT * (r + 0.5)) / height
        figure.text(
            _EDGE / width, y, name, fontsize=LABEL_SIZE, va="center", color=INK, parse_math=False,
            linespacing=1.05, gid="row",
        )  # fmt: skip
        figure.text(
            count_x / width, y, count, fontsize=LABEL_SIZE, va="center", ha="right", color=INK, weight="bold",
            gid="row",
        )  # fmt: skip


def _label(text: str) -> str:
    lines = textwrap.wrap(one_line(text), _LABEL_COLUMNS)
    if len(lines) > _LABEL_LINES:
        lines = [*lines[: _LABEL_LINES - 1], lines[_LABEL_LINES - 1][: _LABEL_COLUMNS - 1].rstrip(" ,") + "…"]
    return "\n".join(lines)


def _site_names(sites: Sequence[_Site], cell: float) -> tuple[list[str], float]:
    """Return a name for each column of `cell` inches ("" for columns without one), and their text size in points."""
    size = max(min(SMALL_SIZE, 0.8 * cell * 72), _LEAST_SITE_SIZE)
    every = math.ceil(1.15 * size / 72 / cell)
    names = [name if len(name) <= _SITE_COLUMNS else "…" + name[1 - _SITE_COLUMNS :] for name, _, _ in sites]
    return [name if s % every == 0 else "" for s, name in enumerate(names)], size


def _draw_cells(axes: Axes, rows: Sequence[LayerRow], sites: Sequence[_Site], *, cell: float, ruler: Ruler) -> None:
    texts = [[COUNT.text(row.kept.get(name, 0)) for name, _, _ in sites] for row in rows]
    widest = max((ruler.extent(t, 6.5)[0] / DPI for t in {t for line in texts for t in line}), default=0.0)
    number_size = min(7.0, 6.5 * 0.86 * cell / widest) if widest else 0.0
    is_wide = cell >= 0.12  # the outlines of narrower cells would hide their colours
    for r, row in enumerate(rows):
        for s, (name, _, original) in enumerate(sites):
            share = row.kept.get(name, 0) / original if original else 0.0
            step = 5 if share >= 1 else math.ceil(4 * share)
            is_bar = name in row.masked and step > 0
            axes.add_patch(
                Rectangle(
                    (s, r), 1, 1, facecolor=_LAYER_STEPS[0 if is_bar else step], edgecolor="#D0D0D0",
                    linewidth=0.5 if is_wide else 0.0, antialiased=is_wide,
                )
            )  # fmt: skip
            if is_bar:
                axes.add_patch(Rectangle((s, r), share, 1, facecolor=_LAYER_STEPS[step], linewidth=0, gid="bar"))
            if step and number_size >= 5:
                axes.text(
                    s + 0.5, r + 0.5, texts[r][s], ha="center", va="center", fontsize=number_size,
                    color="white" if step >= 4 and not is_bar else INK, parse_math=False, gid="number",
                )  # fmt: skip
    if not is_wide:
        for r in range(len(rows) + 1):
            axes.add_line(Line2D([0, len(sites)], [r, r], color="#D0D0D0", linewidth=0.8))
        for s in (0, len(sites)):
            axes.add_line(Line2D([s, s], [0, len(rows)], color="#D0D0D0", linewidth=0.5))


def _draw_stages(figure: Figure, axes: Axes, sites: Sequence[_Site], *, ruler: Ruler, head_y: float) -> None:
    """Draw a heading with a rule over the columns of each stage, and a stronger line between stages."""
    bottom = axes.get_ylim()[0]
    box = axes.get_position()
    width, height = figure.get_size_inches()
    starts = [s for s in range(len(sites)) if s == 0 or sites[s][1] != sites[s - 1][1]]
    ends = [*starts[1:], len(sites)]
    column = box.width / len(sites)
    texts = [sites[start][1] for start in starts]
    halves = [ruler.extent(text, TEXT_SIZE, weight="bold")[0] / DPI / width / 2 for text in texts]
    centres = [box.x0 + column * (start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    # headings may extend a little beyond the columns, if one is wider than the first stage
    first, last, gap = box.x0 - 0.1 / width, 1 - 0.04 / width, 0.06 / width
    named = _choose_fitting([e - s for s, e in zip(starts, ends, strict=True)], halves, gap=gap, room=last - first)
    moved = _spread_out([centres[i] for i in named], [halves[i] for i in named], gap=gap, start=first, end=last)
    for i, centre in zip(named, moved, strict=True):
        figure.text(
            centre, head_y + 0.05 / height, texts[i], ha="center", va="bottom", color=INK,
            fontsize=TEXT_SIZE, weight="bold", parse_math=False, gid="stage",
        )  # fmt: skip
    for start, end in zip(starts, ends, strict=True):
        inset = 0.15 * column
        rule = [box.x0 + column * start + inset, box.x0 + column * end - inset]
        figure.add_artist(Line2D(rule, [head_y, head_y], color=GREY, linewidth=1.0))
        if start:
            axes.add_line(Line2D([start, start], [0, bottom], color=GREY, linewidth=1.1))


def _choose_fitting(sizes: Sequence[int], halves: Sequence[float], *, gap: float, room: float) -> list[int]:
    """Return the indices of texts (given by half widths) that fit into `room` side by side, largest `sizes` first."""
    kept: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        needed = 2 * halves[i] + (gap if kept else 0.0)
        if needed <= room:
            kept.append(i)
            room -= needed
    return sorted(kept)


def _spread_out(
    centres: Sequence[float], halves: Sequence[float], *, gap: float, start: float, end: float
) -> list[float]:
    """Move centres as little as needed to keep texts of these half widths apart and between `start` and `end`."""
    moved = list(centres)
    for i in range(len(moved)):
        moved[i] = max(moved[i], start + halves[i])
        start = moved[i] + halves[i] + gap
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], end - halves[i])
        end = moved[i] - halves[i] - gap
    return moved
