"""What a run records reads back as it was; a corrupt file is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.cost.builtin import MODELS
from deepreduce.errors import CheckpointError
from deepreduce.methods.proposal import StageCriticality
from deepreduce.store.records import RunCosts, read_costs, read_criticality, read_execution_plan, write_criticality
from tests.helpers.report_examples import random_price


def test_costs_read_back_as_they_were(tmp_path: Path) -> None:
    prices = {"teacher": {"cheetah-lan": random_price(0)}, "abc": {"cheetah-lan": random_price(1)}}
    costs = RunCosts(models={"cheetah": MODELS["cheetah"]}, prices=prices)
    costs.write(tmp_path)
    assert read_costs(tmp_path) == costs


def test_a_run_without_costs_has_none_and_corrupt_ones_are_named(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == RunCosts(models={}, prices={})
    no_model, no_price = '{"models": {"x": {}}, "prices": {}}', '{"models": {}, "prices": {"a": {"b": {}}}}'
    for text in ("{", "{}", "[]", no_model, no_price):
        (tmp_path / "costs.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"costs\.json"):
            read_costs(tmp_path)


def test_criticality_reads_back_as_it_was(tmp_path: Path) -> None:
    found = StageCriticality(
        cull_order=("S1", "S3"),
        criticality={"S1": 0.5, "S2": 0.25, "S3": 1.0},
        val_accuracy={"S1": 0.1, "S2": 0.2, "S3": 0.3},
    )
    assert read_criticality(tmp_path) is None
    write_criticality(tmp_path, found)
    assert read_criticality(tmp_path) == found


@pytest.mark.parametrize("content", ["{}", "[]", '{"cull_order": [], "criticality": {"S1": 1}, "val_accuracy": {}}'])
def test_a_corrupt_criticality_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "criticality.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"criticality\.json does not hold the criticality of stages"):
        read_criticality(tmp_path)


def test_a_run_that_does_not_say_how_it_trains_has_no_plan(tmp_path: Path) -> None:
    assert read_execution_plan(tmp_path) is None
    (tmp_path / "environment.json").write_text('{"arrangement": {"threads": 0}}')
    assert read_execution_plan(tmp_path) is None
