"""The figure of where seconds and bytes go: bars as long as the costs are, and texts that do not collide."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deepreduce.cost.price import KINDS, CostEstimate, Share
from deepreduce.errors import UserError
from deepreduce.report.figures.costs import CostRow, costs_figure
from deepreduce.utils.format import short_bytes, short_seconds
from tests.helpers.report_examples import random_price


def drawn(rows: Sequence[CostRow]) -> Figure:
    figure = costs_figure(rows, title="What one image costs: resnet18", note="cheetah over lan")
    figure.canvas.draw()
    return figure


def rows_of(count: int, *, seed: int = 0) -> list[CostRow]:
    return [
        CostRow(label="teacher" if i == 0 else f"cull S1 S{i}, thin, alpha 0.5", price=random_price(seed + i))
        for i in range(count)
    ]


def widths(axes: Axes, part: str) -> list[float]:
    """Of the bars of a part, from the top row down."""
    bars = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_gid() == f"bar-{part}"]
    return [bar.get_width() for bar in sorted(bars, key=lambda bar: bar.get_y())]


def test_bars_are_as_long_as_the_costs_by_layers_and_by_cause() -> None:
    rows = rows_of(4)
    by_layers, by_cause, sent, offline = drawn(rows).axes
    for kind in KINDS:
        shares = [next(s for s in row.price.shares if s.kind == kind) for row in rows]
        assert widths(by_layers, kind) == pytest.approx([s.seconds for s in shares])
        assert widths(sent, kind) == pytest.approx([s.online_bytes + s.offline_bytes for s in shares])
        assert widths(offline, kind) == pytest.approx([s.offline_seconds for s in shares])
    for part, amount in (("computing", "compute_seconds"), ("sending", "sending_seconds")):
        totals = [sum(getattr(s, amount) for s in row.price.shares) for row in rows]
        assert widths(by_cause, part) == pytest.approx(totals)


def test_each_bar_ends_in_its_total() -> None:
    rows = rows_of(3)
    for axes, total in zip(drawn(rows).axes[:3], ("latency", "latency", "bytes"), strict=True):
        texts = sorted((t for t in axes.texts if t.get_gid() == "total"), key=lambda t: t.get_position()[1])
        short = short_bytes if total == "bytes" else short_seconds
        assert [t.get_text() for t in texts] == [short(getattr(row.price, total)) for row in rows]
        for text, row in zip(texts, rows, strict=True):
            assert text.get_position()[0] >= getattr(row.price, total)


def test_without_offline_work_there_is_no_panel_for_it() -> None:
    price = CostEstimate.of([Share(kind="ReLU", compute_seconds=1.0, online_bytes=10.0)])
    figure = drawn([CostRow(label="teacher", price=price)])
    heads = [t.get_text() for t in figure.texts if t.get_gid() == "head"]
    assert heads == ["Latency, by layers", "Latency, by cause", "Bytes"] and len(figure.axes) == 3


@pytest.mark.parametrize("count", [1, 2, 7, 14])
@pytest.mark.parametrize("seed", [0, 50])
def test_no_text_collides_or_leaves_the_figure(count: int, seed: int) -> None:
    figure = drawn(rows_of(count, seed=seed))
    texts = [*figure.texts, *(t for axes in figure.axes for t in [*axes.texts, *axes.get_xticklabels()])]
    shown = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
    shown += [("legend", legend.get_window_extent()) for legend in figure.legends]
    width, height = figure.get_size_inches() * figure.dpi
    for (a, x), (b, y) in itertools.combinations(shown, 2):
        across = min(x.x1, y.x1) - max(x.x0, y.x0) > 0.5
        assert not (across and min(x.y1, y.y1) - max(x.y0, y.y0) > 0.5), f"{a!r} on {b!r}"
    for text, box in shown:
        inside = box.x0 > -0.5 and box.y0 > -0.5 and box.x1 < width + 0.5 and box.y1 < height + 0.5
        assert inside, f"{text!r} leaves the figure"


def test_no_networks_are_no_figure() -> None:
    with pytest.raises(UserError, match="no networks whose costs to draw"):
        costs_figure([], title="x")
