"""A run reads back from its folder, and a damaged one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepreduce.cost.objective import COUNT_OF_RELUS, MEASURED
from deepreduce.errors import CheckpointError, UserError
from deepreduce.run.read import chosen_objective, estimated_presets, read_run, read_sites
from deepreduce.store.candidates import write_candidates
from deepreduce.utils.records import read_record, write_record
from tests.helpers.made_up_run import write_run


def test_a_folder_without_a_teacher_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=1)
    write_candidates(tmp_path / "run", [c for c in read_run(tmp_path / "run") if not c.is_teacher])
    with pytest.raises(UserError, match="has no measured teacher"):
        read_run(tmp_path / "run")


def test_a_changed_table_changes_nothing_and_a_missing_record_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, size=1)
    before = read_run(run)
    (run / "candidates.csv").write_bytes(b"\xff")
    assert read_run(run) == before
    (run / "candidates.json").unlink()
    with pytest.raises(CheckpointError, match=r"candidates\.json is missing; give optimize's command again"):
        read_run(run)


def test_the_table_of_a_run_of_an_earlier_version_is_read_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    write_run(run, size=2)
    before = read_run(run)
    (run / "candidates.json").unlink()
    for path in run.rglob("*.json"):
        path.write_text(json.dumps(read_record(path)))
    found = read_run(run)
    assert [c.plan_id for c in found] == [c.plan_id for c in before]
    for candidate in found:
        read_sites(run / candidate.folder)
    assert [r.getMessage() for r in caplog.records] == [
        f"{run}: its records have no checksums, since an earlier version wrote them; they are believed as they are"
    ]
    for content in (b"\xff", b"plan_id"):
        (run / "candidates.csv").write_bytes(content)
        with pytest.raises((CheckpointError, UserError), match=r"candidates"):
            read_run(run)


@pytest.mark.parametrize("content", [{}, {"sites": 3}, {"sites": [{"name": "a"}]}])
def test_a_plan_without_sites_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    write_record(tmp_path / "plan.json", content)
    with pytest.raises(CheckpointError, match=r"plan.json does not describe a network"):
        read_sites(tmp_path)


def test_without_another_choice_the_objective_is_the_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=1)
    candidates = read_run(tmp_path / "run")
    assert chosen_objective(candidates, COUNT_OF_RELUS) == COUNT_OF_RELUS
    assert not any(preset.startswith(MEASURED) for preset in estimated_presets(candidates))
    with pytest.raises(UserError, match=r"preset"):
        chosen_objective(candidates, COUNT_OF_RELUS, preset="nobody-lan")
