"""Networks of a run that are trained again: read with their masks, by another recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

import deepreduce
from deepreduce.errors import UserError
from deepreduce.run.read import earlier_networks
from tests.helpers.runs import TINY


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = {"name": "taylor", "budgets": (400, 100), "every": 2, "score_every": 1}
    return deepreduce.optimize(out=tmp_path_factory.mktemp("plans") / "run", **{**TINY, "method": method}).folder


def test_a_run_has_its_networks_with_their_masks_and_a_folder_its_own(finished: Path) -> None:
    networks = deepreduce.load_result(finished).candidates
    found = earlier_networks(str(finished))
    assert {network.plan.plan_id for network in found} == {network.plan_id for network in networks}
    assert all(network.plan.is_complete and network.plan.mask_tensors() for network in found)
    for network in networks:
        assert [n.plan for n in earlier_networks(str(network.folder))] == [network.plan]


def test_the_networks_of_a_run_are_trained_again_by_the_full_recipe(finished: Path, tmp_path: Path) -> None:
    again = deepreduce.optimize(
        out=tmp_path / "run", **{**TINY, "recipe": "full", "method": {"name": "given", "of": (str(finished),)}}
    )
    before = deepreduce.load_result(finished).candidates
    assert [n.plan_id for n in again.candidates] == [n.plan_id for n in before]
    for network in again.candidates:
        epochs = (network.folder / "history.csv").read_text().splitlines()[1:]
        assert len(epochs) == TINY["training"]["epochs"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        earlier_networks(str(tmp_path))
