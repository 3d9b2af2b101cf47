"""What a run records reads back as it was; a corrupt file is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepreduce.cost.builtin import MODELS
from deepreduce.errors import CheckpointError, UserError
from deepreduce.methods.proposal import StageCriticality
from deepreduce.store.names import costs_plot, private_run
from deepreduce.store.records import RunCosts, read_costs, read_criticality, read_execution_plan, write_criticality
from deepreduce.utils.records import write_record
from tests.helpers.report_examples import random_estimate


def test_costs_read_back_as_they_were(tmp_path: Path) -> None:
    estimates = {"teacher": {"cheetah-lan": random_estimate(0)}, "abc": {"cheetah-lan": random_estimate(1)}}
    costs = RunCosts(models={"cheetah": MODELS["cheetah"]}, cost_estimates=estimates)
    costs.write(tmp_path)
    assert read_costs(tmp_path) == costs


def test_a_run_without_costs_has_none_and_corrupt_ones_are_named(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == RunCosts(models={}, cost_estimates={})
    no_model, no_estimate = '{"models": {"x": {}}, "prices": {}}', '{"models": {}, "prices": {"a": {"b": {}}}}'
    for text in ("{", "{}", "[]", no_model, no_estimate):
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


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"cull_order": [], "criticality": {"S1": 1}, "val_accuracy": {}},
        {"cull_order": ["S9"], "criticality": {"S1": 1}, "val_accuracy": {"S1": 0.5}},
        {"cull_order": [], "criticality": {"S1": 10**400}, "val_accuracy": {"S1": 0.5}},
        {"cull_order": [], "criticality": {"S1": 1}, "val_accuracy": {"S1": 1.5}},
        {"cull_order": [3], "criticality": {}, "val_accuracy": {}},
        {"cull_order": [], "criticality": {}, "val_accuracy": {}, "more": 1},
    ],
)
def test_a_corrupt_criticality_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    write_record(tmp_path / "criticality.json", content)
    with pytest.raises(CheckpointError, match=r"criticality\.json does not hold the criticality of stages") as caught:
        read_criticality(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/../../outside", "..", "a/b", ".hidden", "", "x" * 200, "a\nb"])
def test_a_name_in_the_costs_can_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    RunCosts(models={}, cost_estimates={"teacher": {name: random_estimate(0)}}).write(tmp_path)
    with pytest.raises(CheckpointError, match=r"costs\.json does not hold the costs of networks: the name"):
        read_costs(tmp_path)
    with pytest.raises(UserError, match="can't be part of a file's name"):
        costs_plot(name)
    with pytest.raises(UserError, match="can't be part of a file's name"):
        private_run(name)


@pytest.mark.parametrize("amount", [1e200, -1, 10**400, "1", True, None])
def test_an_impossible_amount_in_the_costs_is_named(tmp_path: Path, amount: object) -> None:
    estimate = random_estimate(0).to_json()
    estimate["ReLU"]["rounds"] = amount
    write_record(tmp_path / "costs.json", {"models": {}, "prices": {"teacher": {"cheetah-lan": estimate}}})
    with pytest.raises(CheckpointError, match=r"costs\.json does not hold the costs of networks"):
        read_costs(tmp_path)


def test_a_run_that_does_not_say_how_it_trains_has_no_plan(tmp_path: Path) -> None:
    assert read_execution_plan(tmp_path) is None
    (tmp_path / "environment.json").write_text('{"arrangement": {"threads": 0}}')
    assert read_execution_plan(tmp_path) is None
