#!/usr/bin/env python3
"""Compare recipes: what a frontier costs, in trainings of its teacher, and how good the frontier is.

Runs `deepreduce optimize` in processes of its own and reads their run folders; docs/performance.md has results. The
hypervolume is that of the points (log10 of ReLUs, test accuracy) of the frontier, the teacher included. Its reference
point has twice the teacher's ReLUs and accuracy 0; the frontier is chosen by validation accuracy.

python scripts/bench_frontier.py CONFIG OUT [--seeds 0 1 2] [--recipes fast paper] [--set KEY=VALUE ...]
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deepreduce.frontier import Point, hypervolume


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds and peak memory (MB) of a run, until the teacher is done and after that; and the frontier."""

    teacher: float
    rest: float
    teacher_megabytes: int
    megabytes: int
    points: int
    span: float
    volume: float


def measured(words: list[str], folder: Path) -> tuple[float, float, int, int]:
    """Run `optimize`; return seconds, and peak memory of all processes, until the teacher is done and after that."""
    begin = time.time()
    command = [sys.executable, "-c", "import sys; from deepreduce.cli.main import main; main()", "optimize", *words]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peaks = [0, 0]
        while process.poll() is None:
            taught = (folder / "teacher" / "metrics.json").exists()
            peaks[taught] = max(peaks[taught], resident(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[3:])} failed; see {folder}.log")
    ready = (folder / "teacher" / "metrics.json").stat().st_mtime
    assert ready > begin, f"{folder} holds an earlier run"
    return ready - begin, time.time() - ready, peaks[0] // 2**20, peaks[1] // 2**20


def resident(pid: int) -> int:
    """Return the bytes of memory of a process and its children; shared memory is counted once (Linux)."""
    total = 0
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        below = [int(child) for child in children.read_text().split()]
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            total += 1024 * int(line.split()[1])
    return total + sum(resident(child) for child in below)


def cost(words: list[str], folder: Path) -> Cost:
    """Run `optimize` once and return its costs and frontier."""
    teacher, rest, before, after = measured(words, folder)
    with (folder / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    full = next(int(row["relu_count"]) for row in rows if row["plan_id"] == "teacher")
    points = [(int(row["relu_count"]), float(row["test_accuracy"])) for row in rows]
    volume = hypervolume(
        [Point(cost=math.log10(max(relus, 1)), accuracy=accuracy) for relus, accuracy in points],
        reference=Point(cost=math.log10(2 * full), accuracy=0.0),
    )
    fewest = max(min(relus for relus, _ in points), 1)
    return Cost(
        teacher=teacher,
        rest=rest,
        teacher_megabytes=before,
        megabytes=after,
        points=len(points),
        span=full / fewest,
        volume=volume,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipes", nargs="+", default=["fast", "paper"])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(
        "recipe seed  teacher s   rest s  rest/teacher  points   span  hypervolume  peak MB  of teacher", flush=True
    )
    for seed in options.seeds:
        for recipe in options.recipes:
            folder = options.out / f"{recipe}-{seed}"
            settings = [f"seed={seed}", f"recipe={recipe}", *options.settings]
            words = ["--config", options.config, "--out", str(folder)]
            for setting in settings:
                words += ["--set", setting]
            c = cost(words, folder)
            print(
                f"{recipe:<6} {seed:>4} {c.teacher:>10.1f} {c.rest:>8.1f} {c.rest / c.teacher:>13.2f} {c.points:>7}"
                f" {c.span:>5.0f}x {c.volume:>12.4f} {c.megabytes:>8} {c.teacher_megabytes:>11}",
                flush=True,
            )


if __name__ == "__main__":
    main()
