"""A run so small that a test can afford it: a tiny ResNet on few digits, seconds on one core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from deepreduce.observers import ObservedNetwork, RunObserver

TINY: dict[str, Any] = {
    "model": {"name": "resnet20", "width": 4, "blocks": [1, 1, 1]},
    "data": {"name": "digits", "train_limit": 300, "test_limit": 100},
    "training": {"epochs": 6, "batch_size": 32, "learning_rate": 0.1, "precision": "fp32"},
    "method": {"name": "deepreduce", "rhos": [1.0]},
    "fast": {"price": 3.0, "probe_share": 0.3},
    "threads": 1,
    "side_by_side": 1,
}

TINY_RELUS = {"S1": 3 * 4 * 8 * 8, "S2": 2 * 8 * 4 * 4, "S3": 2 * 16 * 2 * 2}
"""Stem and one block of two sites in S1, one block each in the others; channels double as the maps halve."""

NUM_PROBES = 3
NUM_PROPOSED = 2 * 3
"""Two levels of culling, each as it is, thinned, and thinned at alpha 0.5."""
NUM_TRAININGS = 1 + NUM_PROBES + NUM_PROPOSED
NUM_CANDIDATES = NUM_PROBES + NUM_PROPOSED - 1
"""The second level of culling is one of the probes."""


def tiny_config(path: Path, **sections: Any) -> Path:
    """TINY as a YAML file, with some keys, or some keys of its sections, replaced."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
    for section, keys in sections.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def command(*words: str | Path, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The installed console script, run as a user runs it."""
    script = Path(sys.executable).with_name("deepreduce")
    return subprocess.run(
        [str(script), *(str(word) for word in words)],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, env=plain_environment(), check=False,
    )  # fmt: skip


def plain_environment() -> dict[str, str]:
    """The environment without what would make the output differ."""
    return {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}


def without_seconds(csv_text: str) -> list[list[str]]:
    """A table's cells without train_seconds, the one column that no two runs share."""
    import csv
    import io

    rows = list(csv.reader(io.StringIO(csv_text)))
    column = rows[0].index("train_seconds")
    return [row[:column] + row[column + 1 :] for row in rows]


class StopsIn(RunObserver):
    """Asks the process to stop, as Ctrl-C does, when the network of that number begins."""

    def __init__(self, number: int) -> None:
        self.number = number

    def network_started(
        self, network: ObservedNetwork, *, number: int, count: int, work: float, total: float, **_: Any
    ) -> None:
        assert 1 <= number <= count and 0 < work < total
        if number == self.number:
            os.kill(os.getpid(), signal.SIGINT)
