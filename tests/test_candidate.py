"""A candidate is a plan with its fate."""

from __future__ import annotations

from dataclasses import fields

from deepreduce.candidate import MEASURED, TEACHER_ID, Candidate, Measurement
from deepreduce.plan import ReductionPlan


def test_only_the_full_network_is_the_teacher() -> None:
    plan = ReductionPlan()
    for plan_id in (TEACHER_ID, "0123456789"):
        candidate = Candidate(plan_id=plan_id, plan=plan, label="x", relu_count=1, folder=plan_id)
        assert candidate.is_teacher == (plan_id == "teacher")
        assert candidate.measurement is None and not candidate.is_dropped


def test_every_value_of_a_measurement_but_its_relu_counts_is_shown() -> None:
    names = [field.name for field in fields(Measurement)]
    assert list(MEASURED) == [name for name in names if name not in ("relu_count", "stage_relu_counts")]
    assert [format(12, column.value) for column in MEASURED.values()] == ["12", *["12.000000"] * 3, "12.00"]
