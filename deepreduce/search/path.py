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
        nearest = alike or able
        found[proposal] = nearest[-1] if nearest else None
    return found


def levels(parents: Mapping[Proposal, Proposal | None]) -> list[list[Proposal]]:
    """Return the networks in groups whose parents are all in earlier groups: those of one can be trained at a time.

    `parents` lists every network after its parent.
    """
    depths: dict[Proposal, int] = {}
    found: list[list[Proposal]] = []
    for proposal, parent in parents.items():
        depth = depths[proposal] = 0 if parent is None else depths[parent] + 1
        if depth == len(found):
            found.append([])
        found[depth].append(proposal)
    return found
