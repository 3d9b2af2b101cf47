"""The axes of a frontier figure: the cost of one image and accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from deepreduce.cost.objective import RELUS, Objective
from deepreduce.report.figures.style import GREY, GRID, INK, TEXT_SIZE

_LEAST_DECADES = 0.5
"""Least length of the axis of costs: between closer points no tick would have a short name."""

_LEAST_PERCENT = 1.0
"""Least height of the axis of accuracy, so that the noise of training does not fill it."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A point of the figure: the cost of one image (ReLUs, seconds or bytes), and test accuracy in percent."""

    cost: float
    percent: float


@dataclass(frozen=True, kw_only=True)
class CostAxis:
    """A log axis of costs from `low` to `high`, in the objective's unit: ReLUs, seconds or bytes.

    `zero` is the position, left of `low`, of networks of cost 0; None if there is none.
    """

    objective: Objective
    low: float
    high: float
    zero: float | None
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, costs: Sequence[float], objective: Objective) -> CostAxis:
        """Return an axis with room for these costs and their labels."""
        positive = [cost for cost in costs if cost > 0] or [1000]
        spread = math.log10(max(positive) / min(positive))
        # room at both ends for labels and markers; more on the left, where the labels of a rising front go
        left, right = 0.16 * max(spread, 0.3), 0.12 * max(spread, 0.3)
        missing = max(_LEAST_DECADES - spread - left - right, 0.0)
        low = min(positive) / 10 ** (left + missing / 2)
        high = max(positive) * 10 ** (right + missing / 2)
        zero = low / 10 ** (0.1 * max(spread, 0.3)) if 0 in costs else None
        ticks = _ticks(low, high, whole=objective.name == RELUS)
        return cls(objective=objective, low=low, high=high, zero=zero, ticks=ticks)

    @property
    def start(self) -> float:
        """Left end of the axis, as a cost."""
        return self.low if self.zero is None else self.zero / (self.low / self.zero) ** 0.6

    def x(self, spot: Spot) -> float:
        """Return the position on the axis at which a point is drawn, as a cost."""
        return float(spot.cost) if spot.cost > 0 or self.zero is None else self.zero


def _ticks(low: float, high: float, *, whole: bool) -> tuple[float, ...]:
    ticks: tuple[float, ...] = ()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        scaled = (m * 10.0**d for d in decades for m in leading)
        ticks = tuple(tick for tick in scaled if low <= tick <= high and (not whole or tick.is_integer()))
        if len(ticks) >= 4:
            break
    return ticks


def draw_axes(axes: Axes, scale: CostAxis, percents: Sequence[float]) -> None:
    """Draw limits, ticks and names, and a break in the axis to the right of networks of cost 0."""
    low, high = min(percents, default=0.0), max(percents, default=100.0)
    margin = max(0.09 * (high - low), (_LEAST_PERCENT - (high - low)) / 2)
    axes.set_xscale("log")
    axes.set_xlim(scale.start, scale.high)
    axes.set_ylim(low - margin, high + 1.6 * margin)
    places = ([] if scale.zero is None else [scale.zero]) + list(scale.ticks)
    names = ([] if scale.zero is None else ["0"]) + [scale.objective.short(t) for t in scale.ticks]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter(names))
    axes.xaxis.set_minor_locator(NullLocator())
    bottom, top = axes.get_ylim()
    percent_ticks = MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]).tick_values(bottom, top)
    axes.yaxis.set_major_locator(FixedLocator([t for t in percent_ticks if max(bottom, 0) <= t <= min(top, 100)]))
    axes.set_xlabel(f"{scale.objective.title} (log scale)", fontsize=TEXT_SIZE, color=INK)
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
            clip_on=False, gid="break",
        )  # fmt: skip
