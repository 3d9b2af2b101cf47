"""Read the plans of networks that were saved: all of a run, or one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepreduce.errors import UserError
from deepreduce.plan import ReductionPlan
from deepreduce.store.candidates import read_candidates
from deepreduce.store.checkpoint import SavedNetwork
from deepreduce.store.names import CANDIDATES_RECORD, PLAN


def read_plans(folder: str) -> Mapping[str, ReductionPlan]:
    """Return the plans of a run's networks, most ReLUs first, or of one saved network, by their labels.

    The teacher, and networks that were given up or failed, are left out. Raises `UserError` where the folder holds
    neither a run nor a network, `CheckpointError` where what it holds is not as it was written.
    """
    path = Path(folder)
    if (path / PLAN).is_file():
        saved = SavedNetwork.read(path)
        return {saved.label: saved.plan}
    if not (path / CANDIDATES_RECORD).is_file():
        raise UserError(f"{folder} holds neither a run nor a network; give the folder that optimize wrote to")
    found: dict[str, ReductionPlan] = {}
    for candidate in sorted(read_candidates(path), key=lambda c: -c.relu_count):
        if not candidate.is_teacher and candidate.measurement is not None:
            found[f"{candidate.label} ({candidate.plan_id})"] = SavedNetwork.read(path / candidate.folder).plan
    if not found:
        raise UserError(f"{folder} holds no trained network yet; resume the run first")
    return found
