"""The contract of all observers, a user's own included: what they hear of a run, and that they change none."""

from __future__ import annotations

import importlib.util
import io
import logging
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deepreduce
from deepreduce.errors import RunInterrupted, UserError
from deepreduce.observers import ObservedNetwork, Observers, RunObserver, make_observers
from deepreduce.observers.progress import ProgressBar, ProgressLog
from deepreduce.training import Progress
from tests.helpers import REPOSITORY
from tests.helpers.curves import (
    agree,
    histories,
    mlflow_curve,
    mlflow_entries,
    tensorboard_curve,
    tensorboard_events,
)
from tests.helpers.observers import (
    FAILED,
    NETWORK,
    OTHER,
    QUICK,
    TEACHER,
    Recorder,
    at,
    end,
    epoch,
    epochs,
    finish,
    start,
)
from tests.helpers.runs import NUM_PROBES, NUM_TRAININGS, TINY, StopsIn, without_seconds

# other people's packages warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def named(name: str) -> Callable[[], RunObserver]:
    def make() -> RunObserver:
        pytest.importorskip(name)
        return make_observers([name])[0]

    return make


MLFLOW = pytest.param(named("mlflow"), id="mlflow", marks=pytest.mark.slow)
OBSERVERS = [
    pytest.param(RunObserver, id="none"),
    pytest.param(Recorder, id="own"),
    pytest.param(lambda: ProgressBar(io.StringIO()), id="bar"),
    pytest.param(lambda: ProgressLog(every=0), id="lines"),
    pytest.param(named("tensorboard"), id="tensorboard"),
    MLFLOW,
    pytest.param(lambda: Observers([Recorder(), ProgressLog()]), id="several"),
]
any_observer = pytest.mark.parametrize("make", OBSERVERS)

# -- made-up runs: whatever may come, no observer fails --------------------------------------------------------


@any_observer
def test_an_observer_takes_networks_in_parallel_failed_and_done_before(
    tmp_path: Path, make: Callable[[], RunObserver], caplog: pytest.LogCaptureFixture
) -> None:
    observer = make()
    observer.run_started(tmp_path)
    start(observer, TEACHER, number=1, epochs=epochs(1, 2))
    end(observer, TEACHER, was_done=True)
    start(observer, NETWORK, number=2)
    start(observer, OTHER, number=3, epochs=epochs(1))
    for number in (1, 2):
        observer.step_ended(NETWORK, at(number))
        observer.epoch_ended(NETWORK, epoch(number))
        observer.step_ended(OTHER, at(number + 1, resumed=1))
        observer.epoch_ended(OTHER, epoch(number + 1))
    end(observer, OTHER, FAILED)
    end(observer, NETWORK)
    finish(observer)
    observer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@any_observer
def test_an_observer_can_be_closed_before_a_run_before_a_network_and_within_one(
    tmp_path: Path, make: Callable[[], RunObserver], caplog: pytest.LogCaptureFixture
) -> None:
    make().close()
    for within in (False, True):
        observer = make()
        observer.run_started(tmp_path)
        if within:
            start(observer, NETWORK)
            observer.epoch_ended(NETWORK, epoch(1))
        observer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


Losses = Mapping[str, list[tuple[int, float]]]


def recorded(folder: Path, observer: RunObserver) -> Losses:
    assert isinstance(observer, Recorder) and not observer.errors
    return {name: [(number, 1 / number) for number in numbers] for name, numbers in observer.epochs().items()}


def in_tensorboard(folder: Path, observer: RunObserver) -> Losses:
    root = folder / "tensorboard"
    networks = [path.parent for path in root.rglob("events*") if path.parent.name != "frontier"]
    assert len(networks) == len(set(networks))  # one file each
    return {
        path.relative_to(root).as_posix(): tensorboard_curve(tensorboard_events(path), "train_loss")
        for path in networks
    }


def in_mlflow(folder: Path, observer: RunObserver) -> Losses:
    entries = mlflow_entries(folder).items()
    return {name: mlflow_curve(folder, entry, "train_loss") for name, entry in entries if name != "."}


