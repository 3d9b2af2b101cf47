"""How a budget of training is shared out, and which networks are not worth more of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_LACKING = 0.05
"""Of the way from chance to the full network, what a student lacks after an epoch; it falls with the epochs.

3 to 5 points of accuracy on digits and CIFAR-100 (docs/performance.md).
"""

_NO_COST, _LEAST_ROOM, _LEAST_DISTANCE = 1e-9, 1e-3, 0.1
"""A cost that has a logarithm; a worth for networks without room above them, and for those as dear as the full."""


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """A network that is trained already: its cost, and its validation accuracy as a fraction."""

    label: str
    cost: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class FrontierState:
    """What is known of a frontier before another network is trained for it.

    `full` is the validation accuracy of the full network, whose cost is `whole`; `error` is the standard error of
    that accuracy, `chance` the accuracy of guessing. `rivals` are the networks that are trained.
    """

    whole: float
    full: float
    error: float
    chance: float
    rivals: tuple[Incumbent, ...] = ()

    @property
    def ceiling(self) -> float:
        """What may be reached: the full network's accuracy, unless a rival is clearly better, or guessing as good."""
        is_one = self.full > self.chance + 2 * self.error
        return self.full if is_one and all(r.accuracy <= self.full + self.error for r in self.rivals) else 1.0

    def best(self, cost: float) -> Incumbent | None:
        """The best rival of no more cost; None where there is none."""
        return max((r for r in self.rivals if r.cost <= cost), key=lambda r: r.accuracy, default=None)

    def room(self, cost: float) -> float:
        """How much better than the best rival a network of that cost can be."""
        rival = self.best(cost)
        return max(self.ceiling - max(self.chance, rival.accuracy if rival else 0.0), 0.0)

    def gain(self, cost: float, epochs: float) -> float:
        """How much better than the best rival such a network is after so many epochs, roughly.

        Not more than 0 where that could not be told; infinite where it has no rival.
        """
        if self.best(cost) is None:
            return math.inf
        lacking = _LACKING * (self.full - self.chance) / epochs if epochs else math.inf
        return self.room(cost) - max(lacking, self.error)


def worths(costs: Sequence[float], standing: FrontierState) -> list[float]:
    """What an epoch is worth to each of some networks, in any one unit.

    `costs` are those of the frontier. The area under the frontier grows by a network's part of it, half the way to
    the next network on either side in the logarithm of the cost, times what its accuracy gains. That is taken as the
    root of the room above it times the logarithm of how much less it costs than the full network: the more is
    removed, the more the network has to learn anew.
    """
    known = {*costs, *(rival.cost for rival in standing.rivals), standing.whole}
    places = sorted({math.log10(max(cost, _NO_COST)) for cost in known})
    return [
        _part(place, places)
        * math.sqrt(max(standing.room(cost), _LEAST_ROOM))
        * max(places[-1] - place, _LEAST_DISTANCE)
        for cost, place in ((cost, math.log10(max(cost, _NO_COST))) for cost in costs)
    ]


def _part(place: float, places: Sequence[float]) -> float:
    """Half the way from the next of the places below to the next above; where one lacks, the other counts twice."""
    below = [place - other for other in places if other < place][-1:]
    above = [other - place for other in places if other > place][:1]
    ways = below + above
    return sum(ways) / len(ways) if ways else 1.0


def share_epochs(
    costs: Sequence[float], *, budget: float, limit: float, worths: Iterable[float] | None = None
) -> list[float]:
    """Epochs for each of some networks that together cost `budget`, none more than `limit`.

    `costs` are those of an epoch of each, in the unit of the budget. What an accuracy still lacks falls about with
    the inverse of the epochs, so the last epoch of each gains the same worth per cost where epochs go with
    sqrt(worth / cost) (`worths` None: all the same): small networks get more of them.
    """
    epochs = [0.0] * len(costs)
    pull = [math.sqrt(w) for w in worths] if worths is not None else [1.0] * len(costs)
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


def turns_for(epochs: Sequence[float], *, rounds: int) -> list[int]:
    """Whose turn it is: each network, by its number, as often as `epochs` say.

    The shortest has `rounds` turns (a network of no epochs none).
    """
    smallest = min((e for e in epochs if e > 0), default=0.0)
    counts = [round(rounds * e / smallest) if smallest else 0 for e in epochs]
    return [number for number, count in enumerate(counts) for _ in range(count)]


def beaten(costs: Mapping[str, float], accuracies: Mapping[str, float], *, margin: float) -> dict[str, str]:
    """The networks that another one beats by more than `margin` at no more cost, each with the best of those.

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
