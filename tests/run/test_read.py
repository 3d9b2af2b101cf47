"""A run reads back from its folder, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.cost.objective import COUNT_OF_RELUS, MEASURED
from deepreduce.errors import CheckpointError, UserError
from deepreduce.run.read import chosen_objective, estimated_presets, read_run, read_sites
from tests.helpers.made_up_run import write_run


def test_a_folder_without_a_teacher_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=1)
    table = tmp_path / "run" / "candidates.csv"
    table.write_text(
        "\n".join(line for line in table.read_text().splitlines() if not line.startswith("teacher")) + "\n"
    )
    with pytest.raises(UserError, match="has no row for the teacher"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("content", ["{}", "[]", '{"sites": 3}', '{"sites": [{"name": "a"}]}'])
def test_a_plan_without_sites_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"plan.json does not list the network's sites"):
        read_sites(tmp_path)


def test_without_another_choice_the_objective_is_the_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=1)
    candidates = read_run(tmp_path / "run")
    assert chosen_objective(candidates, COUNT_OF_RELUS) == COUNT_OF_RELUS
    assert not any(preset.startswith(MEASURED) for preset in estimated_presets(candidates))
    with pytest.raises(UserError, match=r"preset"):
        chosen_objective(candidates, COUNT_OF_RELUS, preset="nobody-lan")
