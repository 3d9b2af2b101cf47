"""Give deepreduce thousands of hostile inputs, and count what it does wrong.

    python scripts/fuzz.py --out FOLDER [--parts configs,npz,...] [--n 500] [--kills 200] [--seed 0] [--jobs 2]
    python scripts/fuzz.py --out FOLDER --only npz:17      one input again, with all that is known of it

Each input runs in a process of its own, with bounded memory and time. The right answers are: what the input means, or
a refusal in one line. Verdicts are appended to FOLDER/verdicts.jsonl; the same command goes on where it was stopped.
The table comes last, and FOLDER/summary.json holds it. Exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with more threads can't be forked safely

import PIL.Image  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torchvision.transforms  # noqa: F401
from fuzzing.files import ImageFolders, Networks, NpzFiles, QueryImages
from fuzzing.folders import Kills, Plans, RunFolders
from fuzzing.harness import HANG, NOISE, OVER, REFUSED, RIGHT, SILENT, TRACEBACK, VERDICTS, Part, Verdict, judge_all
from fuzzing.words import CommandLines, Configs, Settings

import deepreduce.report.figures.frontier
import deepreduce.run.page  # noqa: F401

PARTS: dict[str, type] = {
    part.name: part
    for part in (Configs, Settings, CommandLines, NpzFiles, ImageFolders, QueryImages, Networks, Plans, RunFolders)
}
WRONG = (TRACEBACK, NOISE, SILENT, OVER, HANG)


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign; return 1 if any verdict is wrong."""
    asked = _parse(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    scratch = asked.out.resolve() / "scratch"
    # nothing that the user has cached or calibrated is read or written
    os.environ["XDG_CACHE_HOME"] = os.environ["HOME"] = str(scratch)
    torch.set_num_threads(1)
    if asked.only:
        part_name, _, number = asked.only.partition(":")
        for verdict in judge_all(
            _prepared(part_name, scratch), [int(number)], seed=asked.seed, scratch=scratch, jobs=1
        ):
            print(json.dumps(verdict.to_json(), indent=2))
        return 0
    verdicts = read_verdicts(asked.out / "verdicts.jsonl")
    begin = time.monotonic()
    with open(asked.out / "verdicts.jsonl", "a", encoding="utf-8") as file:
        for verdict in _judge(asked, verdicts, scratch):
            verdicts[verdict.part, verdict.number] = verdict
            print(json.dumps(verdict.to_json()), file=file, flush=True)
            if verdict.verdict in WRONG:
                print(f"{verdict.verdict}: {verdict.part}:{verdict.number} {verdict.text[:150]!a}", file=sys.stderr)
    shutil.rmtree(scratch, ignore_errors=True)
    rows = table(verdicts.values())
    print(as_text(rows))
    summary = {
        "seed": asked.seed,
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    (asked.out / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    return int(any(verdict.verdict in WRONG for verdict in verdicts.values()))


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of verdicts and summary")
    parser.add_argument("--parts", default=",".join([*PARTS, Kills.name]), help="parts to run, separated by commas")
    parser.add_argument("--n", type=int, default=500, help="inputs of each part")
    parser.add_argument("--kills", type=int, default=200, help="number of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="inputs at a time")
    parser.add_argument("--only", metavar="PART:NUMBER", help="try one input again and print its verdict")
    asked = parser.parse_args(words)
    unknown = set(asked.parts.split(",")) - {*PARTS, Kills.name}
    if unknown:
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join([*PARTS, Kills.name])}")
    return asked


def _prepared(name: str, scratch: Path) -> Part:
    part: Part = PARTS[name]()
    part.prepare(scratch / "shared")
    return part


def _judge(asked: argparse.Namespace, known: dict[tuple[str, int], Verdict], scratch: Path) -> Iterable[Verdict]:
    for name in asked.parts.split(","):
        numbers = [i for i in range(asked.kills if name == Kills.name else asked.n) if (name, i) not in known]
        if not numbers:
            continue
        print(f"{name}: {len(numbers)} inputs", file=sys.stderr, flush=True)
        if name == Kills.name:
            yield from Kills(scratch / "killed").judge(numbers, seed=asked.seed, scratch=scratch)
        else:
            yield from judge_all(
                _prepared(name, scratch), numbers, seed=asked.seed, scratch=scratch / "inputs", jobs=asked.jobs
            )


def read_verdicts(path: Path) -> dict[tuple[str, int], Verdict]:
    """Return the verdicts in a file, by part and number; a line that a kill has cut off is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            verdict = Verdict(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[verdict.part, verdict.number] = verdict
    return found


def table(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Return a row for each part and one for all: number of inputs, of each verdict, most megabytes and seconds."""
    by_part: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_part.setdefault(verdict.part, []).append(verdict)
    everything = [verdict for found in by_part.values() for verdict in found]
    rows = []
    for name, found in [*by_part.items(), ("all", everything)]:
        counts = {verdict: sum(v.verdict == verdict for v in found) for verdict in VERDICTS}
        most = {
            "most MB": max((v.megabytes for v in found), default=0),
            "most s": max((v.seconds for v in found), default=0),
        }
        rows.append({"part": name, "inputs": len(found), **counts, **most})
    return rows


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table for a terminal."""
    heads = list(rows[0])
    cells = [heads, *([str(row[head]) for head in heads] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


assert {REFUSED, RIGHT, *WRONG} == set(VERDICTS)

if __name__ == "__main__":
    sys.exit(main())
