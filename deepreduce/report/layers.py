"""Which ReLUs each network keeps, as a figure."""

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
from deepreduce.report.counts import short_count
from deepreduce.report.drawing import (
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


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A network of `layers_figure`: its ReLUs of one image, in all and `kept` at each site (by site name)."""

    label: str
    relu_count: int
    kept: Mapping[str, int]


_SITE_COLUMNS = 28  # longer site names show their end
_LAYER_STEPS = ("#FFFFFF", "#DCEAF6", "#B3D3EA", "#79B2D8", "#3F8CC0", "#0B4F86")
_LAYER_NAMES = ("removed", "up to 25 %", "up to 50 %", "up to 75 %", "below 100 %", "all kept")


def layers_figure(
    rows: Sequence[LayerRow],
    sites: Sequence[tuple[str, str, int]],
    *,
    title: str,
    width_inches: float = 9.0,
) -> Figure:
    """Which ReLUs each network keeps: a row per network, a column per ReLU site of the original.

    `sites` are (name, stage, ReLUs of one image) of the original in network order; neighbours of one stage
    stand under one heading. A cell's colour is the share of the site's ReLUs that the network keeps, and,
    where the columns are wide enough, its text their number. A site that a row's `kept` leaves out counts as
    removed. Raises `UserError` for no sites, and for a site in `kept` that is not among `sites`.
    """
    if not sites:
        raise UserError("the network has no ReLU sites; there is nothing to draw")
    known = {name for name, _, _ in sites}
    for row in rows:
        strange = [name for name in row.kept if name not in known]
        if strange:
            raise UserError(f"{row.label} keeps ReLUs at {', '.join(strange)}; the network has no such site")

    figure = blank_figure(width_inches)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    ruler = Ruler(figure)

    def width(text: str, size: float, *, weight: str = "normal") -> float:
        return ruler.extent(text, size, weight=weight)[0] / DPI

    names = ["\n".join(textwrap.wrap(one_line(row.label), 30)[:2]) for row in rows]
    counts = [short_count(row.relu_count) for row in rows]
    count_width = max((width(text, LABEL_SIZE, weight="bold") for text in counts), default=0.0)
    left = 0.15 + max((width(n, LABEL_SIZE) for n in names), default=0.0) + 0.15 + count_width + 0.1
    cell = (width_inches - left - 0.15) / len(sites)
    cell_height = 0.32
    site_size = max(min(SMALL_SIZE, 0.8 * cell * 72), 4.0)
    site_names = [name if len(name) <= _SITE_COLUMNS else "…" + name[1 - _SITE_COLUMNS :] for name, _, _ in sites]
    foot = 0.12 + max(width(name, site_size) for name in site_names) + 0.4
    head = 0.14 + 0.26 + 0.12 + 0.24
    grid = cell_height * max(len(rows), 1)
    height = head + grid + foot
    figure.set_size_inches(width_inches, height)
    axes.set_position((left / width_inches, foot / height, cell * len(sites) / width_inches, grid / height))
    axes.set_xlim(0, len(sites))
    axes.set_ylim(max(len(rows), 1), 0)
    axes.axis("off")

    texts = [[short_count(row.kept.get(name, 0)) for name, _, _ in sites] for row in rows]
    widest = max((width(t, 6.5) for line in texts for t in line), default=0.0)
    number_size = min(7.0, 6.5 * 0.86 * cell / widest) if widest else 0.0
    for r, row in enumerate(rows):
        for s, (name, _, original) in enumerate(sites):
            share = row.kept.get(name, 0) / original if original else 0.0
            step = 5 if share >= 1 else math.ceil(4 * share)
            axes.add_patch(Rectangle((s, r), 1, 1, facecolor=_LAYER_STEPS[step], edgecolor="#D0D0D0", linewidth=0.5))
            if step and number_size >= 5:
                axes.text(
                    s + 0.5, r + 0.5, texts[r][s], ha="center", va="center", fontsize=number_size,
                    color="white" if step >= 4 else INK, parse_math=False,
                )  # fmt: skip
        y = (foot + grid - cell_height * (r + 0.5)) / height
        figure.text(
            0.15 / width_inches, y, names[r], fontsize=LABEL_SIZE, va="center", color=INK, parse_math=False,
            linespacing=1.05, gid="row",
        )  # fmt: skip
        figure.text(
            (left - 0.1) / width_inches, y, counts[r], fontsize=LABEL_SIZE, va="center", ha="right",
            color=INK, weight="bold", gid="row",
        )  # fmt: skip
    _draw_stages(figure, axes, sites, head_y=(foot + grid + 0.06) / height, line=height)
    for s, name in enumerate(site_names):
        axes.text(
            s + 0.5, max(len(rows), 1) + 0.05 / cell_height, name, rotation=90, ha="center", va="top",
            fontsize=site_size, color=GREY, parse_math=False, gid="site",
        )  # fmt: skip
    heading = ruler.fitted(title, width_inches - 0.3, TITLE_SIZE, weight="bold")
    figure.text(
        0.15 / width_inches, 1 - 0.14 / height, heading, fontsize=TITLE_SIZE, weight="bold", va="top",
        color=INK, parse_math=False, gid="title",
    )  # fmt: skip
    swatches = [Rectangle((0, 0), 1, 1, facecolor=c, edgecolor="#B0B0B0", linewidth=0.6) for c in _LAYER_STEPS]
    figure.legend(
        swatches, _LAYER_NAMES, loc="lower left", bbox_to_anchor=(0.15 / width_inches, 0.1 / height), ncols=6,
        frameon=False, fontsize=SMALL_SIZE, borderpad=0, borderaxespad=0, handlelength=1.1, handleheight=1.1,
        columnspacing=1.2, labelcolor=INK, title=None,
    )  # fmt: skip
    return figure


def _draw_stages(
    figure: Figure, axes: Axes, sites: Sequence[tuple[str, str, int]], *, head_y: float, line: float
) -> None:
    """Stage headings over the columns, with a rule each, and a stronger line between stages."""
    bottom = axes.get_ylim()[0]
    starts = [s for s in range(len(sites)) if s == 0 or sites[s][1] != sites[s - 1][1]]
    box = axes.get_position()
    for start, end in zip(starts, [*starts[1:], len(sites)], strict=True):
        x0 = box.x0 + box.width * start / len(sites)
        x1 = box.x0 + box.width * end / len(sites)
        inset = 0.15 * box.width / len(sites)
        figure.add_artist(Line2D([x0 + inset, x1 - inset], [head_y, head_y], color=GREY, linewidth=1.0))
        figure.text(
            (x0 + x1) / 2, head_y + 0.05 / line, sites[start][1], ha="center", va="bottom", color=INK,
            fontsize=TEXT_SIZE, weight="bold", parse_math=False, gid="stage",
        )  # fmt: skip
        if start:
            axes.add_line(Line2D([start, start], [0, bottom], color=GREY, linewidth=1.1))
