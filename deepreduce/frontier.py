"""Which candidates are worth having: dominance, the Pareto front, its hypervolume, and picking from it.

A point has a cost (lower is better) and an accuracy (higher is better). Choosing is by *validation* accuracy
throughout; the test accuracy is only ever reported.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import moocore
import numpy as np

from deepreduce.candidate import Candidate, Measurement
from deepreduce.cost.objective import COUNT_OF_RELUS, RELUS, Limits, Objective
from deepreduce.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A cost (lower is better, any unit) and an accuracy (higher is better, any unit).

    Raises `UserError` where either is NaN or infinite: such a point neither dominates nor is dominated.
    """

    cost: float
    accuracy: float

    def __post_init__(self) -> None:
        for name in ("cost", "accuracy"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise UserError(f"{name} is {value!r}; a point of the frontier needs a finite number")


def dominates(a: Point, b: Point) -> bool:
    """True where `a` is nowhere worse than `b`, and better in cost or in accuracy."""
    return a.cost <= b.cost and a.accuracy >= b.accuracy and (a.cost < b.cost or a.accuracy > b.accuracy)


def log_cost(relu_count: float) -> float:
    """log10 of a ReLU count: as a cost, it makes a decade worth as much everywhere.

    In plain counts the step from 900K to 1M ReLUs weighs as much as that from 100K to 0, and a hypervolume
    shows little but the largest networks. No ReLU at all costs as much as a single one, 0.0. Raises
    `UserError` for a negative, infinite or NaN count.
    """
    if not math.isfinite(relu_count) or relu_count < 0:
        raise UserError(f"relu_count is {relu_count!r}; give a number of ReLUs, 0 or more")
    return math.log10(max(relu_count, 1))


def log_costs(objective: Objective, networks: Iterable[Candidate]) -> list[float]:
    """log10 of what networks cost under an objective, ReLUs as `log_cost` has them."""
    if objective.name == RELUS:
        return [log_cost(c.relu_count) for c in networks]
    return [math.log10(max(objective.cost(c), sys.float_info.min)) for c in networks]


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
    """The candidates that none of the others dominates, by cost ascending (so by accuracy ascending too).

    Of several with equal cost and accuracy only the first is kept. Failed candidates (`measurement` None) are
    left out. Anything else than candidates will do where `cost` and `accuracy` are given. Raises `UserError`
    where a cost or accuracy is NaN or infinite.
    """
    measured = [c for c in candidates if not (isinstance(c, Candidate) and c.measurement is None)]
    points = [(Point(cost=cost(c), accuracy=accuracy(c)), c) for c in measured]
    front: list[T] = []
    best_accuracy = -math.inf
    # the sort is stable: of equal points the first given comes first, and only it raises the accuracy
    for point, candidate in sorted(points, key=lambda pair: (pair[0].cost, -pair[0].accuracy)):
        if point.accuracy > best_accuracy:
            front.append(candidate)
            best_accuracy = point.accuracy
    return front


def front_by(objective: Objective, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The Pareto front of the candidates whose cost by that objective is known, cheapest first."""
    return pareto_front([c for c in candidates if objective.knows(c)], cost=objective.cost)


def hypervolume(points: Iterable[Point], *, reference: Point) -> float:
    """The area that the points dominate up to the reference: in units of cost times units of accuracy.

    The reference is a point worse than any of interest; what lies beyond it adds nothing, and no points at
    all give 0.0. For ReLU counts use `log_cost` as the cost, of the reference too. Computed by `moocore`.
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
    """The candidate to use under a budget, an accuracy to keep, or both.

    With `max_relus` (for an image) or `max_cost` (what the objective counts: ReLUs, seconds or bytes): the most
    accurate one that has no more (of equals the cheapest by the objective), among those of at least `min_accuracy`
    where that is given too. With `min_accuracy` alone, a fraction: the cheapest one that is at least as accurate (of
    equals the most accurate). Accuracy is validation accuracy. Failed candidates are never chosen. Raises `UserError`
    where none is given, and where no candidate will do; it then names the nearest that there is.
    """
    limits = Limits(max_relus=max_relus, max_cost=max_cost, objective=objective)
    limited = bool(limits.given)
    if not limited and min_accuracy is None:
        raise UserError("neither max_relus, max_cost nor min_accuracy is given; give a budget, an accuracy, or both")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise UserError(f"min_accuracy is {min_accuracy!r}; it is a fraction, so give a number in [0, 1]")
    every = [c for c in candidates if objective.knows(c)]
    front = front_by(objective, every)
    if not front:
        raise UserError("no candidate was trained and measured; there is none to choose from")
    affordable = front_by(objective, [c for c in every if limits.allow(c)])
    # what is best by either rule lies on the front of those
    chosen = [c for c in affordable if min_accuracy is None or measurement_of(c).val_accuracy >= min_accuracy]
    if chosen:
        return chosen[-1] if limited else chosen[0]
    wanted = [limits.text()] if limited else []
    if min_accuracy is not None:
        wanted.append(f"at least {100 * min_accuracy:.2f} % validation accuracy")
    if affordable:
        nearest = affordable[-1]
        what = "the most accurate within the budget" if limited else "the most accurate"
    else:
        nearest = front[0]
        what = "the one of fewest ReLUs" if objective.name == RELUS else "the cheapest"
    raise UserError(
        f"no candidate has {' and '.join(wanted)}; {what} is {nearest.plan_id} ({nearest.label}): "
        f"{objective.text(objective.cost(nearest))}, {100 * measurement_of(nearest).val_accuracy:.2f} %"
    )


def knee(front: Sequence[Candidate], *, objective: Objective = COUNT_OF_RELUS) -> Candidate:
    """The point of the front where a higher cost stops paying: the one furthest above the chord between its ends.

    The distance is taken in (`log_costs`, validation accuracy), both scaled to [0, 1] over the front, so that
    it does not depend on their units. Where no point lies above the chord (as on a front of one or two
    points) there is no knee, and the most accurate end is returned. Raises `UserError` for an empty front.
    """
    points = front_by(objective, front)
    if not points:
        raise UserError("the front is empty; it has no knee")
    costs = log_costs(objective, points)
    accuracies = [measurement_of(c).val_accuracy for c in points]
    # only 0 and 1 ReLU share a log cost; then, and with one point, there is no width to scale by
    width = (costs[-1] - costs[0]) or 1.0
    height = (accuracies[-1] - accuracies[0]) or 1.0
    # up to the constant factor 1/sqrt(2), the height above the chord y = x is the distance from it
    above = [
        (accuracy - accuracies[0]) / height - (cost - costs[0]) / width
        for cost, accuracy in zip(costs, accuracies, strict=True)
    ]
    top = max(range(len(points)), key=lambda i: above[i])
    return points[top] if above[top] > 1e-9 else points[-1]


def measurement_of(candidate: Candidate) -> Measurement:
    """The measurement of a candidate. Raises `UserError` for one that failed, with its reason."""
    if candidate.measurement is None:
        reason = candidate.failure or "no reason recorded"
        raise UserError(f"candidate {candidate.plan_id} ({candidate.label}) has no measurement: {reason}")
    return candidate.measurement
