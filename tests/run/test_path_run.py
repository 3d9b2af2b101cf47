"""A run that learns its masks on one path: every budget a candidate, counted, loaded back, stopped and resumed."""

from __future__ import annotations

import csv
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import deepreduce
from deepreduce.run.result import Result
from deepreduce.transforms import apply_plan
from tests.helpers.independent import executed_relus
from tests.helpers.runs import TINY, without_seconds
from tests.run.test_masked_run import complete_with_stops

SHAPE = (1, 8, 8)
BUDGETS = (400, 200, 50)


def run(folder: Path, **values: Any) -> Result:
    method = {"name": "taylor", "budgets": BUDGETS, "every": 2, "score_every": 1}
    return deepreduce.optimize(out=folder, **{**TINY, "method": method, **values})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("path") / "run").folder


def test_every_budget_is_a_candidate_with_what_executes_and_all_that_was_trained(finished: Path) -> None:
    result = deepreduce.load_result(finished)
    counts = [network.relu_count for network in result.candidates]
    assert len(counts) == 3 and all(b / 2 < count <= b for count, b in zip(counts, BUDGETS, strict=True))
    folders = {path.name for path in (finished / "candidates").iterdir()}
    assert {network.folder.name for network in result.candidates} == folders
    for network in result.candidates:
        assert sum(executed_relus(network.model, SHAPE)) == network.relu_count == network.measurement.relu_count
        assert network.plan.plan_id == network.plan_id


def test_the_masks_of_the_path_only_shrink(finished: Path) -> None:
    masks = [network.plan for network in deepreduce.load_result(finished).candidates]
    for larger, smaller in itertools.pairwise(masks):
        before = dict(larger.sites)
        for name, action in smaller.sites:
            assert name not in before or action.within(before[name])
        assert before.keys() <= dict(smaller.sites).keys()


def test_a_candidate_loads_back_as_an_ordinary_module(finished: Path) -> None:
    network = deepreduce.load_result(finished).candidates[-1]
    module = deepreduce.load_reduced(network.folder)
    original = deepreduce.trace(deepreduce.load_reduced(finished / "teacher"), SHAPE)
    reduced = apply_plan(original, network.plan).module.eval()
    reduced.load_state_dict(module.state_dict())
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(module(images), reduced(images))


@pytest.mark.parametrize("lost", ["the last network", "the first network"])
def test_what_a_finished_run_has_lost_is_trained_again_to_the_same_end(
    finished: Path, tmp_path: Path, lost: str
) -> None:
    again = tmp_path / "run"
    shutil.copytree(finished, again)
    networks = deepreduce.load_result(again).candidates
    shutil.rmtree(networks[-1 if lost == "the last network" else 0].folder)
    (again / "candidates.csv").unlink()
    run(again)
    assert table_of(again) == table_of(finished)


def table_of(folder: Path) -> list[list[str]]:
    return without_seconds((folder / "candidates.csv").read_text())


@pytest.mark.slow
def test_a_run_stopped_after_single_steps_of_each_network_ends_as_if_undisturbed(
    finished: Path, tmp_path: Path
) -> None:
    rows = csv.DictReader((finished / "candidates.csv").read_text().splitlines())
    labels = {row["label"] for row in rows} - {"full network"}
    complete_with_stops(tmp_path / "run", run, labels)
    assert table_of(tmp_path / "run") == table_of(finished)


@pytest.mark.slow
def test_a_path_is_the_same_in_worker_processes(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", side_by_side=2)
    assert table_of(tmp_path / "run") == table_of(finished)
