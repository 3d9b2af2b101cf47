"""Place labels next to the points of a plot without collisions.

The search is greedy: each label takes the cheapest free position of a ring around its point, then each is placed once
more among the others. All lengths are in pixels, with y upwards; a box is (x0, y0, x1, y1), a segment the (x, y) of
its two ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DIRECTIONS = 24
_ROUNDS = 3
_LINE_PENALTY = 150.0
_DOUBT_PENALTY = 40.0
_SOFT_PENALTY = 60.0
_LEADER_PENALTY = 120.0


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The position of a label: its box, and the leader line from its point to the box, None if the box is near."""

    box: tuple[float, float, float, float]
    leader: tuple[float, float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Obstacles of the labels: `hard` boxes and `walls` must be avoided, `soft` boxes and `segments` if possible.

    Labels stay inside the box `bounds`, at least `gap` away from everything else.
    """

    hard: Array  # (n, 4)
    soft: Array  # (n, 4)
    walls: Array  # (n, 4)
    segments: Array  # (n, 4)
    bounds: tuple[float, float, float, float]
    gap: float


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    surroundings: Surroundings,
    *,
    radius: float,
    reach: float,
) -> list[Placement] | None:
    """Place labels of the given `sizes` (width, height) near their `anchors` (x, y); return None if one has no place.

    `radius` is the radius of the anchors' markers, which must be in `surroundings.hard` as well; `reach` is the
    largest distance between a label and its point. The result is deterministic.
    """
    points = np.array(anchors, dtype=float).reshape(-1, 2)
    options = [_options(points, i, size, surroundings, radius=radius, reach=reach) for i, size in enumerate(sizes)]
    if any(len(boxes) == 0 for boxes, _, _, _ in options):
        return None
    # labels with the fewest free positions first, because the others can move
    by_freedom = sorted(range(len(options)), key=lambda i: len(options[i][0]))
    by_position = sorted(range(len(options)), key=lambda i: anchors[i])
    best: tuple[float, dict[int, int]] | None = None
    for order in (by_freedom, by_position, by_position[::-1]):
        found = _place_in(order, options, gap=surroundings.gap)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        return None
    near = radius + 3.5 * surroundings.gap
    placements = []
    for i in range(len(options)):
        boxes, leaders, doubtful, _ = options[i]
        box, leader = boxes[best[1][i]], leaders[best[1][i]]
        length = float(np.hypot(leader[2] - leader[0], leader[3] - leader[1]))
        long = length > near or (bool(doubtful[best[1][i]]) and length > radius)
        placements.append(
            Placement(
                box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                leader=(float(leader[0]), float(leader[1]), float(leader[2]), float(leader[3])) if long else None,
            )
        )
    return placements


# boxes (n, 4); leaders (n, 4) from point to box; doubtful (n,): another point is about as near; costs (n,)
_Options = tuple[Array, Array, NDArray[np.bool_], Array]


def _options(
    points: Array,
    index: int,
    size: tuple[float, float],
    around: Surroundings,
    *,
    radius: float,
    reach: float,
) -> _Options:
    anchor = points[index]
    steps = np.geomspace(radius + 1.5 * around.gap, max(reach, radius + 2 * around.gap), 16)
    angles = np.linspace(0, 2 * np.pi, _DIRECTIONS, endpoint=False)
    distance, angle = (grid.ravel() for grid in np.meshgrid(steps, angles, indexing="ij"))
    half = np.array(size) / 2
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (n, 2)
    # the point of the box at `distance` slides along the box's edge: its left edge for a label on the right
    hold = np.clip(1.6 * direction, -1, 1) * half
    centre = anchor + distance[:, None] * direction + hold
    boxes = np.concatenate([centre - half, centre + half], axis=1)  # (n, 4)
    nearest = np.clip(anchor, boxes[:, :2], boxes[:, 2:])
    leaders = np.concatenate([np.broadcast_to(anchor, nearest.shape), nearest], axis=1)
    low, high = np.array(around.bounds[:2]), np.array(around.bounds[2:])
    fits = (boxes[:, :2] >= low + around.gap).all(axis=1) & (boxes[:, 2:] <= high - around.gap).all(axis=1)
    fits &= ~overlap(boxes, around.hard, gap=around.gap).any(axis=1)
    fits &= ~crosses(around.walls, boxes).any(axis=1)
    boxes, leaders, distance, angle = boxes[fits], leaders[fits], distance[fits], angle[fits]
    length = np.hypot(*(leaders[:, 2:] - leaders[:, :2]).T)
    others = np.concatenate([around.hard, around.soft])
    # a leader starts inside the marker of its own point, which is no collision
    own = np.hypot(*((others[:, :2] + others[:, 2:]) / 2 - anchor).T) < 0.5
    rivals = np.delete(points, index, axis=0)
    rivals = rivals[np.hypot(*(rivals - anchor).T) >= 0.5]
    away = np.clip(rivals[None], boxes[:, None, :2], boxes[:, None, 2:]) - rivals[None]  # (n, m, 2)
    doubtful = (np.hypot(away[..., 0], away[..., 1]) < 1.3 * length[:, None]).any(axis=1)
    cost = (
        length
        # prefer the upper left of a point, which is free because a frontier rises to the right
        + 0.25 * radius * (1 - np.cos(angle - 0.75 * np.pi))
        + _LINE_PENALTY * crosses(around.segments, boxes).sum(axis=1)
        + _SOFT_PENALTY * overlap(boxes, around.soft, gap=around.gap).sum(axis=1)
        + _DOUBT_PENALTY * doubtful
        + _LEADER_PENALTY * crosses(leaders, others[~own]).sum(axis=0)
    )
    return boxes, leaders, doubtful, cost


def _place_in(
    order: Sequence[int], options: Sequence[_Options], *, gap: float
) -> tuple[float, dict[int, int]] | None:
    chosen: dict[int, int] = {}
    total = 0.0
    for _ in range(_ROUNDS):
        before = dict(chosen)
        total = 0.0
        for i in order:
            boxes, leaders, _, cost = options[i]
            placed = [j for j in chosen if j != i]
            others = np.array([options[j][0][chosen[j]] for j in placed]).reshape(-1, 4)
            lines = np.array([options[j][1][chosen[j]] for j in placed]).reshape(-1, 4)
            free = ~overlap(boxes, others, gap=gap).any(axis=1)
            free &= ~crosses(lines, boxes).any(axis=1)
            free &= ~crosses(leaders, others).any(axis=0)
            if not free.any():
                return None
            price = np.where(free, cost + _LEADER_PENALTY * _cross_lines(leaders, lines).sum(axis=1), np.inf)
            chosen[i] = int(np.argmin(price))
            total += float(price[chosen[i]])
        if chosen == before:
            break
    return total, chosen


def overlap(boxes: Array, others: Array, *, gap: float) -> NDArray[np.bool_]:
    """Return a mask (n, m): True if one of `boxes` (n, 4) is nearer than `gap` to one of `others` (m, 4)."""
    apart = (
        (boxes[:, None, 0] >= others[None, :, 2] + gap)
        | (boxes[:, None, 2] <= others[None, :, 0] - gap)
        | (boxes[:, None, 1] >= others[None, :, 3] + gap)
        | (boxes[:, None, 3] <= others[None, :, 1] - gap)
    )
    return ~apart


def crosses(segments: Array, boxes: Array) -> NDArray[np.bool_]:
    """Return a mask (n, m): True if one of `boxes` (n, 4) is touched by one of `segments` (m, 4)."""
    start, end = segments[None, :, :2], segments[None, :, 2:]
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    step = np.where(end == start, 1e-9, end - start)  # no division by zero along an axis
    first, second = (low - start) / step, (high - start) / step
    enter = np.minimum(first, second).max(axis=2)
    leave = np.maximum(first, second).min(axis=2)
    return np.asarray((enter <= leave) & (leave >= 0) & (enter <= 1))


def _cross_lines(segments: Array, others: Array) -> NDArray[np.bool_]:
    """Return a mask (n, m): True if one of `segments` (n, 4) properly crosses one of `others` (m, 4)."""
    a, b = segments[:, None, :2], segments[:, None, 2:]
    c, d = others[None, :, :2], others[None, :, 2:]

    def side(p: Array, q: Array, r: Array) -> Array:
        u, v = q - p, r - p
        return np.asarray(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])

    return np.asarray((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0))
