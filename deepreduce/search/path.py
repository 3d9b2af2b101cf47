"""The order in which networks are trained so that each can start as the one that is nearest to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from deepreduce.methods.proposal import Proposal
from deepreduce.transforms import can_warm_start


def in_order(proposals: Sequence[Proposal], cost: Callable[[Proposal], float]) -> list[Proposal]:
    """Return the networks in the order in which they are trained: the most expensive first."""
    return sorted(proposals, key=lambda p: (-cost(p), -p.macs, p.label))


def parents(ordered: Sequence[Proposal]) -> Mapping[Proposal, Proposal | None]:
    """Return what each network starts as: the last one before it that has all its ReLUs, channels and blocks.

    None for a network that starts as the full one.
    """
    found: dict[Proposal, Proposal | None] = {}
    for proposal in ordered:
        able = [before for before in found if can_warm_start(proposal.plan, before.plan)]
        # of the same width and resolution if there is one: its weights need no cutting
        alike = [p for p in able if (p.plan.alpha, p.plan.rho) == (proposal.plan.alpha, proposal.plan.rho)]
        best = alike or able
        found[proposal] = best[-1] if best else None
    return found
