"""Placing boxes beside points: none touches another, nor what it must keep off."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepreduce.report.figures.label_placement import Array, Surroundings, crosses, overlap, place_labels
from deepreduce.utils.format import COUNT

WIDTH, HEIGHT, RADIUS, GAP = 1000.0, 600.0, 6.0, 4.0

inside = st.tuples(st.integers(40, 960).map(float), st.integers(40, 560).map(float))
sizes = st.tuples(st.integers(10, 120).map(float), st.integers(10, 50).map(float))


def rows(values: list[tuple[float, ...]]) -> Array:
    return np.array(values, dtype=float).reshape(-1, 4)


def markers(points: list[tuple[float, float]]) -> Array:
    return rows([(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points])


def apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] >= b[2] or a[2] <= b[0] or a[1] >= b[3] or a[3] <= b[1]


@settings(max_examples=40)
@given(st.lists(st.tuples(inside, sizes), max_size=10, unique_by=lambda pair: pair[0]), st.lists(inside, max_size=5))
def test_what_is_placed_is_whole_inside_and_touches_nothing(
    labels: list[tuple[tuple[float, float], tuple[float, float]]], others: list[tuple[float, float]]
) -> None:
    points = [point for point, _ in labels]
    hard = markers([*points, *others])
    placed = place_labels(
        points,
        [size for _, size in labels],
        Surroundings(
            hard=hard, soft=rows([]), walls=rows([]), segments=rows([]), bounds=(0, 0, WIDTH, HEIGHT), gap=GAP
        ),
        radius=RADIUS,
        reach=200,
    )
    if placed is None:
        return
    boxes = [p.box for p in placed]
    for box, (_, (width, height)) in zip(boxes, labels, strict=True):
        assert (box[2] - box[0], box[3] - box[1]) == pytest.approx((width, height))
        assert apart(box, (-np.inf, -np.inf, 0, np.inf)) and apart(box, (WIDTH, -np.inf, np.inf, np.inf))
        assert apart(box, (-np.inf, -np.inf, np.inf, 0)) and apart(box, (-np.inf, HEIGHT, np.inf, np.inf))
        assert all(apart(box, tuple(other)) for other in hard)
    assert all(apart(a, b) for a, b in itertools.combinations(boxes, 2))


def test_a_wall_is_never_crossed_and_a_segment_only_where_there_is_no_other_place() -> None:
    diagonal = rows([(0, 0, WIDTH, HEIGHT)])
    anchor, size = (WIDTH / 2, HEIGHT / 2), (100.0, 30.0)

    def place(*, walls: Array, segments: Array, reach: float = 200) -> tuple[float, float, float, float] | None:
        around = Surroundings(
            hard=markers([anchor]),
            soft=rows([]),
            walls=walls,
            segments=segments,
            bounds=(0, 0, WIDTH, HEIGHT),
            gap=GAP,
        )
        placed = place_labels([anchor], [size], around, radius=RADIUS, reach=reach)
        return None if placed is None else placed[0].box

    for walls, segments in ((diagonal, rows([])), (rows([]), diagonal)):
        box = place(walls=walls, segments=segments)
        assert box is not None
        assert not crosses(diagonal, rows([box])).any()
    # walls so close that nothing fits between them
    fence = rows([(x, 0, x, HEIGHT) for x in np.arange(0, WIDTH, 50)])
    assert place(walls=fence, segments=rows([])) is None
    assert place(walls=rows([]), segments=fence) is not None


def test_where_there_is_no_room_nothing_is_placed() -> None:
    around = Surroundings(
        hard=rows([]), soft=rows([]), walls=rows([]), segments=rows([]), bounds=(0, 0, 50, 50), gap=GAP
    )
    assert place_labels([(25, 25)], [(100, 20)], around, radius=RADIUS, reach=500) is None
    assert place_labels([], [], around, radius=RADIUS, reach=500) == []


coordinates = st.integers(0, 12).map(float)
segments = st.tuples(coordinates, coordinates, coordinates, coordinates)
boxes = st.tuples(coordinates, coordinates, st.integers(1, 5), st.integers(1, 5)).map(
    lambda b: (b[0] + 0.25, b[1] + 0.25, b[0] + b[2] - 0.25, b[1] + b[3] - 0.25)
)


@given(segments, boxes)
def test_a_segment_crosses_a_box_where_one_of_its_points_lies_inside(
    segment: tuple[float, ...], box: tuple[float, ...]
) -> None:
    steps = np.linspace(0, 1, 2001)[:, None]
    along = np.array(segment[:2]) + steps * (np.array(segment[2:]) - np.array(segment[:2]))  # (n, 2)
    within = ((along > np.array(box[:2])) & (along < np.array(box[2:]))).all(axis=1).any()
    if within:
        assert crosses(rows([segment]), rows([box])).all()
    # a sampled segment may miss a corner that it cuts; a box a little smaller is not touched then
    elif crosses(rows([segment]), rows([box])).any():
        shrunk = (box[0] + 0.02, box[1] + 0.02, box[2] - 0.02, box[3] - 0.02)
        assert not crosses(rows([segment]), rows([shrunk])).any()


@given(boxes, boxes)
def test_overlap_is_of_boxes_nearer_than_the_gap(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert overlap(rows([a]), rows([b]), gap=0.0).all() == (not apart(a, b))
    grown = (a[0] - 1, a[1] - 1, a[2] + 1, a[3] + 1)
    assert overlap(rows([a]), rows([b]), gap=1.0).all() == (not apart(grown, b))


@pytest.mark.parametrize(
    ("relu_count", "text"),
    [
        (0, "0"),
        (512, "512"),
        (999, "999"),
        (999.6, "1K"),
        (1000, "1K"),
        (28_672, "28.7K"),
        (557_056, "557.1K"),
        (999_949, "999.9K"),
        (999_950, "1M"),
        (1_230_000, "1.23M"),
        (21_050_000, "21.05M"),
    ],
)
def test_a_count_is_short(relu_count: float, text: str) -> None:
    assert COUNT.text(relu_count) == text
