"""Callbacks handed to `optimize`: they train the students, and a run resumes with the same ones only."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import deepreduce
from deepreduce.training import CallbackFactory
from tests.helpers.callbacks import Average, AverageWeights
from tests.helpers.runs import TINY, StopsIn, without_seconds

NETWORKS = 5
"""Teacher, probes, and the first proposed network: a stop here leaves some of all kinds."""


def optimize(out: Path, callbacks: Sequence[CallbackFactory], **options: Any) -> list[list[str]]:
    short = {**TINY, "training": {**TINY["training"], "epochs": 2}}
    deepreduce.optimize(out=out, callbacks=callbacks, **{**short, **options})
    return without_seconds((out / "candidates.csv").read_text())


@pytest.mark.slow
def test_a_stopped_run_with_callbacks_ends_with_the_same_numbers(tmp_path: Path) -> None:
    callbacks = [AverageWeights(0.9)]
    expected = optimize(tmp_path / "whole", callbacks)
    with pytest.raises(deepreduce.RunInterrupted):
        optimize(tmp_path / "stopped", callbacks, observers=[StopsIn(NETWORKS)])
    assert optimize(tmp_path / "stopped", callbacks) == expected


@pytest.mark.parametrize(
    ("before", "now"),
    [([AverageWeights(0.9)], [AverageWeights(0.5)]), ([AverageWeights(0.9)], []), ([], [AverageWeights(0.9)])],
)
def test_a_run_is_not_resumed_with_other_callbacks(
    tmp_path: Path, before: list[AverageWeights], now: list[AverageWeights]
) -> None:
    with pytest.raises(deepreduce.RunInterrupted):
        optimize(tmp_path / "run", before, observers=[StopsIn(1)])
    identity = json.loads((tmp_path / "run" / "environment.json").read_text())["identity"]
    assert identity.get("callbacks", []) == [repr(factory) for factory in before]
    with pytest.raises(deepreduce.RunFolderError, match=r"a run with another callbacks \(") as caught:
        optimize(tmp_path / "run", now)
    assert "\n" not in str(caught.value)


def test_callbacks_that_can_not_travel_train_students_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Local(AverageWeights):
        pass

    with caplog.at_level(logging.WARNING), pytest.raises(deepreduce.RunInterrupted):
        optimize(tmp_path / "run", [Local(0.9)], side_by_side=2, observers=[StopsIn(3)])
    assert "networks are trained one after the other: " in caplog.text and "Local" in caplog.text


def test_what_is_no_factory_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for mistaken in (AverageWeights, Average(0.9)):
        with pytest.raises(deepreduce.UserError, match="is no factory of callbacks; give an object with build"):
            optimize(tmp_path / "run", [mistaken])  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()
