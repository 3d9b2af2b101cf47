"""Starts runs and kills them with SIGKILL at random moments. A program of its own, because it forks.

    python -m tests.helpers.killing CONFIG FOLDER KILLS

Forking after the imports makes a start cheap, so that the moments fall into the run itself. Prints, as JSON, how many
runs were killed and how many got through before their moment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo

from deepreduce.api import optimize
from deepreduce.config.load import load_config
from deepreduce.report.figures import frontier as _figures  # noqa: F401


def start(config: Path, folder: Path) -> int:
    """The process id of a run that has begun."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        optimize(config=load_config(config), out=folder)
        code = 0
    finally:
        os._exit(code)


def ended(child: int, seconds: float) -> bool:
    """Whether the run ends well within that time; it goes on where it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "a run failed"
            return True
        time.sleep(0.005)
    return False


def main() -> None:
    config, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    begin = time.monotonic()
    assert ended(start(config, folder / "undisturbed"), 600)
    whole = time.monotonic() - begin
    moments, killed, rounds = random.Random(0), 0, 0
    while killed < kills:
        child = start(config, folder / f"run{rounds}")
        if ended(child, moments.uniform(0, 0.6) * whole):
            rounds += 1
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
    assert ended(start(config, folder / f"run{rounds}"), 600)
    print(json.dumps({"killed": killed, "runs": rounds + 1}))


if __name__ == "__main__":
    main()
