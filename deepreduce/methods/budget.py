"""How a budget of training is shared out, and which networks are not worth more of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def share_epochs(costs: Sequence[float], *, budget: float, limit: float) -> list[float]:
    """Epochs for each of some networks that together cost `budget`, none more than `limit`.

    `costs` are those of an epoch of each, in the unit of the budget. What an accuracy still lacks falls about with
    the inverse of the epochs, so the last epoch of each gains the same per cost where epochs go with 1 / sqrt(cost):
    small networks get more of them.
    """
    epochs = [0.0] * len(costs)
    free = [i for i, cost in enumerate(costs) if cost > 0]
    left = budget
    while free and left > 0:
        scale = left / sum(math.sqrt(costs[i]) for i in free)
        capped = [i for i in free if scale / math.sqrt(costs[i]) >= limit]
        if not capped:
            for i in free:
                epochs[i] = scale / math.sqrt(costs[i])
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
