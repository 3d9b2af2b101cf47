"""A run that learns its masks on one path: every budget a candidate, counted, loaded back, stopped and resumed."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import deepreduce
from deepreduce.methods import registry
from deepreduce.methods.base import Search, SearchContext, TrainingRequest
from deepreduce.methods.mask_learning import expected_plan
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Collector
from deepreduce.methods.taylor import ShrinkMasks
from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.run.result import Result
from deepreduce.training import Distillation, RecipeChanges
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


class TwoPhases:
    """Learn masks, and train the network that came of it once more by another recipe and loss."""

    name = "two_phases"
    summary = "masks, then training"
    Options = MethodOptions

    def search(self, network: Network, options: MethodOptions, context: SearchContext) -> Search:
        collected = Collector(network, context.estimator)
        plan = expected_plan(network, ReductionPlan(), unit="channel", budget=200)
        expected = collected.propose(plan, "two phases")
        assert expected is not None
        learn = TrainingRequest(proposal=expected, epochs=1, learner=ShrinkMasks(budget=200, every=1, score_every=1))
        yield [learn]
        changes = RecipeChanges(optimizer="adam", learning_rate=1e-4, distillation=Distillation(weight=0.5))
        again = TrainingRequest(proposal=expected, epochs=1, after=learn, changes=changes)
        trained = (yield [again])[again].proposal
        assert trained is not None
        collected.add(trained)
        return replace(collected.proposals(), trained=frozenset([trained.plan_id]))


def test_a_network_whose_masks_were_learned_is_trained_further_by_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._BUILT_IN, "two_phases", f"{__name__}:TwoPhases")
    result = deepreduce.optimize(out=tmp_path / "run", **{**TINY, "method": "two_phases"})
    (network,) = result.candidates
    folders = sorted((tmp_path / "run" / "candidates").iterdir())
    plans = [json.loads((folder / "plan.json").read_text())["plan"]["sites"] for folder in folders]
    rates = {folder.name: (folder / "history.csv").read_text().splitlines()[1].split(",")[1] for folder in folders}
    measured = {folder.name: json.loads((folder / "metrics.json").read_text()) for folder in folders}
    assert len(folders) == 2 and plans[0] == plans[1]
    assert sum(float(rate) < 1e-4 for rate in rates.values()) == 1
    best = max(measured.values(), key=lambda m: m["val_accuracy"])["val_accuracy"]
    assert network.measurement.val_accuracy == best == measured[network.folder.name]["val_accuracy"]


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
