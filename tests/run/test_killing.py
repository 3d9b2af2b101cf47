"""A run that is killed again and again ends like one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY
from tests.helpers.runs import plain_environment, tiny_config, without_seconds


@pytest.mark.slow
@pytest.mark.parametrize(("side_by_side", "kills"), [(1, 10), (2, 4)])
def test_a_run_killed_at_random_moments_ends_like_an_undisturbed_one(
    tmp_path: Path, side_by_side: int, kills: int
) -> None:
    # a snapshot after every step, so that kills also fall into the writing of snapshots
    config = tiny_config(
        tmp_path / "t.yaml", data={"train_limit": 150}, training={"checkpoint_seconds": 0}, side_by_side=side_by_side,
    )  # fmt: skip
    root = REPOSITORY
    killing = subprocess.run(
        [sys.executable, "-m", "tests.helpers.killing", str(config), str(tmp_path), str(kills)],
        cwd=root, capture_output=True, text=True, check=False, timeout=1200, env=plain_environment(),
    )  # fmt: skip
    assert killing.returncode == 0, killing.stderr
    told = json.loads(killing.stdout)
    assert told["killed"] == kills
    undisturbed_names = files_of(tmp_path / "undisturbed")
    for number in range(told["runs"]):
        for name in ("frontier.csv", "candidates.csv"):
            killed, undisturbed = ((tmp_path / run / name).read_text() for run in (f"run{number}", "undisturbed"))
            assert without_seconds(killed) == without_seconds(undisturbed)
        # nothing half-written, no state of a training, none of the teacher's answers
        assert files_of(tmp_path / f"run{number}") == undisturbed_names
        for path in (tmp_path / "undisturbed").rglob("model.safetensors"):
            again = tmp_path / f"run{number}" / path.relative_to(tmp_path / "undisturbed")
            assert again.read_bytes() == path.read_bytes()


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
