"""The figure of ReLUs kept at each site: what its cells say, and that its texts do not collide."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deepreduce.errors import UserError
from deepreduce.report.figures.layers import LayerRow, layers_figure
from deepreduce.report.figures.style import figure_bytes

Site = tuple[str, str, int]


def sites_of(stages: Sequence[int], *, name: str = "stage{}.{}.relu") -> list[Site]:
    """A chain of stages with so many sites each, of half the ReLUs from stage to stage."""
    return [
        (name.format(stage + 1, i), f"S{stage + 1}", 65_536 // 2**stage)
        for stage, count in enumerate(stages)
        for i in range(count)
    ]


def row(label: str, sites: Sequence[Site], share: float = 1.0, *, without: str = "") -> LayerRow:
    kept = {name: int(share * count) for name, stage, count in sites if stage != without}
    return LayerRow(label=label, relu_count=sum(kept.values()), kept=kept)


def drawn(rows: Sequence[LayerRow], sites: Sequence[Site], **options: float) -> Figure:
    figure = layers_figure(rows, sites, title="ReLUs kept: resnet18", **options)
    figure.canvas.draw()
    return figure


def flaws(figure: Figure) -> list[str]:
    axes = figure.axes[0]
    boxes = [(t.get_text(), t.get_window_extent()) for t in [*figure.texts, *axes.texts] if t.get_text()]
    boxes += [("legend", legend.get_window_extent()) for legend in figure.legends]
    width, height = figure.get_size_inches() * figure.dpi
    found = [
        f"{a!r} on {b!r}"
        for (a, x), (b, y) in itertools.combinations(boxes, 2)
        if min(x.x1, y.x1) - max(x.x0, y.x0) > 0.5 and min(x.y1, y.y1) - max(x.y0, y.y0) > 0.5
    ]
    found += [
        f"{text!r} leaves the figure"
        for text, box in boxes
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5
    ]
    return found


def colours_of(figure: Figure) -> dict[tuple[int, int], str]:
    cells = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    return {(int(p.get_y()), int(p.get_x())): to_hex(p.get_facecolor()) for p in cells}


def numbers_of(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts if t.get_gid() == "number"]


RESNET18 = sites_of([5, 4, 4, 4])
RESNET152 = sites_of([1, 9, 24, 108, 9], name="layer{}.{}.relu#2")


@pytest.mark.parametrize("width_inches", [6.0, pytest.param(9.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "sites",
    [
        RESNET18,
        RESNET152,
        sites_of([1]),
        sites_of([1] * 6),
        sites_of([1] * 30 + [40] + [1] * 4),
        sites_of([3, 3], name="a.module.path.that.is.very.long.indeed.stage{}.block{}.relu"),
        [(f"r{i}", f"a stage of long name {i // 20}", 100) for i in range(80)],
    ],
    ids=["resnet18", "resnet152", "one site", "stages of one", "thin stages", "long names", "long stages"],
)
def test_no_two_texts_collide_and_none_leaves_the_figure(sites: list[Site], width_inches: float) -> None:
    rows = [row("teacher", sites)]
    rows += [
        row(f"cull S1 S4 S2, thin (keep last), alpha 0.5 rho 0.5 and more, no {i}", sites, 0.25) for i in range(3)
    ]
    assert flaws(drawn(rows, sites, width_inches=width_inches)) == []


def test_a_cell_is_the_darker_the_more_of_the_site_is_kept() -> None:
    sites = [("relu", "S1", 1000)]
    shares = (0, 1, 250, 500, 750, 999, 1000)
    rows = [LayerRow(label=str(n), relu_count=n, kept={"relu": n}) for n in shares]
    colours = colours_of(drawn(rows, sites))
    shades = [colours[(r, 0)] for r in range(len(rows))]
    brightness = [int(c[1:3], 16) + int(c[3:5], 16) + int(c[5:], 16) for c in shades]
    assert brightness == sorted(brightness, reverse=True)
    # 1 and 250 of 1000 are both up to 25 %
    assert len(set(shades)) == len(shares) - 1
    assert shades[0] == "#ffffff"


def test_a_cell_says_how_many_relus_are_kept_and_nothing_where_none_is() -> None:
    sites = sites_of([2, 1])
    figure = drawn([row("teacher", sites), row("cull S1", sites, without="S1")], sites)
    assert numbers_of(figure) == ["65.5K", "65.5K", "32.8K", "32.8K"]
    rows = [t.get_text() for t in figure.texts if t.get_gid() == "row"]
    assert rows == ["teacher", "163.8K", "cull S1", "32.8K"]


def test_a_masked_cell_is_a_bar_as_wide_as_the_share_that_is_kept() -> None:
    sites = sites_of([2, 1])
    kept = {name: count // 4 for name, _, count in sites}
    masked = LayerRow(label="masks", relu_count=sum(kept.values()), kept=kept, masked=frozenset(list(kept)[:2]))
    figure = drawn([row("teacher", sites), masked], sites)
    bars = [p for p in figure.axes[0].patches if p.get_gid() == "bar"]
    assert [(p.get_x(), p.get_y(), p.get_width()) for p in bars] == [(0, 1, 0.25), (1, 1, 0.25)]
    assert len({to_hex(p.get_facecolor()) for p in bars}) == 1 and colours_of(figure)[1, 2] != "#ffffff"
    (legend,) = figure.legends
    assert legend.get_texts()[-1].get_text() == "bars: masked" and not flaws(figure)
    assert len(numbers_of(figure)) == 6
    assert len(drawn([row("teacher", sites)], sites).legends[0].get_texts()) == 6


def test_every_column_has_its_name_where_there_is_room() -> None:
    names = [t.get_text() for t in drawn([row("teacher", RESNET18)], RESNET18).axes[0].texts if t.get_gid() == "site"]
    assert names == [name for name, _, _ in RESNET18]


def test_of_many_columns_some_are_named_readably_and_none_is_numbered() -> None:
    figure = drawn([row("teacher", RESNET152)], RESNET152)
    named = [t for t in figure.axes[0].texts if t.get_gid() == "site" and t.get_text()]
    assert 10 < len(named) < len(RESNET152)
    assert all(float(t.get_fontsize()) >= 6 for t in named)
    assert numbers_of(figure) == []
    stages = [t.get_text() for t in figure.texts if t.get_gid() == "stage"]
    assert stages == ["S1", "S2", "S3", "S4", "S5"]


def test_a_heading_stands_over_its_stage_or_as_near_as_its_neighbours_let_it() -> None:
    figure = drawn([row("teacher", RESNET18)], RESNET18)
    axes = figure.axes[0]
    for text, (start, end) in zip(
        [t for t in figure.texts if t.get_gid() == "stage"], [(0, 5), (5, 9), (9, 13), (13, 17)], strict=True
    ):
        x0, x1 = (axes.transData.transform((x, 0))[0] for x in (start, end))
        box = text.get_window_extent()
        assert (box.x0 + box.x1) / 2 == pytest.approx((x0 + x1) / 2, abs=1)
    narrow = drawn([row("teacher", RESNET152)], RESNET152)
    left = narrow.axes[0].get_window_extent().x0
    assert all(t.get_window_extent().x0 > left - 0.2 * narrow.dpi for t in narrow.texts if t.get_gid() == "stage")


def test_a_label_that_is_cut_says_so() -> None:
    figure = drawn([row("cull S1, thin, " * 8, RESNET18)], RESNET18)
    label = next(t.get_text() for t in figure.texts if t.get_gid() == "row")
    assert label.count("\n") == 1
    assert label.endswith("…")


def test_no_rows_at_all_can_be_drawn() -> None:
    assert flaws(drawn([], RESNET18)) == []


def test_a_network_without_sites_and_a_site_of_another_network_are_refused() -> None:
    with pytest.raises(UserError, match="no ReLU sites"):
        layers_figure([], [], title="t")
    with pytest.raises(UserError, match=r"cull S1 keeps ReLUs at other\.relu; the network has no such site"):
        layers_figure([LayerRow(label="cull S1", relu_count=1, kept={"other.relu": 1})], RESNET18, title="t")


def test_the_same_rows_make_the_same_bytes() -> None:
    rows = [row("teacher", RESNET18), row("cull S1", RESNET18, without="S1")]
    assert figure_bytes(drawn(rows, RESNET18), "png") == figure_bytes(drawn(rows, RESNET18), "png")
