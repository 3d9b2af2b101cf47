"""The fuzz campaign sees every kind of wrong answer, and a short one finds none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY
from tests.helpers.runs import plain_environment

KINDS = """
import json, random, sys, time
sys.path.insert(0, {scripts!r})
from pathlib import Path
from fuzzing import harness
from deepreduce.errors import RunError, UserError

def refuse(): raise UserError("a is 1; give 2")
def fail(): raise RunError("first\\nsecond")
def run_out(): raise MemoryError
def print_more():
    print("another line", file=sys.stderr)
    raise UserError("no")
def allocate(): return bytearray(1_200_000_000)
def compute():
    while True: pass
def leave(): __import__("os")._exit(3)
STEPS = [lambda: 1, refuse, fail, lambda: 1 / 0, run_out, print_more, allocate, compute, leave, lambda: "other"]

class Kinds:
    name = "kinds"
    def prepare(self, folder): pass
    def make(self, dice, folder):
        step = STEPS[int(folder.parent.name.split("-")[1])]
        return harness.Input(text="x", steps=[step], silent=lambda found: "changed" if found == ["other"] else "")

harness.SECONDS = 1
found = harness.judge_all(Kinds(), range(len(STEPS)), seed=0, scratch=Path({scratch!r}), jobs=2)
print(json.dumps([v.verdict for v in sorted(found, key=lambda v: v.number)]))
"""


def test_every_kind_of_wrong_answer_is_seen(tmp_path: Path) -> None:
    code = KINDS.format(scripts=str(REPOSITORY / "scripts"), scratch=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=plain_environment(),
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "right", "refused", "refused", "TRACEBACK", "OVER LIMIT", "NOT ONE LINE", "OVER LIMIT", "HANG", "TRACEBACK",
        "SILENT CHANGE",
    ]  # fmt: skip


def campaign(folder: Path, *words: str) -> dict[str, dict[str, float]]:
    """Run the script; return the rows of its table by part."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "fuzz.py"), "--out", str(folder), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=plain_environment(), cwd=REPOSITORY
    )
    assert done.returncode == 0, (done.stderr, (folder / "verdicts.jsonl").read_text())
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert "OVER LIMIT" in done.stdout.splitlines()[0] and done.stdout.splitlines()[-1].split()[0] == "all"
    return {row["part"]: row for row in rows}


def test_a_short_campaign_finds_nothing(tmp_path: Path) -> None:
    parts = "configs,settings,cli,npz,images,queries,networks"
    rows = campaign(tmp_path, "--n", "3", "--seed", "0", "--parts", parts)
    assert set(rows) == {*parts.split(","), "all"}
    assert rows["all"]["inputs"] == 21 == rows["all"]["right"] + rows["all"]["refused"]
    assert rows["all"]["right"] and rows["all"]["refused"] > rows["all"]["right"]


@pytest.mark.slow
def test_a_short_campaign_on_run_folders_finds_nothing(tmp_path: Path) -> None:
    words = ["--n", "6", "--kills", "2", "--seed", "0", "--parts", "plans,folders,kills"]
    rows = campaign(tmp_path, *words)
    assert (rows["folders"]["inputs"], rows["kills"]["inputs"], rows["kills"]["right"]) == (6, 2, 2)
    # the same command goes on where it was stopped
    verdicts = (tmp_path / "verdicts.jsonl").read_text().splitlines()
    (tmp_path / "verdicts.jsonl").write_text("\n".join([*verdicts[1:-1], verdicts[-1][:20]]) + "\n")
    assert campaign(tmp_path, *words) == rows
