"""What a method hands back: reduced networks worth training."""

from __future__ import annotations

from dataclasses import dataclass

from deepreduce.plan import ReductionPlan


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A reduced network to train: its plan in normal form, in a reader's words, and what it costs.

    `relu_count` and `macs` are exact, for one image; `padded_macs` tell how long training takes
    (`Network.padded_macs`).
    """

    plan: ReductionPlan
    label: str
    relu_count: int
    macs: int
    padded_macs: int

    @property
    def plan_id(self) -> str:
        """Short hash of the plan; names the candidate's folder."""
        return self.plan.plan_id


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Networks to train, most ReLUs first, and why others that were asked for are not among them.

    `notes` tell what their edits could not do, such as layers that alpha could not scale.
    """

    networks: tuple[Proposal, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
