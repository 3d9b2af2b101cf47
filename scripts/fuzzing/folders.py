"""Inputs that are run folders: files of a finished run damaged, plans changed, runs killed and resumed."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

import deepreduce
from deepreduce.config.load import load_config
from deepreduce.utils.records import CHECKSUM, checksum_of
from fuzzing.damage import changed_value, damage_file
from fuzzing.harness import RIGHT, SILENT, TRACEBACK, Input, Step, Verdict
from fuzzing.words import TINY

RUN: dict[str, Any] = {
    **TINY,
    "training": {**TINY["training"], "checkpoint_seconds": 0},
    "method": {"rhos": [1.0]},
    "fast": {"price": 3.0, "probe_share": 0.3},
}
_DRAWN = (".png", ".svg", ".html")


def make_run(folder: Path) -> Path:
    """Train a tiny run below the folder, unless it is there; return its path."""
    run, config = folder / "run", folder / "run.yaml"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(RUN))
        torch.set_num_threads(1)
        deepreduce.optimize(config=load_config(config), out=run)
        (folder / "done").touch()
    return run


def tables_of(run: Path) -> dict[str, list[list[str]]]:
    """Return the rows of the tables without seconds, in which no two runs agree."""
    found = {}
    for name in ("candidates.csv", "frontier.csv"):
        rows = list(csv.reader(io.StringIO((run / name).read_text(encoding="utf-8"))))
        seconds = rows[0].index("train_seconds")
        found[name] = [row[:seconds] + row[seconds + 1 :] for row in rows]
    return found


def weights_of(run: Path) -> dict[str, bytes]:
    """Return the bytes of all weights."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("model.safetensors"))}


class RunFolders:
    """Finished runs with one file damaged: evaluated, read as a result, drawn, or resumed."""

    name = "folders"

    def prepare(self, folder: Path) -> None:
        self._run = make_run(folder)
        self._config = folder / "run.yaml"
        self._tables = tables_of(self._run)
        result = deepreduce.load_result(self._run)
        self._network = max(result.candidates, key=lambda network: network.relu_count).folder.relative_to(self._run)
        self._evaluated = json.dumps(deepreduce.evaluate(self._run / self._network).to_json(), sort_keys=True)
        self._result = _said(self._run)

    def make(self, dice: random.Random, folder: Path) -> Input:
        run = folder / "run"
        shutil.copytree(self._run, run)
        files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix not in _DRAWN]
        small = [path for path in files if path.suffix in (".json", ".yaml", ".csv")]
        done = []
        for _ in range(dice.choice([1, 1, 1, 2])):
            left = [path for path in (small if dice.random() < 0.6 else files) if path.is_file()]
            path = dice.choice(left)
            if path.suffix == ".json" and dice.random() < 0.4:
                path.write_text(json.dumps(changed_value(dice, json.loads(path.read_text())), indent=2))
                done.append(f"{path.relative_to(run)} a value changed")
            else:
                done.append(f"{path.relative_to(run)} {damage_file(dice, path, others=files)}")
        evaluate: Step = ["evaluate", str(run / self._network), "--json"]
        resume: Step = ["optimize", "--config", str(self._config), "--out", str(run)]
        steps, silent = dice.choice(
            [
                ([evaluate], self._same_evaluation),
                ([lambda: _said(run)], self._same_result),
                ([["plot", str(run)], ["report", str(run)]], lambda found: ""),
                ([resume], lambda found: self._same_tables(run)),
                ([resume], lambda found: self._same_tables(run)),
            ]
        )
        return Input(
            text=f"{'; '.join(done)}: {steps[0][0] if isinstance(steps[0], list) else 'load'}",
            steps=steps,
            silent=silent,
        )

    def _same_evaluation(self, found: list[Any]) -> str:
        told = json.loads(found[0])
        told["path"] = json.loads(self._evaluated)["path"]
        right = self._evaluated
        return "" if json.dumps(told, sort_keys=True) == right else f"evaluated {told}, right is {right}"

    def _same_result(self, found: list[Any]) -> str:
        return "" if found[0] == self._result else "the result differs from the run's"

    def _same_tables(self, run: Path) -> str:
        now = tables_of(run)
        different = [name for name, rows in self._tables.items() if now[name] != rows]
        return f"{', '.join(different)} differ" if different else ""


