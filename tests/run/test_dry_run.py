"""What would be trained, without training it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import deepreduce
from deepreduce.errors import (
    PlanError,
)
from tests.helpers.runs import (
    TINY,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> deepreduce.Result:
    return deepreduce.optimize(config=None, out=tmp_path_factory.mktemp("run") / "tiny", **TINY)


def test_a_dry_run_lists_exactly_what_a_run_trains(finished: deepreduce.Result) -> None:
    order = json.loads((finished.folder / "criticality.json").read_text())["cull_order"]
    config = deepreduce.load_config(values={**TINY, "method": {**TINY["method"], "cull_order": order}})
    planned = deepreduce.dry_run(config)
    listed = {p.plan_id for p in planned.candidates}
    assert listed == {path.name for path in (finished.folder / "candidates").iterdir()}
    counts = {p.plan_id: p.relu_count for p in planned.candidates}
    assert all(counts.get(n.plan_id, n.relu_count) == n.relu_count for n in finished.candidates)
    assert planned.estimated_seconds > 0


def test_a_dry_run_says_which_networks_depend_on_the_measurement() -> None:
    free = deepreduce.dry_run(deepreduce.load_config(values=TINY))
    assert all(c["depends_on_measurement"] for c in free.to_json()["candidates"])
    assert "depend on a measurement" in free.to_text()
    fixed = deepreduce.dry_run(deepreduce.load_config(values=TINY, settings=["method.cull_order=S1,S3"]))
    assert not any(c["depends_on_measurement"] for c in fixed.to_json()["candidates"])
    assert "depend on" not in fixed.to_text()


def test_a_budget_drops_what_exceeds_it_and_an_impossible_one_names_the_smallest() -> None:
    config = deepreduce.load_config(values=TINY, settings=["max_relus=500"])
    assert all(p.relu_count <= 500 for p in deepreduce.dry_run(config).candidates)
    with pytest.raises(PlanError, match=r"no network has at most 1 ReLU; the smallest, .* raise max_relus"):
        deepreduce.dry_run(deepreduce.load_config(values=TINY, settings=["max_relus=1"]))


def test_known_data_sets_need_not_be_at_hand_for_a_dry_run(tmp_path: Path) -> None:
    config = deepreduce.load_config(
        values={"model": "resnet20", "data": {"name": "cifar100", "root": str(tmp_path)}, "threads": 1}
    )
    assert deepreduce.dry_run(config).network.output_shape == (100,)
