"""Runs of the methods that search and finetune, and of the one that polishes: exact budgets, stopped and resumed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

import deepreduce
from deepreduce.errors import UserError
from deepreduce.run.read import earlier_networks
from deepreduce.run.result import Result
from tests.helpers.independent import executed_relus
from tests.helpers.runs import TINY, without_seconds
from tests.run.test_masked_run import complete_with_stops

BUDGETS = (150,)


def run(folder: Path, method: dict[str, Any], **values: Any) -> Result:
    return deepreduce.optimize(out=folder, **{**TINY, "method": method, **values})


def table_of(folder: Path) -> list[list[str]]:
    return without_seconds((folder / "candidates.csv").read_text())


def check_stops(folder: Path, finished: Path, method: dict[str, Any]) -> None:
    rows = csv.DictReader((finished / "candidates.csv").read_text().splitlines())
    labels = {row["label"] for row in rows} - {"full network"}
    complete_with_stops(folder, lambda out, **values: run(out, method, **values), labels)
    assert table_of(folder) == table_of(finished)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["senet", "relupruner"])
def test_every_budget_is_met_and_stopped_runs_end_as_if_undisturbed(tmp_path: Path, name: str) -> None:
    method = {"name": name, "budgets": BUDGETS, "score_every": 1}
    result = run(tmp_path / "whole", method)
    assert [network.relu_count for network in result.candidates] == list(BUDGETS)
    for network in result.candidates:
        assert sum(executed_relus(network.model, (1, 8, 8))) == network.relu_count
    check_stops(tmp_path / "stopped", tmp_path / "whole", method)

    polish = {"name": "bcd", "start": [str(tmp_path / "whole")], "budgets": [150], "images": 64, "block": 0.1}
    polished = run(tmp_path / "polished", polish)
    assert {network.relu_count for network in polished.candidates} == {150}
    before = result.candidates[-1].measurement
    best = max(n.measurement.val_accuracy for n in polished.candidates if n.measurement is not None)
    assert before is not None and best >= before.val_accuracy - 0.05  # its statistics are computed again
    check_stops(tmp_path / "polished again", tmp_path / "polished", polish)


@pytest.mark.slow
def test_networks_of_an_earlier_run_are_read_or_refused(tmp_path: Path) -> None:
    result = run(tmp_path / "run", {"name": "senet", "budgets": BUDGETS})
    found = earlier_networks(str(tmp_path / "run"))
    assert [(n.plan, n.relu_count) for n in found] == [(n.plan, n.relu_count) for n in result.candidates]
    assert earlier_networks(str(result.candidates[0].folder)) == found
    with pytest.raises(UserError, match="holds no run"):
        earlier_networks(str(tmp_path))
    (result.candidates[0].folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="not trained to its end"):
        earlier_networks(str(result.candidates[0].folder))
    shutil.rmtree(result.candidates[0].folder)
    with pytest.raises(UserError, match="holds no saved network"):
        earlier_networks(str(tmp_path / "run"))
