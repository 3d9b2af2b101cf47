"""The plans of saved networks, read back with their masks."""

from __future__ import annotations

from pathlib import Path

import pytest

import deepreduce
from deepreduce.errors import CheckpointError, UserError
from deepreduce.store.plans import read_plans
from tests.helpers.runs import TINY


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = {"name": "taylor", "budgets": (400, 100), "every": 2, "score_every": 1}
    return deepreduce.optimize(out=tmp_path_factory.mktemp("plans") / "run", **{**TINY, "method": method}).folder


def test_a_run_has_the_plans_of_its_networks_with_their_masks_and_a_network_its_own(finished: Path) -> None:
    networks = deepreduce.load_result(finished).candidates
    plans = read_plans(str(finished))
    assert [plan.plan_id for plan in plans.values()] == [network.plan_id for network in networks]
    assert all(plan.is_complete and plan.mask_tensors() for plan in plans.values())
    for network in networks:
        assert list(read_plans(str(network.folder)).values()) == [network.plan]


def test_the_networks_of_a_run_are_trained_again_by_the_full_recipe(finished: Path, tmp_path: Path) -> None:
    again = deepreduce.optimize(
        out=tmp_path / "run", **{**TINY, "recipe": "full", "method": {"name": "given", "of": (str(finished),)}}
    )
    before = deepreduce.load_result(finished).candidates
    assert [n.plan_id for n in again.candidates] == [n.plan_id for n in before]
    for network in again.candidates:
        epochs = (network.folder / "history.csv").read_text().splitlines()[1:]
        assert len(epochs) == TINY["training"]["epochs"]


def test_a_folder_of_neither_a_run_nor_a_network_is_refused(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(UserError, match="neither a run nor a network"):
        read_plans(str(tmp_path))
    (tmp_path / "candidates.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"candidates\.json"):
        read_plans(str(tmp_path))