@pytest.mark.parametrize(
    ("make", "losses", "seed"),
    [
        # of seeds that kill processes in the middle of networks
        *((Recorder, recorded, seed) for seed in (3, 5, 9, 11)),
        *((named("tensorboard"), in_tensorboard, seed) for seed in (3, 5, 9, 11)),
        pytest.param(named("mlflow"), in_mlflow, 11, marks=pytest.mark.slow),
    ],
)
def test_each_epoch_is_kept_once_whatever_is_trained_in_parallel_killed_and_resumed(
    tmp_path: Path, make: Callable[[], RunObserver], losses: Callable[[Path, RunObserver], Losses], seed: int
) -> None:
    chance, length = random.Random(seed), 4
    networks = [ObservedNetwork(label="cull S1", folder=f"candidates/{i:08x}", plan_id=f"{i:08x}") for i in range(5)]
    trained, saved, ended = dict.fromkeys(networks, 0), dict.fromkeys(networks, 0), set[ObservedNetwork]()
    processes = 0
    while len(ended) < len(networks):
        observer, running, waiting = make(), list[ObservedNetwork](), list(networks)
        processes += 1
        observer.run_started(tmp_path)
        while waiting or running:
            while waiting and (len(running) < 2 or waiting[0] in ended):
                network = waiting.pop(0)
                number = len(networks) - len(waiting)
                trained[network] = saved[network]
                start(observer, network, number=number, epochs=epochs(*range(1, saved[network] + 1)))
                if network in ended:
                    end(observer, network, was_done=True)
                else:
                    running.append(network)
            if not running:
                break
            network = chance.choice(running)
            if trained[network] < length:
                trained[network] += 1
                observer.epoch_ended(network, epoch(trained[network]))
            else:
                end(observer, network)
                running.remove(network)
                ended.add(network)
                saved[network] = length
            if chance.random() < 0.3:
                saved[network] = trained[network]  # a snapshot
            if chance.random() < 0.1 and processes < 4:
                if chance.random() < 0.5:  # stopped, not killed: everything is saved
                    saved |= trained
                    observer.close()
                break
    observer.close()
    expected = [(number, 1 / number) for number in range(1, length + 1)]
    found = losses(tmp_path, observer)
    assert found.keys() == {network.folder for network in networks}
    assert all(agree(curve, expected) for curve in found.values())


# -- whole runs ------------------------------------------------------------------------------------------------


def expected_epochs(folder: Path) -> dict[str, list[int]]:
    return {name: [number for number, _ in curve] for name, curve in histories(folder).items()}


def test_a_run_reports_every_network_in_order_whether_trained_now_or_before(tmp_path: Path) -> None:
    now, again = Recorder(), Recorder()
    for recorder in (now, again):
        deepreduce.optimize(out=tmp_path / "run", observers=[recorder], **QUICK)
        assert recorder.errors == []
        assert recorder.calls[0] == "run_started" and recorder.calls[-2:] == ["run_finished", "close"]
        assert recorder.epochs() == expected_epochs(tmp_path / "run")
        assert len(recorder.networks) == 1 + NUM_PROBES + 4
        assert {heard.was_done for heard in recorder.networks.values()} == {recorder is again}
    assert next(iter(now.networks)) == TEACHER


def test_an_interrupted_run_reports_what_is_behind_each_network_and_ends_complete(tmp_path: Path) -> None:
    resumed = []
    for number in (1, 2, 2 + NUM_PROBES):  # the teacher, a probe, the first on the path
        recorder = Recorder()
        with pytest.raises(RunInterrupted):
            deepreduce.optimize(out=tmp_path / "run", observers=[recorder, StopsIn(number)], **TINY)
        assert recorder.errors == [] and recorder.calls[-1] == "close" and "run_finished" not in recorder.calls
        resumed += [heard for heard in recorder.networks.values() if heard.was_done is None]
    recorder = Recorder()
    deepreduce.optimize(out=tmp_path / "run", observers=[recorder], **TINY)
    assert len(resumed) == 3 and recorder.errors == []
    assert recorder.epochs() == expected_epochs(tmp_path / "run")


class Draws(RunObserver):
    """Uses up random numbers, as an observer that plots examples would."""

    def step_ended(self, network: ObservedNetwork, progress: Progress) -> None:
        torch.rand(3), np.random.rand(3), random.random()


