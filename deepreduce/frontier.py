"""Dominance, the Pareto front, its hypervolume, and the choice of a candidate.

A point has a cost (lower is better) and an accuracy (higher is better). All choices are made by *validation*
accuracy; test accuracy is only reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import moocore
import numpy as np

from deepreduce.candidate import Candidate, Measurement
from deepreduce.cost.objective import COUNT_OF_RELUS, Limits, Objective
from deepreduce.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A cost (lower is better) and an accuracy (higher is better), in any units.

    Raises `UserError` if either is NaN or infinite: such a point neither dominates another nor is dominated.
    """

    cost: float
    accuracy: float

    def __post_init__(self) -> None:
        for name in ("cost", "accuracy"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise UserError(f"{name} is {value!r}; a point of the frontier needs a finite number")


def dominates(a: Point, b: Point) -> bool:
    """Return True if `a` is at least as good as `b` in both cost and accuracy, and better in one of them."""
    return a.cost <= b.cost and a.accuracy >= b.accuracy and (a.cost < b.cost or a.accuracy > b.accuracy)


def log_cost(relu_count: float) -> float:
    """Return log10 of a ReLU count, a cost by which every decade counts the same.

    In plain counts the step from 900K to 1M ReLUs weighs as much as that from 100K to 0, and a hypervolume
    shows little but the largest networks. No ReLU costs as much as one, 0.0. Raises `UserError` for a negative,
    infinite or NaN count.
    """
    if not math.isfinite(relu_count) or relu_count < 0:
        raise UserError(f"relu_count is {relu_count!r}; give a number of ReLUs, 0 or more")
    return math.log10(max(relu_count, 1))


def log_costs(objective: Objective, networks: Iterable[Candidate]) -> list[float]:
    """Return log10 of the networks' costs under an objective; of ReLU counts, their `log_cost`."""
    return [math.log10(max(objective.cost(c), objective.least)) for c in networks]


@overload
def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]: ...
@overload
def pareto_front(
    candidates: Iterable[T],
    *,
    cost: Callable[[T], float] = ...,
    accuracy: Callable[[T], float] = ...,
) -> list[T]: ...
def pareto_front(
    candidates: Iterable[T],
    *,
    cost: Callable[[T], float] = lambda c: c.relu_count,  # type: ignore[attr-defined]
    accuracy: Callable[[T], float] = lambda c: c.measurement.val_accuracy,  # type: ignore[attr-defined]
) -> list[T]:
    """Return the candidates that no other dominates, by cost ascending (hence also by accuracy ascending).

    Of candidates with equal cost and accuracy only the first is kept. Failed candidates (`measurement` None) are
    left out. With `cost` and `accuracy`, the candidates may be values of any type. Raises `UserError` if a cost or
    accuracy is NaN or infinite.
    """
    measured = [c for c in candidates if not (isinstance(c, Candidate) and c.measurement is None)]
    points = [(Point(cost=cost(c), accuracy=accuracy(c)), c) for c in measured]
    front: list[T] = []
    best_accuracy = -math.inf
    # the sort is stable: of equal points the first given comes first, and only the first raises the best accuracy
    for point, candidate in sorted(points, key=lambda pair: (pair[0].cost, -pair[0].accuracy)):
        if point.accuracy > best_accuracy:
            front.append(candidate)
            best_accuracy = point.accuracy
    return front


