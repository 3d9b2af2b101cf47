"""The seconds and bytes of private inference by their causes, as stacked bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from deepreduce.cost.price import KINDS, CostEstimate, Share
from deepreduce.errors import UserError
from deepreduce.report.figures.style import (
    DPI,
    GREY,
    GRID,
    INK,
    LABEL_SIZE,
    SMALL_SIZE,
    TITLE_SIZE,
    Ruler,
    blank_figure,
    one_line,
)
from deepreduce.utils.format import short_bytes, short_seconds

_EDGE, _GUTTER, _ROW = 0.15, 0.3, 0.3  # in inches
_HEAD, _FOOT = 0.95, 0.35
_PANEL = 2.3
_LABEL_WIDTHS = (1.2, 4.2)  # as wide as the longest label, within these
_BAR = 0.62  # of a row's height

# Okabe and Ito's colours: a trio for kinds of layers, another for causes of time
_KIND_COLOURS = ("#0072B2", "#E69F00", "#999999")
_CAUSE_COLOURS = ("#009E73", "#56B4E9", "#CC79A7")


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """A row of `costs_figure`: a network and the cost of one image."""

    label: str
    price: CostEstimate


@dataclass(frozen=True)
class _Panel:
    """A panel of bars of one quantity; each part has a name, a colour and a function of its amount."""

    title: str
    parts: Sequence[tuple[str, str, Callable[[CostEstimate], float]]]
    text: Callable[[float], str]

    def total(self, price: CostEstimate) -> float:
        return sum(amount(price) for _, _, amount in self.parts)


def costs_figure(rows: Sequence[CostRow], *, title: str, note: str = "") -> Figure:
    """Return a figure of the seconds and bytes of one image, with a row of stacked bars per network.

    Panels: seconds by kind of layer (ReLU, linear, other); seconds by cause (computing, sending bytes, waiting for
    messages); bytes by kind of layer; and the seconds of offline computing, if there are any. Each bar ends with its
    total. Raises `UserError` if `rows` is empty.
    """
    if not rows:
        raise UserError("there are no networks whose costs to draw; give at least one row")
    panels = _panels(any(row.price.offline_seconds for row in rows))
    bars = (_PANEL + _GUTTER) * len(panels) - _GUTTER
    figure = blank_figure(2 * _EDGE + _LABEL_WIDTHS[1] + bars)
    ruler = Ruler(figure)
    longest = max(ruler.extent(one_line(row.label), LABEL_SIZE)[0] for row in rows) / DPI + 0.15
    labels = min(max(longest, _LABEL_WIDTHS[0]), _LABEL_WIDTHS[1])
    width_inches = 2 * _EDGE + labels + bars
    foot = _FOOT + (0.2 if note else 0.0)
    height = _HEAD + _ROW * len(rows) + foot
    figure.set_size_inches(width_inches, height)
    for p, panel in enumerate(panels):
        left = _EDGE + labels + p * (_PANEL + _GUTTER)
        axes = figure.add_axes(
            (left / width_inches, foot / height, _PANEL / width_inches, _ROW * len(rows) / height), gid=f"panel-{p}"
        )
        _draw_panel(axes, panel, rows, ruler=ruler, inches=_PANEL)
        _draw_heads(figure, panel, at=(left / width_inches, height))
    for r, row in enumerate(rows):
        y = (foot + _ROW * (len(rows) - r - 0.5)) / height
        figure.text(
            (_EDGE + labels - 0.1) / width_inches, y, ruler.fit(row.label, labels - 0.1, LABEL_SIZE),
            fontsize=LABEL_SIZE, ha="right", va="center", color=INK, parse_math=False, gid="row",
        )  # fmt: skip
    heading = ruler.fit(title, width_inches - 2 * _EDGE, TITLE_SIZE, weight="bold")
    figure.text(
        _EDGE / width_inches, 1 - 0.12 / height, heading, fontsize=TITLE_SIZE, weight="bold", va="top", color=INK,
        parse_math=False, gid="title",
    )  # fmt: skip
    if note:
        figure.text(
            _EDGE / width_inches, 0.08 / height, one_line(note), fontsize=SMALL_SIZE, va="bottom", color=GREY,
            parse_math=False, gid="note",
        )  # fmt: skip
    return figure


def _panels(has_offline: bool) -> list[_Panel]:
    def by_kind(of: Callable[[Share], float]) -> list[tuple[str, str, Callable[[CostEstimate], float]]]:
        return [
            (kind, colour, lambda price, kind=kind: sum(of(s) for s in price.shares if s.kind == kind))  # type: ignore[misc]
            for kind, colour in zip(KINDS, _KIND_COLOURS, strict=True)
        ]

    causes: list[tuple[str, Callable[[Share], float]]] = [
        ("computing", lambda share: share.compute_seconds),
        ("sending", lambda share: share.sending_seconds),
        ("waiting", lambda share: share.waiting_seconds),
    ]
    by_cause = [
        (name, colour, lambda price, of=of: sum(of(share) for share in price.shares))
        for (name, of), colour in zip(causes, _CAUSE_COLOURS, strict=True)
    ]
    panels = [
        _Panel("Latency, by layers", by_kind(lambda share: share.seconds), short_seconds),
        _Panel("Latency, by cause", by_cause, short_seconds),
        _Panel("Bytes" + (", offline too" if has_offline else ""), by_kind(lambda share: share.bytes), short_bytes),
    ]
    if has_offline:
        panels.append(_Panel("Offline seconds", by_kind(lambda share: share.offline_seconds), short_seconds))
    return panels


def _draw_panel(axes: Axes, panel: _Panel, rows: Sequence[CostRow], *, ruler: Ruler, inches: float) -> None:
    most = max(panel.total(row.price) for row in rows) or 1.0
    texts = [panel.text(panel.total(row.price)) for row in rows]
    text_width = max(ruler.extent(text, SMALL_SIZE)[0] for text in texts) / DPI + 0.08
    room = max(inches - text_width, 0.2 * inches)
    axes.set_xlim(0, most * inches / room)
    axes.set_ylim(len(rows), 0)
    for r, (row, text) in enumerate(zip(rows, texts, strict=True)):
        start = 0.0
        for name, colour, amount in panel.parts:
            width = amount(row.price)
            axes.add_patch(
                Rectangle((start, r + (1 - _BAR) / 2), width, _BAR, facecolor=colour, linewidth=0, gid=f"bar-{name}")
            )
            start += width
        axes.text(
            start + 0.05 / inches * axes.get_xlim()[1], r + 0.5, text, fontsize=SMALL_SIZE, va="center", color=INK,
            parse_math=False, gid="total",
        )  # fmt: skip
    ticks = _ticks(panel, most, ruler=ruler, inches=room)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([panel.text(tick) for tick in ticks]))
    axes.yaxis.set_visible(False)
    axes.tick_params(labelsize=SMALL_SIZE, colors=GREY, color=GREY, length=2, width=0.6)
    axes.grid(True, axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.spines["bottom"].set_linewidth(0.7)


def _ticks(panel: _Panel, most: float, *, ruler: Ruler, inches: float) -> list[float]:
    """Return ticks from 0 to `most`, the longest bar, of length `inches`; as many as have room for their names."""
    for bins in (5, 4, 3, 2, 1):
        values = MaxNLocator(nbins=bins, steps=[1, 2, 5, 10]).tick_values(0, most)
        ticks = [float(value) for value in values if 0 <= value <= most]
        widths = [ruler.extent(panel.text(tick), SMALL_SIZE)[0] / DPI for tick in ticks]
        if len(ticks) < 2 or (ticks[1] - ticks[0]) / most * inches >= max(widths) + 0.1:
            return ticks
    return [0.0]


def _draw_heads(figure: Figure, panel: _Panel, *, at: tuple[float, float]) -> None:
    """Draw the panel's title and the legend of its colours."""
    left, height = at
    figure.text(
        left, 1 - 0.42 / height, panel.title, fontsize=LABEL_SIZE, weight="bold", va="top", color=INK, gid="head"
    )
    swatches = [Rectangle((0, 0), 1, 1, facecolor=colour) for _, colour, _ in panel.parts]
    figure.legend(
        swatches, [name for name, _, _ in panel.parts], loc="upper left", bbox_to_anchor=(left, 1 - 0.62 / height),
        ncols=3, frameon=False, fontsize=SMALL_SIZE, borderpad=0, borderaxespad=0, handlelength=0.9,
        handleheight=0.9, columnspacing=0.8, handletextpad=0.35, labelcolor=INK,
    )  # fmt: skip
