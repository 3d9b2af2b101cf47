"""Give one input to deepreduce in a forked process of bounded memory and time, and judge what came of it.

The parent has imported torch once, so that a process per input costs little. A child runs the input's steps with the
error handling of the command line, compares what they printed and wrote with what is right, and leaves a JSON file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from deepreduce.cli.main import run_command
from deepreduce.cli.outcome import exit_code_of

RIGHT, REFUSED = "right", "refused"
TRACEBACK, NOISE, SILENT, OVER, HANG = "TRACEBACK", "NOT ONE LINE", "SILENT CHANGE", "OVER LIMIT", "HANG"
VERDICTS = (RIGHT, REFUSED, TRACEBACK, NOISE, SILENT, OVER, HANG)

MEMORY, SECONDS = 1_000_000_000, 20
"""Bytes that an input may take besides the imported libraries, and seconds of computing."""
_WALL_SECONDS = 300  # of a process that waits; other programs may have the cores
_ADDRESS_SPACE = 6 * 2**30  # where the allocation fails, so that the machine is safe; it counts as over the limit
_LONGEST_LINE = 3_000
_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING) ")
_RAN_OUT = re.compile(r"out of memory|unable to allocate|can't allocate|MemoryError", re.IGNORECASE)

Step = list[str] | Callable[[], Any]
"""Words of a command line, or a function of the Python API."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What is given to deepreduce, in the folder in which it runs.

    `silent` is called after steps that all succeeded, with what they printed or returned; it says what changed in
    silence, "" if nothing did.
    """

    text: str
    steps: list[Step]
    silent: Callable[[list[Any]], str] = lambda found: ""
    warns: bool = False
    """Whether it is a user's own code, whose warnings are printed besides."""


class Part(Protocol):
    """A kind of inputs. Input number i of a seed is always the same."""

    name: str

    def prepare(self, folder: Path) -> None:
        """Write into an empty folder what all inputs share."""

    def make(self, dice: random.Random, folder: Path) -> Input:
        """Write an input into an empty folder and return it."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of an input; `megabytes` are those beyond the imported libraries, `seconds` those of computing."""

    part: str
    number: int
    verdict: str
    text: str
    detail: str = ""
    megabytes: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass
class _Child:
    part: str
    number: int
    folder: Path
    begun: float = field(default_factory=time.monotonic)


def judge_all(part: Part, numbers: Iterable[int], *, seed: int, scratch: Path, jobs: int) -> Iterator[Verdict]:
    """Yield the verdict on each of the numbered inputs of a part, some at a time."""
    running: dict[int, _Child] = {}
    waiting = iter(numbers)
    while True:
        while len(running) < jobs and (number := next(waiting, None)) is not None:
            folder = scratch / f"{part.name}-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            pid = os.fork()
            if not pid:
                _be_child(part, number, seed=seed, folder=folder)
            running[pid] = _Child(part.name, number, folder)
        if not running:
            return
        time.sleep(0.002)
        for pid, child in list(running.items()):
            done, status, usage = os.wait4(pid, os.WNOHANG)
            waited = time.monotonic() - child.begun
            if not done and waited < _WALL_SECONDS:
                continue
            _kill_group(pid)  # processes that the input has started, too
            if not done:
                _, status, usage = os.wait4(pid, 0)
            del running[pid]
            yield _verdict(child, status, usage, ended=bool(done))
            shutil.rmtree(child.folder, ignore_errors=True)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def dice_of(seed: int, part: str, number: int) -> random.Random:
    """Return the random numbers that make an input."""
    return random.Random(f"{seed} {part} {number}")


def _be_child(part: Part, number: int, *, seed: int, folder: Path) -> None:
    """Make and try the input, leave the result in the folder, and end this process."""
    code = 1
    try:
        os.setsid()
        torch.set_num_threads(1)
        work = folder / "work"
        work.mkdir()
        given = part.make(dice_of(seed, part.name, number), work)
        # what it takes to make the input is not the input's
        used = resource.getrusage(resource.RUSAGE_SELF)
        begun = {"text": given.text, "base_kib": used.ru_maxrss, "base_seconds": used.ru_utime + used.ru_stime}
        (folder / "begun.json").write_text(json.dumps(begun))
        resource.setrlimit(resource.RLIMIT_CPU, (int(begun["base_seconds"]) + SECONDS + 1,) * 2)
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + _ADDRESS_SPACE,) * 2)
        os.chdir(work)
        result = _try_steps(given)
        (folder / "result.json").write_text(json.dumps(result, default=str))
        code = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            (folder / "result.json").write_text(json.dumps({"traceback": traceback.format_exc()}))
    finally:
        os._exit(code)


def _try_steps(given: Input) -> dict[str, Any]:
    """Run the steps until one is refused; return codes, messages, and what changed in silence."""
    found: list[Any] = []
    for step in given.steps:
        printed, errors, value = io.StringIO(), io.StringIO(), None

        def call(step: Callable[[], Any] = step) -> int:  # type: ignore[assignment]
            nonlocal value
            value = step()
            return 0

        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
                code = run_command(step) if isinstance(step, list) else exit_code_of(call, [])
        except BaseException:
            return {"traceback": traceback.format_exc(), "step": str(step)[:300]}
        if code:
            return {"code": code, "errors": errors.getvalue(), "warns": given.warns, "step": str(step)[:300]}
        found.append(printed.getvalue() if isinstance(step, list) else value)
    try:
        return {"code": 0, "silent": given.silent(found)}
    except BaseException:
        return {"traceback": f"while comparing: {traceback.format_exc()}"}


def _verdict(child: _Child, status: int, usage: Any, *, ended: bool) -> Verdict:
    begun, result = (_read(child.folder / name) for name in ("begun.json", "result.json"))
    seconds = max(usage.ru_utime + usage.ru_stime - begun.get("base_seconds", 0.0), 0.0)
    megabytes = max(usage.ru_maxrss - begun.get("base_kib", usage.ru_maxrss), 0) * 1024 / 1e6

    def verdict(name: str, detail: str = "") -> Verdict:
        return Verdict(
            part=child.part, number=child.number, verdict=name, text=begun.get("text", "?"), detail=detail[-1500:],
            megabytes=round(megabytes, 1), seconds=round(seconds, 2),
        )  # fmt: skip

    errors = result.get("errors", "")
    if not ended or seconds > SECONDS:
        return verdict(HANG, errors)
    if "traceback" in result or not result:
        return verdict(TRACEBACK, result.get("traceback", f"the process ended with status {status}"))
    if megabytes > MEMORY / 1e6 or _RAN_OUT.search(errors):
        return verdict(OVER, errors)
    if result.get("silent"):
        return verdict(SILENT, result["silent"])
    if result["code"] == 0:
        return verdict(RIGHT)
    lines = [line for line in errors.splitlines() if not _LOG_LINE.match(line)]
    if result.get("warns"):
        lines = [line for line in lines if not line.startswith("  ") and "Warning: " not in line]
    if len(lines) != 1 or not lines[0].startswith("deepreduce: ") or len(lines[0]) > _LONGEST_LINE:
        return verdict(NOISE, errors)
    return verdict(REFUSED, lines[0])


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except (OSError, ValueError):
        return {}
