"""A run that is killed again and again ends like one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs_for_tests import plain_environment, tiny_config, without_seconds

KILLS = 20


@pytest.mark.slow
def test_a_run_killed_at_20_random_moments_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    # a snapshot after every step, so that the kills also fall into the writing of snapshots
    config = tiny_config(tmp_path / "t.yaml", training={"epochs": 6, "checkpoint_seconds": 0})
    root = Path(__file__).resolve().parent.parent
    killing = subprocess.run(
        [sys.executable, "-m", "tests.killing", str(config), str(tmp_path), str(KILLS)],
        cwd=root, capture_output=True, text=True, check=False, timeout=1200, env=plain_environment(),
    )  # fmt: skip
    assert killing.returncode == 0, killing.stderr
    told = json.loads(killing.stdout)
    assert told["killed"] == KILLS
    for number in range(told["runs"]):
        for name in ("frontier.csv", "candidates.csv"):
            killed, undisturbed = ((tmp_path / run / name).read_text() for run in (f"run{number}", "undisturbed"))
            assert without_seconds(killed) == without_seconds(undisturbed)
        names = {path.name for path in (tmp_path / f"run{number}").rglob("*")}
        assert not any(name.endswith(".part") for name in names) and "training.safetensors" not in names
