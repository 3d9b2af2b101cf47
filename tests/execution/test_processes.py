"""Networks trained side by side are those that would be trained one after the other, and no process is left."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.errors import CheckpointError, RunError, UserError
from deepreduce.execution import processes as subject
from deepreduce.execution.processes import ExecutorError, ProcessExecutor
from deepreduce.execution.trainer import CandidateTrainer, SharedWeightsTask, TrainResult, TrainTask, WarmStart
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.training import (
    AugmentationSchedule,
    Distillation,
    EpochEnded,
    LogitsCache,
    Stepped,
    Stopped,
    Teacher,
    TrainingEvent,
)
from deepreduce.utils.files import TEMPORARY
from tests.helpers import REPOSITORY
from tests.helpers.callbacks import AverageWeights
from tests.helpers.images import CPU, striped
from tests.helpers.training import FP32, RECIPE, tiny

pytestmark = pytest.mark.skipif(os.name != "posix", reason="side by side needs POSIX")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()


@pytest.fixture(scope="module")
def original() -> Network:
    return trace_network(tiny(), (3, 8, 8), name="tiny")


def workshop(original: Network, data: ImageData, folder: Path, **options: Any) -> CandidateTrainer:
    folder.mkdir(exist_ok=True)
    remembered = LogitsCache(folder / "answers.bin", epochs=2, steps=4, batch_size=18, num_classes=3)
    values: dict[str, Any] = {
        "precision": FP32,
        "device": CPU,
        "distillation": Distillation(),
        "checkpoint_seconds": math.inf,
        "stop": lambda: False,
        "views": AugmentationSchedule(seed=3, epochs=2),
        "lesson": Teacher(tiny(seed=9).eval().requires_grad_(False), precision=FP32, cache=remembered),
    }
    return CandidateTrainer(original=original, data=data, **(values | options))


def jobs_in(folder: Path, original: Network, *, count: int = 3, **options: Any) -> list[TrainTask]:
    found = []
    for number in range(count):
        path = folder / f"network{number}"
        path.mkdir(parents=True, exist_ok=True)
        plan = ReductionPlan(sites=((original.sites[number % len(original.sites)].name, "identity"),))
        values: dict[str, Any] = {
            "name": f"network {number}", "plan": plan, "folder": NetworkFolder(path=path), "recipe": RECIPE,
            "seed": number, "statistics_batches": 2,
        }  # fmt: skip
        found.append(TrainTask(**(values | options)))
    return found


LONG = replace(RECIPE, epochs=2000)


OnEvent = Callable[[TrainingEvent], None]


def ignore(event: TrainingEvent) -> None:
    pass


def silent(job: TrainTask) -> OnEvent:
    return ignore


def plain(outcomes: dict[str, TrainResult]) -> dict[str, TrainResult]:
    """Without what a clock measured."""
    return {name: replace(outcome, train_seconds=0.0) for name, outcome in outcomes.items()}


def run_all(
    shop: CandidateTrainer,
    jobs: Sequence[TrainTask],
    folder: Path,
    *,
    size: int = 2,
    told: Callable[[TrainTask], OnEvent] = silent,
) -> dict[str, TrainResult]:
    with ProcessExecutor(shop, size=size, scratch=folder) as crew:
        return {job.name: outcome for job, outcome in crew.run(jobs, told)}


def children() -> set[int]:
    """Processes of crews that this one has started, zombies included."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            is_crew = b"deepreduce.execution.processes" in (entry / "cmdline").read_bytes()
            if parent == os.getpid() and is_crew:
                found.add(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    if sys.platform == "linux":
        assert not children()


# -- what comes out -------------------------------------------------------------------------------------------


def test_networks_side_by_side_are_bit_equal_to_those_trained_one_after_the_other(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    shops = [workshop(original, data, tmp_path / name) for name in ("one", "two")]
    alone, beside = (jobs_in(tmp_path / name, original) for name in ("one", "two"))
    expected = {job.name: shops[0].run(job, ignore) for job in alone}
    found = run_all(shops[1], beside, tmp_path / "two")
    assert plain(found) == plain(expected) and len(found) == 3
    for one, other in zip(alone, beside, strict=True):
        weights, others = one.folder.weights(), other.folder.weights()
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)
        assert sorted(p.name for p in one.folder.path.iterdir()) == sorted(
            p.name for p in other.folder.path.iterdir()
        )
    assert (tmp_path / "one" / "answers.bin").read_bytes() == (tmp_path / "two" / "answers.bin").read_bytes()
    assert not list((tmp_path / "two").glob("crew*"))


def test_families_are_trained_side_by_side_as_they_would_be_one_after_the_other(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    def families(folder: Path) -> list[SharedWeightsTask]:
        found = []
        for number in range(2):
            place = folder / f"family{number}"
            jobs = tuple(jobs_in(place, original, count=2, test=False))
            (place / "together").mkdir()
            together = NetworkFolder(path=place / "together")
            found.append(
                SharedWeightsTask(
                    name=f"family {number}", jobs=jobs, turns=(0, 1, 1), folder=together, recipe=RECIPE, seed=number
                )
            )
        return found

    shops = [workshop(original, data, tmp_path / name) for name in ("one", "two")]
    alone, beside = families(tmp_path / "one"), families(tmp_path / "two")
    expected = {shared.name: plain(shops[0].run_shared(shared, ignore)) for shared in alone}
    with ProcessExecutor(shops[1], size=2, scratch=tmp_path) as crew:
        found = {shared.name: plain(outcomes) for shared, outcomes in crew.run(beside, lambda shared: ignore)}
    assert found == expected
    for one, other in zip(alone, beside, strict=True):
        for mine, theirs in zip(one.jobs, other.jobs, strict=True):
            weights, others = mine.folder.weights(), theirs.folder.weights()
            assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_users_callbacks_travel_and_change_what_is_trained_as_they_would_here(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    shops = [workshop(original, data, tmp_path / name, callbacks=(AverageWeights(),)) for name in ("one", "two")]
    alone, beside = (jobs_in(tmp_path / name, original, count=2) for name in ("one", "two"))
    expected = {job.name: shops[0].run(job, ignore) for job in alone}
    assert plain(run_all(shops[1], beside, tmp_path / "two")) == plain(expected)
    for one, other in zip(alone, beside, strict=True):
        weights, others = one.folder.weights(), other.folder.weights()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_callbacks_that_can_not_travel_are_told_before_anything_is_trained(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    class Local(AverageWeights):
        pass

    with pytest.raises(ExecutorError, match="Local"):
        run_all(workshop(original, data, tmp_path, callbacks=(Local(),)), [], tmp_path)


@pytest.mark.slow
def test_fewer_jobs_than_processes_will_do(original: Network, data: ImageData, tmp_path: Path) -> None:
    shop = workshop(original, data, tmp_path)
    assert len(run_all(shop, jobs_in(tmp_path, original, count=1), tmp_path, size=2)) == 1
    with ProcessExecutor(shop, size=1, scratch=tmp_path) as crew:
        assert list(crew.run([], silent)) == []


@pytest.mark.slow
def test_who_watches_is_told_of_every_network_what_it_would_be_told_otherwise(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    def watching() -> tuple[dict[str, list[Any]], Callable[[TrainTask], OnEvent]]:
        news: dict[str, list[Any]] = {}

        def told(job: TrainTask) -> OnEvent:
            mine = news.setdefault(job.name, [])

            def hear(event: TrainingEvent) -> None:
                if isinstance(event, EpochEnded):
                    event = EpochEnded(record=replace(event.record, seconds=0.0))
                mine.append(event)

            return hear

        return news, told

    expected, told = watching()
    alone = workshop(original, data, tmp_path / "one")
    for job in jobs_in(tmp_path / "one", original, count=2):
        alone.run(job, told(job))
    found, told = watching()
    run_all(
        workshop(original, data, tmp_path / "two"), jobs_in(tmp_path / "two", original, count=2), tmp_path, told=told
    )
    assert found == expected


# -- stops ----------------------------------------------------------------------------------------------------


def test_a_stop_saves_every_network_and_going_on_ends_like_one_that_was_not_stopped(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    long = replace(RECIPE, epochs=40)
    alone = workshop(original, data, tmp_path / "one")
    expected = {
        job.name: alone.run(job, ignore)
        for job in jobs_in(tmp_path / "one", original, count=2, recipe=long)
    }  # fmt: skip
    steps: dict[str, int] = {}

    def told(job: TrainTask) -> OnEvent:
        def hear(event: TrainingEvent) -> None:
            if isinstance(event, Stepped):
                steps[job.name] = event.progress.epoch

        return hear

    jobs = jobs_in(tmp_path / "two", original, count=2, recipe=long)
    shop = workshop(original, data, tmp_path / "two", stop=lambda: len(steps) == 2)
    with pytest.raises(Stopped):
        run_all(shop, jobs, tmp_path, told=told)
    for job in jobs:
        snapshot = job.folder.snapshot()
        assert snapshot is not None and 0 < snapshot.values["epoch"] < 40
    found = run_all(workshop(original, data, tmp_path / "two"), jobs, tmp_path)
    assert plain(found) == plain(expected)
    one, other = (NetworkFolder(path=tmp_path / name / "network1").weights() for name in ("one", "two"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_stop_before_the_first_network_trains_none(original: Network, data: ImageData, tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, original)
    with pytest.raises(Stopped):
        run_all(workshop(original, data, tmp_path, stop=lambda: True), jobs, tmp_path)
    assert not any(any(job.folder.path.iterdir()) for job in jobs)


# -- what goes wrong ------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_is_an_error_of_the_run_within_seconds(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    jobs = jobs_in(tmp_path, original, count=2, recipe=LONG)
    begin = 0.0

    def told(job: TrainTask) -> OnEvent:
        def hear(event: TrainingEvent) -> None:
            nonlocal begin
            if isinstance(event, Stepped) and not begin:
                begin = time.monotonic()
                os.kill(crew._members[0].process.pid, signal.SIGKILL)

        return hear

    with ProcessExecutor(workshop(original, data, tmp_path), size=2, scratch=tmp_path) as crew:
        with pytest.raises(
            RunError, match=r"network \d: the process that trained it was ended \(signal 9\); lower side_"
        ):
            for _ in crew.run(jobs, told):
                pass
    assert begin and time.monotonic() - begin < 30


@pytest.mark.slow
def test_a_batch_too_small_for_the_network_keeps_its_class_and_its_text(data: ImageData, tmp_path: Path) -> None:
    network = trace_network(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()), (3, 8, 8)
    )
    jobs = jobs_in(tmp_path, network, count=1, recipe=replace(RECIPE, batch_size=1))
    shop = workshop(network, data, tmp_path, lesson=None)
    with pytest.raises(UserError, match=r"network 0: a batch of 1 .*raise training\.batch_size") as caught:
        run_all(shop, jobs, tmp_path)
    assert type(caught.value) is UserError


@pytest.mark.slow
def test_a_file_that_is_missing_keeps_its_class_and_its_text(
    original: Network, data: ImageData, tmp_path: Path
) -> None:
    start = WarmStart(folder=NetworkFolder(path=tmp_path / "nowhere"), plan=ReductionPlan())
    jobs = jobs_in(tmp_path, original, count=1, start=start)
    with pytest.raises(CheckpointError, match=r"nowhere/model\.safetensors can't be read"):
        run_all(workshop(original, data, tmp_path), jobs, tmp_path)


@pytest.mark.slow
def test_a_mistake_of_ours_is_an_error_of_the_run_and_its_traceback_is_logged(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = jobs_in(tmp_path, original, count=1, recipe="no recipe")
    with pytest.raises(
        RunError, match="network 0 could not be trained: AttributeError: 'str' object has no attribute"
    ):
        run_all(workshop(original, data, tmp_path), jobs, tmp_path)
    shown = logging.Formatter().format(caplog.records[-1])
    assert shown.startswith("network 0 could not be trained\nTraceback")
    assert shown.count("Traceback (most recent call last)") == 1


@pytest.mark.slow
def test_a_loss_that_is_never_finite_fails_that_network_only(
    original: Network, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hopeless = replace(RECIPE, learning_rate=1e30, warmup_epochs=0.0, clip_norm=None)
    first, *others = jobs_in(tmp_path, original)
    with caplog.at_level(logging.WARNING, "deepreduce"):
        found = run_all(workshop(original, data, tmp_path), [replace(first, recipe=hopeless), *others], tmp_path)
    failure = found["network 0"].failure
    assert failure is not None and "not finite" in failure
    assert all(found[job.name].failure is None for job in others)
    # what the other process logs arrives, by the logger that it was logged to
    told = {(r.name, r.levelname) for r in caplog.records if "not finite" in r.getMessage()}
    assert told == {("deepreduce.training.loop", "WARNING"), ("deepreduce.execution.trainer", "WARNING")}


def test_a_network_of_a_script_that_can_not_be_imported_is_told_before_anything_is_trained(
    data: ImageData, tmp_path: Path
) -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    network = replace(trace_network(tiny(), (3, 8, 8)))
    teacher = Local()
    shop = workshop(network, data, tmp_path, lesson=Teacher(teacher, precision=FP32))
    with pytest.raises(ExecutorError, match="Local"), ProcessExecutor(shop, size=2, scratch=tmp_path):
        pass
    assert not list(tmp_path.glob("crew*"))


@pytest.mark.slow
def test_a_class_that_only_this_process_knows_is_told_before_anything_is_trained(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    Hidden.__qualname__, Hidden.__module__ = "Hidden", __name__
    monkeypatch.setattr(sys.modules[__name__], "Hidden", Hidden, raising=False)
    shop = workshop(original, data, tmp_path, lesson=Teacher(Hidden(), precision=FP32))
    with pytest.raises(ExecutorError, match="another process can't import its classes"), ProcessExecutor(
        shop, size=2, scratch=tmp_path
    ):  # fmt: skip
        pass
    assert not list(tmp_path.glob("crew*"))


@pytest.mark.slow
def test_a_process_that_does_not_come_up_is_told(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_COMMAND", "raise SystemExit(3)")
    with pytest.raises(ExecutorError), ProcessExecutor(workshop(original, data, tmp_path), size=2, scratch=tmp_path):
        pass


def test_where_there_is_no_room_for_the_data_it_is_told(original: Network, data: ImageData, tmp_path: Path) -> None:
    shop = workshop(original, data, tmp_path)
    with (
        pytest.raises(ExecutorError, match="No such file"),
        ProcessExecutor(shop, size=2, scratch=tmp_path / "nowhere"),
    ):
        pass


@pytest.mark.slow
def test_what_a_kill_while_the_processes_start_leaves_behind_is_cleared_away_by_the_next_run(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, seen = subject._start_member, []

    def looking() -> Any:
        seen.extend(path.name for path in tmp_path.glob("crew*"))
        assert all(
            path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("crew*")
        )  # others can't put theirs there
        return start()

    monkeypatch.setattr(subject, "_start_member", looking)
    with ProcessExecutor(workshop(original, data, tmp_path), size=1, scratch=tmp_path):
        pass
    assert len(seen) == 1 and seen[0].endswith(TEMPORARY)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_the_other_processes_only_through_the_one_that_runs_the_whole(
    original: Network, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subject._start_member

    def interrupted() -> Any:
        member = start()
        for number in (signal.SIGINT, signal.SIGTERM):  # before it has done anything
            member.process.send_signal(number)
        return member

    monkeypatch.setattr(subject, "_start_member", interrupted)
    jobs = jobs_in(tmp_path, original, count=2)
    interrupted_too: list[str] = []

    def told(job: TrainTask) -> OnEvent:
        def hear(event: TrainingEvent) -> None:
            if isinstance(event, Stepped):
                interrupted_too.append(job.name)
                for member in crew._members:
                    member.process.send_signal(signal.SIGINT)

        return hear

    with ProcessExecutor(workshop(original, data, tmp_path), size=2, scratch=tmp_path) as crew:
        assert all(outcome.failure is None for _, outcome in crew.run(jobs, told))
    assert interrupted_too
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


# -- the end of the process that runs the whole ---------------------------------------------------------------

PARENT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from deepreduce.execution.processes import ProcessExecutor
from deepreduce.network import trace_network
from tests.helpers.images import striped
from tests.execution.test_processes import LONG, jobs_in, workshop
from tests.helpers.training import tiny
from deepreduce.training import Stepped

folder = Path(sys.argv[1])
original = trace_network(tiny(), (3, 8, 8), name="tiny")
started = set()

def told(job):
    def hear(event):
        if isinstance(event, Stepped):
            started.add(job.name)
        if len(started) == 2:
            print(json.dumps([m.process.pid for m in crew._members]), flush=True)
            started.add("told")
    return hear

with ProcessExecutor(workshop(original, striped(), folder), size=2, scratch=folder) as crew:
    for _ in crew.run(jobs_in(folder, original, count=2, recipe=LONG), told):
        pass
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_the_one_that_runs_the_whole_when_that_is_killed(tmp_path: Path) -> None:
    root = REPOSITORY
    environment = {**os.environ, "PYTHONPATH": str(root)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        members = json.loads(parent.stdout.readline())
        assert len(members) == 2 and all(is_alive(pid) for pid in members)
    finally:
        parent.kill()
        parent.communicate()
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in members) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in members)


def test_memory_is_given_back_where_the_system_knows_how(monkeypatch: pytest.MonkeyPatch) -> None:
    subject.give_memory_back()

    class Without:
        def __init__(self, name: None) -> None:
            pass

    monkeypatch.setattr(subject.ctypes, "CDLL", Without)
    subject.give_memory_back()


@pytest.mark.slow
def test_a_process_that_dies_while_it_waits_is_named(original: Network, data: ImageData, tmp_path: Path) -> None:
    shop = workshop(original, data, tmp_path)
    with ProcessExecutor(shop, size=1, scratch=tmp_path) as crew:
        assert list(crew.run(jobs_in(tmp_path / "one", original, count=1), silent))
        (idle,) = children()
        os.kill(idle, signal.SIGKILL)
        os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)
        with pytest.raises(RunError, match=r"network 0: the process that trained it was ended \(signal 9\)"):
            list(crew.run(jobs_in(tmp_path / "two", original, count=1), silent))
