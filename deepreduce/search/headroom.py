"""Headroom: how much another network can add to a frontier, and how epochs are shared by that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SHORTFALL = 0.05
"""Accuracy that a student lacks after one epoch, as a share of the way from chance to the full network.

It falls with the epochs. 3 to 5 points of accuracy on digits and CIFAR-100 (docs/performance.md).
"""

_LEAST_COST, _LEAST_HEADROOM, _LEAST_DISTANCE = 1e-9, 1e-3, 0.1
"""Bounds from below: of a cost, so that it has a logarithm; of the headroom and the distance in a priority."""


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """A network that is trained already: its cost, and its validation accuracy as a fraction."""

    label: str
    cost: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class FrontierState:
    """State of a frontier before another network is trained for it.

    `full_accuracy` is the validation accuracy of the full network, whose cost is `full_cost`; `error` is the standard
    error of that accuracy, `chance` the accuracy of guessing. `incumbents` are the reduced networks that are trained.
    """

    full_cost: float
    full_accuracy: float
    error: float
    chance: float
    incumbents: tuple[Incumbent, ...] = ()

    @property
    def ceiling(self) -> float:
        """The accuracy that may be reached: the full network's, or 1 where an incumbent is clearly better.

        Also 1 where the full network is no better than guessing.
        """
        learned = self.full_accuracy > self.chance + 2 * self.error
        bound = self.full_accuracy + self.error
        return self.full_accuracy if learned and all(i.accuracy <= bound for i in self.incumbents) else 1.0

    def best(self, cost: float) -> Incumbent | None:
        """Return the most accurate incumbent of no more cost; None where there is none."""
        return max((i for i in self.incumbents if i.cost <= cost), key=lambda i: i.accuracy, default=None)

    def headroom(self, cost: float) -> float:
        """Return how much more accurate than the best incumbent a network of that cost can be."""
        incumbent = self.best(cost)
        return max(self.ceiling - max(self.chance, incumbent.accuracy if incumbent else 0.0), 0.0)

    def gain(self, cost: float, epochs: float) -> float:
        """Return roughly how much more accurate than the best incumbent a network is after `epochs` epochs.

        0 or less where the gain would be within the error; infinite where there is no incumbent of no more cost.
        """
        if self.best(cost) is None:
            return math.inf
        shortfall = _SHORTFALL * (self.full_accuracy - self.chance) / epochs if epochs else math.inf
        return self.headroom(cost) - max(shortfall, self.error)


def priorities(costs: Sequence[float], state: FrontierState) -> list[float]:
    """Return what an epoch is worth to each of some networks of these costs, in any one unit.

    The area under the frontier grows by a network's part of it (half the way to the next network on either side, in
    the logarithm of the cost) times the accuracy that the network gains. The gain is taken as the root of the
    headroom, times the logarithm of how much less the network costs than the full one: the more is removed, the more
    a network has to learn again.

        priority_i = part_i * sqrt(headroom_i) * log10(full_cost / cost_i)
    """
    known = {*costs, *(i.cost for i in state.incumbents), state.full_cost}
    places = sorted({math.log10(max(cost, _LEAST_COST)) for cost in known})
    return [
        _part(place, places)
        * math.sqrt(max(state.headroom(cost), _LEAST_HEADROOM))
        * max(places[-1] - place, _LEAST_DISTANCE)
        for cost, place in ((cost, math.log10(max(cost, _LEAST_COST))) for cost in costs)
    ]


def _part(place: float, places: Sequence[float]) -> float:
    """Return half the way from the next place below to the next above; where one lacks, the other counts twice."""
    below = [place - other for other in places if other < place][-1:]
    above = [other - place for other in places if other > place][:1]
    ways = below + above
    return sum(ways) / len(ways) if ways else 1.0


def share_epochs(
    costs: Sequence[float], *, budget: float, limit: float, priorities: Iterable[float] | None = None
) -> list[float]:
    """Return epochs for each of some networks that together cost `budget`, none more than `limit`.

    `costs` are those of an epoch of each, in the unit of the budget. What an accuracy lacks falls about with the
    inverse of the epochs, so the last epoch of each gains the same per cost where

        epochs_i = budget * sqrt(priority_i / cost_i) / sum_j sqrt(priority_j * cost_j)

    (`priorities` None: all the same): small networks get more epochs.
    """
    epochs = [0.0] * len(costs)
    pull = [math.sqrt(p) for p in priorities] if priorities is not None else [1.0] * len(costs)
    free = [i for i, cost in enumerate(costs) if cost > 0 and pull[i] > 0]
    left = budget
    while free and left > 0:
        scale = left / sum(pull[i] * math.sqrt(costs[i]) for i in free)
        capped = [i for i in free if scale * pull[i] / math.sqrt(costs[i]) >= limit]
        if not capped:
            for i in free:
                epochs[i] = scale * pull[i] / math.sqrt(costs[i])
            break
        for i in capped:
            epochs[i] = limit
        left -= sum(limit * costs[i] for i in capped)
        free = [i for i in free if i not in capped]
    return epochs


def turn_order(epochs: Sequence[float], *, rounds: int) -> list[int]:
    """Return the numbers of networks that are trained in turns, each as often as its epochs say.

    The network of the fewest epochs has `rounds` turns (a network of no epochs none).
    """
    smallest = min((e for e in epochs if e > 0), default=0.0)
    counts = [round(rounds * e / smallest) if smallest else 0 for e in epochs]
    return [number for number, count in enumerate(counts) for _ in range(count)]


def dominated(costs: Mapping[str, float], accuracies: Mapping[str, float], *, margin: float) -> dict[str, str]:
    """Return the networks that another exceeds by more than `margin` at no more cost, each with the best of those.

    `accuracies` are validation accuracies as fractions.
    """
    found = {}
    for name, accuracy in accuracies.items():
        better = [
            other for other, value in accuracies.items() if costs[other] <= costs[name] and value > accuracy + margin
        ]
        if better:
            found[name] = max(better, key=lambda other: accuracies[other])
    return found
