"""How a price is shared among networks: so that each gains the same by its last epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


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
