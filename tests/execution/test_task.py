"""A task is plain data that travels; its results are what metrics.json holds."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepreduce.execution.task import TrainResult, TrainTask, WarmStart
from deepreduce.plan import ReductionPlan
from tests.helpers.execution import alone, student
from tests.helpers.training import RECIPE

fractions = st.floats(0, 1)
counts = st.integers(0, 10**12)
results = st.builds(
    TrainResult, val_accuracy=fractions, test_accuracy=fractions, churn=fractions | st.none(),
    train_seconds=st.floats(0, 1e9), relu_count=counts, macs=counts,
    stage_relu_counts=st.dictionaries(st.text(max_size=3), counts, max_size=3) | st.none(),
)  # fmt: skip


@pytest.mark.parametrize(
    "task", [alone(first_epoch=2), alone(start=WarmStart(folder="teacher", plan=ReductionPlan()))]
)
def test_a_task_is_a_value_that_travels(task: TrainTask) -> None:
    assert pickle.loads(pickle.dumps(task)) == task and hash(task) == hash(pickle.loads(pickle.dumps(task)))
    assert not PurePosixPath(task.folder).is_absolute()


def test_a_task_has_the_name_and_folder_of_its_student() -> None:
    task = TrainTask(student=student("candidates/3fa", name="cull"), recipe=RECIPE)
    assert (task.name, task.folder) == ("cull", "candidates/3fa")


@settings(max_examples=30)
@given(results)
def test_a_result_is_read_back_from_json_as_it_was(result: TrainResult) -> None:
    content = json.loads(json.dumps(result.to_json()))
    assert TrainResult.from_json(content) == result
    assert None not in content.values()


def test_metrics_hold_the_keys_that_runs_have_always_had() -> None:
    result = TrainResult(
        val_accuracy=0.5, test_accuracy=0.25, churn=0.125, train_seconds=2.0, relu_count=64, macs=128,
        stage_relu_counts={"S1": 64},
    )  # fmt: skip
    assert list(result.to_json().items()) == [
        ("val_accuracy", 0.5), ("test_accuracy", 0.25), ("churn", 0.125), ("train_seconds", 2.0), ("relu_count", 64),
        ("stage_relu_counts", {"S1": 64}), ("macs", 128),
    ]  # fmt: skip
    failed = TrainResult(relu_count=64, failure="the loss was not finite")
    assert list(failed.to_json()) == ["train_seconds", "relu_count", "macs", "failure"]
    assert TrainResult.from_json(failed.to_json()) == failed


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "incomplete"),
        ({"val_accuracy": 0.5}, "incomplete"),
        ({"test_accuracy": 0.5}, "incomplete"),
        *[
            ({"val_accuracy": value, "test_accuracy": 0.5}, "no count, fraction or time")
            for value in ("high", math.nan, math.inf, 1.5, -0.1, 10**400, True)
        ],
        *[
            ({"val_accuracy": 0.5, "test_accuracy": 0.5, name: value}, "no count, fraction or time")
            for name in ("relu_count", "macs", "train_seconds")
            for value in (None, -1, 10**400, "3", [3])
        ],
        ({"val_accuracy": 0.5, "test_accuracy": 0.5, "stage_relu_counts": [3]}, "no count, fraction or time"),
        ({"val_accuracy": 0.5, "test_accuracy": 0.5, "stage_relu_counts": {"S1": 0.5}}, "no count, fraction or time"),
        ({"failure": 3}, "no text"),
        ({"val_accuracy": 0.5, "test_accuracy": 0.5, "more": 1}, "can't be read: .*'more'"),
    ],
)
def test_metrics_that_say_something_else_are_refused(content: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainResult.from_json(content)


def test_a_result_is_summarised_and_measured() -> None:
    tested = TrainResult(val_accuracy=0.9028, test_accuracy=0.895, train_seconds=12.3, relu_count=14336)
    assert tested.summary() == "val 90.28 %, test 89.50 %, 14,336 ReLUs, 12 s"
    measurement = tested.measurement()
    assert measurement is not None
    assert (measurement.val_accuracy, measurement.test_accuracy, measurement.churn) == (0.9028, 0.895, 0.0)
    assert (
        TrainResult(val_accuracy=0.5).measurement() is None and "test" not in TrainResult(val_accuracy=0.5).summary()
    )
    failed = TrainResult(failure="the loss was not finite")
    assert failed.measurement() is None and failed.summary() == "failed: the loss was not finite"
