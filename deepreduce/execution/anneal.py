"""Anneal the ReLUs that a plan drops: the training callback of `fast.ease`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from deepreduce.plan import ReductionPlan
from deepreduce.training import PreparedStudent, TrainingCallback, TrainingState
from deepreduce.transforms import AnnealedNetwork, anneal


@dataclass(frozen=True)
class Anneal:
    """Build callbacks that remove the ReLUs which a plan drops gradually, over the first `share` of the training.

    The network starts as its reduction by `start` (None: as the original): what is gone there is gone at once.
    """

    share: float
    start: ReductionPlan | None = None

    def build(self, student: PreparedStudent) -> TrainingCallback:
        """Have the annealed network trained in the student's place; do nothing if no ReLU can be annealed."""
        annealed = anneal(student.original, student.plan, start=self.start, seed=student.seed)
        if annealed is None:
            return TrainingCallback()
        replaced, student.module = student.module, annealed.module
        annealed.module.load_state_dict(replaced.state_dict())
        return AnnealCallback(annealed, share=self.share, replaced=replaced)


class AnnealCallback(TrainingCallback):
    """Anneal a network over the first `share` of its training; then copy its weights to the module it replaced.

    It keeps no state: how far the ReLUs are gone follows from the step.
    """

    def __init__(self, annealed: AnnealedNetwork, *, share: float, replaced: nn.Module) -> None:
        self._annealed, self._share, self._replaced = annealed, share, replaced

    def on_step_start(self, state: TrainingState) -> None:
        self._annealed.advance(state.share_done / self._share)

    def on_step_end(self, state: TrainingState) -> None:
        if state.step == state.total_steps:  # the last validation is of the network that the plan names
            self._annealed.advance(1.0)

    def on_end(self, state: TrainingState) -> None:
        self._replaced.load_state_dict(self._annealed.module.state_dict())
