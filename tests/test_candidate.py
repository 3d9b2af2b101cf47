"""A candidate is a plan with its fate."""

from __future__ import annotations

from deepreduce.candidate import TEACHER_ID, Candidate
from deepreduce.plan import ReductionPlan


def test_only_the_full_network_is_the_teacher() -> None:
    plan = ReductionPlan()
    for plan_id in (TEACHER_ID, "0123456789"):
        candidate = Candidate(plan_id=plan_id, plan=plan, label="x", relu_count=1, folder=plan_id)
        assert candidate.is_teacher == (plan_id == "teacher")
        assert candidate.measurement is None and not candidate.is_dropped
