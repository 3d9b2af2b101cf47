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
from tests.helpers.execution import alone, student, together
from tests.helpers.training import RECIPE

fractions = st.floats(0, 1)
counts = st.integers(0, 10**12)
results = st.builds(
    TrainResult, val_accuracy=fractions, test_accuracy=fractions | st.none(), churn=fractions | st.none(),
    train_seconds=st.floats(0, 1e9), relu_count=counts, macs=counts,
    stage_relu_counts=st.dictionaries(st.text(max_size=3), counts, max_size=3) | st.none(),
)  # fmt: skip


@pytest.mark.parametrize(
    "task", [alone(first_epoch=2), alone(start=WarmStart(folder="teacher", plan=ReductionPlan())), together()]
)
def test_a_task_is_a_value_that_travels(task: TrainTask) -> None:
    assert pickle.loads(pickle.dumps(task)) == task and hash(task) == hash(pickle.loads(pickle.dumps(task)))
    folders = [task.folder, *(student.folder for student in task.students)]
    assert not any(PurePosixPath(folder).is_absolute() for folder in folders)


def test_a_student_alone_is_trained_in_its_own_folder_with_its_own_seed() -> None:
    one = student("candidates/3fa", seed=5)
    task = TrainTask.alone(one, RECIPE, first_epoch=1)
    assert (task.students, task.folder, task.seed, task.first_epoch) == ((one,), "candidates/3fa", 5, 1)
    assert not task.shares_weights and together().shares_weights
    assert together(students=(one,), turns=(0,)).shares_weights  # a group of one is trained as any other


@settings(max_examples=30)
@given(turns=st.lists(st.integers(0, 2), max_size=20).map(tuple))
def test_the_steps_of_a_training_are_shared_by_turns(turns: tuple[int, ...]) -> None:
    shares = [together(turns=turns).share_of_steps(number) for number in range(3)]
    assert shares == [turns.count(n) / len(turns) for n in range(3)] if turns else shares == [1, 1, 1]
    assert alone().share_of_steps(0) == 1


@settings(max_examples=30)
@given(results)
def test_a_result_is_read_back_from_json_as_it_was(result: TrainResult) -> None:
    content = json.loads(json.dumps(result.to_json()))
    assert TrainResult.from_json(content, test=result.test_accuracy is not None) == result
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
    assert TrainResult.from_json(failed.to_json(), test=True) == failed


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
        TrainResult.from_json(content, test=True)


def test_a_result_that_was_not_to_be_tested_must_not_be() -> None:
    with pytest.raises(ValueError, match="incomplete"):
        TrainResult.from_json({"val_accuracy": 0.5, "test_accuracy": 0.5}, test=False)


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