def front_by(objective: Objective, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the Pareto front of the candidates of known cost under an objective, cheapest first."""
    return pareto_front([c for c in candidates if objective.knows(c)], cost=objective.cost)


def hypervolume(points: Iterable[Point], *, reference: Point) -> float:
    """Return the area between the front of the points and the reference, in units of cost times units of accuracy.

    The reference is worse than all points of interest: points beyond it add nothing, and no points give 0.0. For
    ReLU counts, use `log_cost` as the cost of the points and of the reference. Computed by `moocore`.
    """
    inside = [(p.cost, p.accuracy) for p in points if p.cost < reference.cost and p.accuracy > reference.accuracy]
    if not inside:
        return 0.0
    ref = np.array([reference.cost, reference.accuracy])
    return float(moocore.hypervolume(np.array(inside, dtype=float), ref=ref, maximise=[False, True]))


def best(
    candidates: Iterable[Candidate],
    *,
    max_relus: float | None = None,
    max_cost: float | None = None,
    min_accuracy: float | None = None,
    objective: Objective = COUNT_OF_RELUS,
) -> Candidate:
    """Return the best candidate under a budget, a least accuracy, or both.

    With a budget, `max_relus` (for one image) or `max_cost` (in the objective's unit: ReLUs, seconds or bytes), it is
    the most accurate candidate within the budget, of equally accurate ones the cheapest by the objective; with
    `min_accuracy` (a fraction) as well, only candidates of at least this accuracy count. With `min_accuracy` alone,
    it is the cheapest candidate of at least this accuracy, of equally cheap ones the most accurate. Accuracy is
    validation accuracy. Failed candidates are never chosen. Raises `UserError` if no limit is given, and if no
    candidate meets the limits; the message then names the nearest candidate.
    """
    limits = Limits(max_relus=max_relus, max_cost=max_cost, objective=objective)
    has_budget = bool(limits.given)
    if not has_budget and min_accuracy is None:
        raise UserError("neither max_relus, max_cost nor min_accuracy is given; give a budget, an accuracy, or both")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise UserError(f"min_accuracy is {min_accuracy!r}; give a fraction in [0, 1]")
    every = [c for c in candidates if objective.knows(c)]
    front = front_by(objective, every)
    if not front:
        raise UserError("no candidate has a measurement; there is none to choose from")
    affordable = front_by(objective, [c for c in every if limits.allow(c)])
    # the best candidate by either rule lies on the front of the affordable ones
    chosen = [c for c in affordable if min_accuracy is None or measurement_of(c).val_accuracy >= min_accuracy]
    if chosen:
        return chosen[-1] if has_budget else chosen[0]
    wanted = [limits.text()] if has_budget else []
    if min_accuracy is not None:
        wanted.append(f"at least {100 * min_accuracy:.2f} % validation accuracy")
    if affordable:
        nearest = affordable[-1]
        what = "the most accurate within the budget" if has_budget else "the most accurate"
    else:
        nearest = front[0]
        what = objective.cheapest
    raise UserError(
        f"no candidate has {' and '.join(wanted)}; {what} is {nearest.plan_id} ({nearest.label}): "
        f"{objective.text(objective.cost(nearest))}, {100 * measurement_of(nearest).val_accuracy:.2f} %"
    )


def knee(front: Sequence[Candidate], *, objective: Objective = COUNT_OF_RELUS) -> Candidate:
    """Return the front's knee, beyond which a higher cost gains little: the point farthest above the ends' chord.

    The distance is measured in (`log_costs`, validation accuracy), both scaled to [0, 1] over the front, so that
    it does not depend on their units. If no point lies above the chord (as on a front of one or two points), there
    is no knee, and the most accurate point is returned. Raises `UserError` for an empty front.
    """
    points = front_by(objective, front)
    if not points:
        raise UserError("the front is empty; it has no knee")
    costs = log_costs(objective, points)
    accuracies = [measurement_of(c).val_accuracy for c in points]
    # the width is 0 for a front of one point, or of 0 and 1 ReLU, which share a log cost
    width = (costs[-1] - costs[0]) or 1.0
    height = (accuracies[-1] - accuracies[0]) or 1.0
    # the height above the chord y = x is sqrt(2) times the distance from it
    above = [
        (accuracy - accuracies[0]) / height - (cost - costs[0]) / width
        for cost, accuracy in zip(costs, accuracies, strict=True)
    ]
    top = max(range(len(points)), key=lambda i: above[i])
    return points[top] if above[top] > 1e-9 else points[-1]


def measurement_of(candidate: Candidate) -> Measurement:
    """Return a candidate's measurement. Raises `UserError`, with the reason, for a candidate that failed."""
    if candidate.measurement is None:
        reason = candidate.failure or "no reason recorded"
        raise UserError(f"candidate {candidate.plan_id} ({candidate.label}) has no measurement: {reason}")
    return candidate.measurement