@pytest.fixture(scope="module")
def unobserved(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The table of a run that nobody observes."""
    return table(deepreduce.optimize(out=tmp_path_factory.mktemp("unobserved") / "run", **QUICK))


def table(result: deepreduce.Result) -> list[list[str]]:
    return without_seconds((result.folder / "candidates.csv").read_text(encoding="utf-8"))


@pytest.mark.parametrize("make", [pytest.param(RunObserver, id="others"), MLFLOW])
def test_the_numbers_of_a_run_are_the_same_with_and_without_observers(
    tmp_path: Path, unobserved: list[list[str]], make: Callable[[], RunObserver]
) -> None:
    observers = [make(), Recorder(), Draws(), ProgressBar(io.StringIO()), ProgressLog(every=0)]
    log = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    assert table(deepreduce.optimize(out=tmp_path / "run", observers=observers, log=log, **QUICK)) == unobserved


def test_observers_that_raise_anywhere_leave_the_run_and_the_others_as_they_were(
    tmp_path: Path, unobserved: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    calls = [name for name in vars(RunObserver) if not name.startswith("_")]
    broken, sound = [Recorder(broken=call) for call in calls], Recorder()
    result = deepreduce.optimize(out=tmp_path / "run", observers=[*broken, sound], **QUICK)
    assert table(result) == unobserved
    assert sound.errors == [] and sound.epochs() == expected_epochs(result.folder)
    assert caplog.text.count("Recorder failed and is left out from here on") == len(calls)
    assert (result.folder / "log.txt").read_text().count("Recorder failed") == len(calls)
    assert all(observer.calls[-1] == "close" for observer in broken)


def test_an_observers_keyboard_interrupt_ends_the_run_which_the_same_call_resumes(
    tmp_path: Path, unobserved: list[list[str]]
) -> None:
    interrupting, sound = Recorder("epoch_ended", KeyboardInterrupt()), Recorder()
    with pytest.raises(KeyboardInterrupt):
        deepreduce.optimize(out=tmp_path / "run", observers=[interrupting, sound], **QUICK)
    assert sound.calls == ["run_started", "network_started", "close"]
    assert table(deepreduce.optimize(out=tmp_path / "run", **QUICK)) == unobserved


@pytest.mark.parametrize("given", [Recorder, None])
def test_what_is_no_observer_is_refused_before_anything_is_written(tmp_path: Path, given: Any) -> None:
    with pytest.raises(UserError, match=r"observers\[0\]"):
        deepreduce.optimize(out=tmp_path / "run", observers=[given], **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_users_observers_hear_before_those_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    class Named(RunObserver):
        def __init__(self, name: str) -> None:
            self.name = name

        def run_started(self, folder: Path) -> None:
            heard.append(self.name)
            if self.name == "theirs":
                raise KeyboardInterrupt  # nothing more is wanted of the run

    monkeypatch.setattr("deepreduce.observers.registry._make", Named)
    with pytest.raises(KeyboardInterrupt):
        deepreduce.optimize(out=tmp_path / "run", log=["theirs"], observers=[Named("own"), Named("next")], **QUICK)
    assert heard == ["own", "next", "theirs"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "losses", "side_by_side"), [("tensorboard", in_tensorboard, 2), ("mlflow", in_mlflow, 1)]
)
def test_loggers_show_an_interrupted_run_in_one_process_or_several_as_one_that_never_was(
    tmp_path: Path, name: str, losses: Callable[[Path, RunObserver], Losses], side_by_side: int
) -> None:
    pytest.importorskip(name)
    options, own = {**TINY, "side_by_side": side_by_side}, Recorder()
    # as above, as far as starting other processes is worth the time; no log at first
    for i, number in enumerate((1, 2, 2 + NUM_PROBES)[::side_by_side]):
        with pytest.raises(RunInterrupted):
            deepreduce.optimize(out=tmp_path, observers=[StopsIn(number)], log=[name] if i else [], **options)
    result = deepreduce.optimize(out=tmp_path, observers=[own], log=[name], **options)
    assert own.errors == [] and own.epochs() == expected_epochs(result.folder)
    found, expected = losses(result.folder, RunObserver()), histories(result.folder)
    assert found.keys() == expected.keys() and len(expected) == NUM_TRAININGS
    assert all(agree(found[network], curve) for network, curve in expected.items())
    if name == "tensorboard":
        frontier = tensorboard_events(result.folder / "tensorboard" / "frontier")
        front = [(n.relu_count, n.test_accuracy) for n in result.frontier]
        assert agree(tensorboard_curve(frontier, "frontier/test_accuracy"), front)
        return
    entries = mlflow_entries(result.folder)
    assert {entry.info.status for entry in entries.values()} == {"FINISHED"}
    for network in result.candidates:
        entry = entries[network.candidate.folder]
        assert entry.info.run_name == network.label
        assert entry.data.params == {"relu_count": str(network.relu_count)}
        assert entry.data.metrics["measured/test_accuracy"] == pytest.approx(network.test_accuracy)
    kept = Path(entries["."].info.artifact_uri) / "frontier.csv"
    assert kept.read_bytes() == (result.folder / "frontier.csv").read_bytes()


def test_the_documented_observer_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "docs" / "running.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "RunObserver" in c)
    optimize = deepreduce.optimize

    def quick(model: str, data: str, *, out: str, observers: Any) -> deepreduce.Result:
        return optimize(out=tmp_path / out, observers=observers, **QUICK)

    monkeypatch.setattr(deepreduce, "optimize", quick)
    exec(compile(code, "running.md", "exec"), {})
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + NUM_PROBES + 4 and last == "7 networks, the full one included"
    assert lines[0].startswith("teacher: val ") and all(" ReLUs, " in line for line in lines)
