"""candidates.json: the candidates of a run so far, from which tables, plots and the page are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from deepreduce.candidate import Candidate, Measurement
from deepreduce.errors import CheckpointError, UserError
from deepreduce.plan import ReductionPlan
from deepreduce.store.names import CANDIDATES, CANDIDATES_RECORD, DRAFTS, PROBES, TEACHER
from deepreduce.store.sealed import RecordModel, checked, read_run_record
from deepreduce.utils.records import write_record

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0, le=2**63)]


class _MeasurementRecord(RecordModel):
    relu_count: _Count
    stage_relu_counts: dict[str, _Count]
    macs: _Count
    val_accuracy: _Fraction
    test_accuracy: _Fraction
    churn: _Fraction
    train_seconds: Annotated[float, Field(ge=0)]


class _CandidateRecord(RecordModel):
    plan_id: Annotated[str, Field(pattern=f"^{_NAME}$", max_length=100)]
    plan: dict[str, Any]
    label: Annotated[str, Field(max_length=4096)]
    relu_count: _Count
    # a path below the run's folder, and nowhere else
    folder: Annotated[str, Field(pattern=f"^({TEACHER}|({PROBES}|{DRAFTS}|{CANDIDATES})/{_NAME})$", max_length=200)]
    measurement: _MeasurementRecord | None
    failure: str | None
    is_dropped: bool


class _CandidatesRecord(RecordModel):
    candidates: list[_CandidateRecord]


def write_candidates(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Write candidates.json, in the order of candidates.csv. Costs are not in it: costs.json has them."""
    rows = [
        {
            "plan_id": c.plan_id,
            "plan": c.plan.to_json(),
            "label": c.label,
            "relu_count": c.relu_count,
            "folder": c.folder,
            "measurement": None if c.measurement is None else asdict(c.measurement),
            "failure": c.failure,
            "is_dropped": c.is_dropped,
        }
        for c in sorted(candidates, key=lambda c: (-c.relu_count, c.plan_id))
    ]
    write_record(folder / CANDIDATES_RECORD, {"candidates": rows})


def read_candidates(folder: Path) -> list[Candidate]:
    """Return the candidates of a run, without costs; masks are known by their digests.

    Raises `CheckpointError` where the record is missing or is not as it was written.
    """
    path = folder / CANDIDATES_RECORD
    record = checked(_CandidatesRecord, read_run_record(path), path, "does not list a run's networks")
    try:
        found = [
            Candidate(
                plan_id=row.plan_id,
                plan=ReductionPlan.from_json(row.plan),
                label=row.label,
                relu_count=row.relu_count,
                folder=row.folder,
                measurement=None if row.measurement is None else Measurement(**row.measurement.model_dump()),
                failure=row.failure,
                is_dropped=row.is_dropped,
            )
            for row in record.candidates
        ]
    except UserError as error:
        raise CheckpointError(f"{path} does not list a run's networks: {error}") from error
    if len({c.plan_id for c in found}) < len(found):
        raise CheckpointError(f"{path} does not list a run's networks: two have one plan_id")
    return found
