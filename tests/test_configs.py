"""The paper's configs against the networks that it released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import deepreduce

ROOT = Path(__file__).resolve().parent.parent
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
    assert not planned.schedule.is_provisional