def _said(run: Path) -> str:
    """Return what is known of a run's networks once it is loaded."""
    result = deepreduce.load_result(run)
    networks = [result.teacher, *result.candidates]
    return repr(
        [
            (n.candidate.label, n.candidate.plan.to_json(), n.candidate.measurement, n.candidate.relu_count)
            for n in networks
        ]
    )


class Plans:
    """Networks whose plan.json holds another value; a network that loads must compute what it did.

    Half of the files get the checksum of their new values, as a file that was made by hand: these may be another
    network, but must be read or refused in one line like any.
    """

    name = "plans"

    def prepare(self, folder: Path) -> None:
        self._run = make_run(folder)
        self._images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255

    def make(self, dice: random.Random, folder: Path) -> Input:
        networks = sorted(
            path.parent for path in self._run.rglob("plan.json") if (path.parent / "metrics.json").exists()
        )
        original = dice.choice(networks)
        network = folder / "network"
        shutil.copytree(original, network)
        plan = json.loads((network / "plan.json").read_text())
        changed = plan
        while changed == plan:
            changed = changed_value(dice, plan)
        is_sealed = dice.random() < 0.5 and isinstance(changed, dict)
        if is_sealed:
            values = {key: value for key, value in changed.items() if key != CHECKSUM}
            changed = {**values, CHECKSUM: checksum_of(values)}
        (network / "plan.json").write_text(json.dumps(changed, indent=2))
        if dice.random() < 0.1:
            damage_file(dice, network / "plan.json", others=[network / "metrics.json"])
        right = self._logits(original)
        return Input(
            text=_difference(plan, changed),
            steps=[lambda: self._logits(network)],
            silent=lambda found: "" if is_sealed or torch.equal(found[0], right) else "it computes other logits",
        )

    def _logits(self, network: Path) -> torch.Tensor:
        with torch.no_grad():
            return deepreduce.load_reduced(network, raw_pixels=True)(self._images)


def _difference(one: Any, other: Any, where: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        return "; ".join(_difference(one[k], other[k], f"{where}.{k}") for k in one if one[k] != other[k])[:300]
    return f"{where}: {repr(one)[:100]} -> {repr(other)[:100]}"


class Kills:
    """Runs that are killed at random moments and started again until they end, as an undisturbed one must end.

    Not a `Part`: one run takes many kills.
    """

    name = "kills"

    def __init__(self, folder: Path) -> None:
        begin = time.monotonic()
        self._whole = make_run(folder)
        self._seconds = max(time.monotonic() - begin, 2.0)
        self._config = load_config(folder / "run.yaml")
        self._right = tables_of(self._whole), weights_of(self._whole), _names(self._whole)

    def judge(self, numbers: list[int], *, seed: int, scratch: Path) -> Iterator[Verdict]:
        """Yield a verdict for each kill, when the run that it belongs to has ended."""
        dice = random.Random(f"{seed} kills {numbers[0] if numbers else 0}")
        waiting: list[int] = []
        run = scratch / f"killed-{os.getpid()}"
        while numbers or waiting:
            child = self._start(run)
            # the last run is left alone once all its kills are spent
            moment = dice.uniform(0, 0.5) * self._seconds if numbers else 1e9
            code = _ended(child, moment)
            if code is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                waiting.append(numbers.pop(0))
                continue
            verdict, detail = (TRACEBACK, f"the run ended with {code}") if code else self._judged(run)
            for number in waiting:
                yield Verdict(part=self.name, number=number, verdict=verdict, text=f"kill {number}", detail=detail)
            waiting = []
            shutil.rmtree(run, ignore_errors=True)

    def _start(self, run: Path) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            sys.stderr = io.StringIO()
            torch.set_num_threads(1)
            deepreduce.optimize(config=self._config, out=run)
            code = 0
        finally:
            os._exit(code)

    def _judged(self, run: Path) -> tuple[str, str]:
        found = tables_of(run), weights_of(run), _names(run)
        parts = ("tables", "weights", "names of files")
        different = [part for part, a, b in zip(parts, found, self._right, strict=True) if a != b]
        return (SILENT, f"{', '.join(different)} differ") if different else (RIGHT, "")


def _names(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def _ended(child: int, seconds: float) -> int | None:
    """Return the exit code of a process that ends within the time, else None."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None
