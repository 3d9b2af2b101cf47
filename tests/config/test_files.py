"""The configs that come with the package; the paper's against the networks that it released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import deepreduce
from tests.helpers import REPOSITORY

ROOT = REPOSITORY
GOLDEN: dict[str, Any] = yaml.safe_load((ROOT / "tests/golden/released_networks.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cifar100", "tinyimagenet"])
def test_a_dry_run_of_the_papers_config_lists_every_released_network(dataset: str) -> None:
    config = deepreduce.load_config(ROOT / "configs" / dataset / "resnet18.yaml", settings=["threads=1"])
    planned = deepreduce.dry_run(config)
    listed = {proposal.relu_count for proposal in planned.schedule.candidates}
    released = {row["relus"] for row in GOLDEN["reduced"] if row["dataset"] == dataset}
    assert len(released) == {"cifar100": 8, "tinyimagenet": 9}[dataset]
    assert released <= listed
    assert planned.network.relu_count == GOLDEN["full"][dataset]["total"]
    assert not planned.preview.is_provisional
    assert config.recipe == "paper" and set(planned.schedule.parents.values()) == {None}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_config_loads_and_names_itself_in_its_command(path: Path) -> None:
    deepreduce.load_config(path)
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"deepreduce optimize --config {path.relative_to(ROOT).as_posix()}" in header


def test_the_narrow_network_costs_as_much_again_as_its_training() -> None:
    config = deepreduce.load_config(ROOT / "configs" / "cifar100" / "resnet18_width16.yaml", settings=["threads=1"])
    assert (config.recipe, config.training.epochs, config.fast.price) == ("fast", 10, 1.0)
    schedule = deepreduce.dry_run(config).schedule
    students = schedule.total_work - schedule.teacher_work.total
    # validations after every epoch, which the price has once, are what comes on top
    assert 0.7 < students / schedule.teacher_work.total < 1.2
