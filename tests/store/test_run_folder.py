"""The run folder: one run at a time, nobody else's files, and files that are whole or named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepreduce.config.schema import OptimizeConfig, load_config
from deepreduce.cost.builtin import MODELS
from deepreduce.errors import CheckpointError, ConfigError, RunError, RunFolderError
from deepreduce.store.run_folder import NetworkFolder, RunCosts, RunFolder, history_csv, read_costs
from deepreduce.training import EpochRecord, Snapshot
from tests.helpers import REPOSITORY
from tests.helpers.report_examples import random_price

CONFIG = OptimizeConfig()
ENVIRONMENT = {"versions": {"torch": "2"}, "identity": {"model": "abc", "data": "def"}}
OTHER = load_config(values={"training.epochs": 3})


def opened(path: Path, config: OptimizeConfig = CONFIG, environment: dict[str, Any] = ENVIRONMENT) -> RunFolder:
    return RunFolder.open(path, config, environment)


def contents(path: Path) -> dict[str, tuple[bytes, int] | None]:
    """All below a folder: bytes and time of the last change."""
    return {
        str(p.relative_to(path)): (p.read_bytes(), p.stat().st_mtime_ns) if p.is_file() else None
        for p in sorted(path.rglob("*"))
    }


# -- whose folder it is -------------------------------------------------------------------------------------


def test_a_folder_is_made_with_its_parents_and_goes_on_with_the_same_config(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with opened(path) as folder:
        assert load_config(path / "config.yaml") == CONFIG
        assert json.loads((path / "environment.json").read_text()) == ENVIRONMENT
        assert folder.entry("candidates", "abc").path.is_dir()
    with opened(path):
        pass


def test_keys_that_change_no_number_may_differ(tmp_path: Path) -> None:
    with opened(tmp_path / "run"):
        pass
    with opened(tmp_path / "run", load_config(values={"training.checkpoint_seconds": 1, "threads": 1})):
        pass
    assert load_config(tmp_path / "run" / "config.yaml") == CONFIG


def test_a_folder_of_another_config_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    (tmp_path / "candidates.csv.part").write_text("half")
    (tmp_path / ".lock").unlink(missing_ok=True)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=r"other settings: training.epochs \(8, now 3\); give another folder"):
        opened(tmp_path, OTHER)
    with pytest.raises(RunFolderError, match=r"another data \(def, now xyz\)"):
        opened(tmp_path, environment={"identity": {"model": "abc", "data": "xyz"}})
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "names", [["notes.txt"], ["film.part"], ["config.yml"], ["candidates/"], ["log.txt", "thesis.tex"], [".git/"]]
)
def test_a_folder_with_other_files_is_refused_and_stays_as_it_was(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match="holds other files"):
        opened(tmp_path)
    assert contents(tmp_path) == before


def test_a_config_that_is_not_ours_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    for text in ("server: {port: 80}\n", "\0", "training: ["):
        (tmp_path / "config.yaml").write_text(text)
        (tmp_path / "film.part").write_text("mine")
        before = contents(tmp_path)
        with pytest.raises((ConfigError, RunFolderError), match=r"config\.yaml"):
            opened(tmp_path)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"identity": 3}', '{"identity": ["model"]}'])
def test_a_run_without_its_environment_is_refused(tmp_path: Path, text: str | None) -> None:
    with opened(tmp_path):
        pass
    (tmp_path / "environment.json").unlink()
    if text is not None:
        (tmp_path / "environment.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"can't be resumed: its environment.json is missing or corrupt"):
        opened(tmp_path)


def test_a_run_killed_in_its_first_moments_begins_again(tmp_path: Path) -> None:
    for name in (".lock", "log.txt", "environment.json", "environment.json.part", "config.yaml.part"):
        (tmp_path / name).write_text("")
        with opened(tmp_path):
            pass
        (tmp_path / "config.yaml").unlink()


def test_half_written_files_of_a_killed_run_are_cleared_away(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        entry = folder.entry("candidates", "abc")
    for path in (tmp_path / "candidates.csv.part", entry.path / "model.safetensors.part"):
        path.write_text("half")
    with opened(tmp_path):
        assert not list(tmp_path.rglob("*.part"))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunFolderError, match="run is a file"):
        opened(tmp_path / "run")
    with pytest.raises(RunFolderError, match="can't be written"):
        opened(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


# -- one run at a time --------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from tests.store.test_run_folder import opened
with opened(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    root = REPOSITORY
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_until_the_first_ends_or_is_killed(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path) as process:
        before = contents(tmp_path)
        with pytest.raises(RunFolderError, match=r"in use by another run; wait for it to end") as caught:
            opened(tmp_path)
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before
        process.kill()
        process.wait()
        with opened(tmp_path):
            pass


def test_a_folder_can_not_be_opened_twice_in_one_process_and_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(tmp_path):
        with pytest.raises(RunFolderError, match="in use"):
            opened(tmp_path)
        _ = 1 / 0
    with opened(tmp_path):
        pass


# -- permissions and full disks -----------------------------------------------------------------------------


@contextmanager
def somebody_else() -> Iterator[None]:
    """Without the rights of root, for whom there are no permissions."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


def test_a_folder_without_permission_is_one_line(tmp_path: Path) -> None:
    closed, locked = tmp_path / "closed", tmp_path / "locked"
    closed.mkdir()
    locked.mkdir()
    # pytest keeps its folders to itself, so that somebody else would be refused before they come to these
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    closed.chmod(0o555)
    locked.chmod(0o000)
    try:
        with somebody_else():
            for path in (closed, closed / "run", locked, locked / "run", locked / "deep" / "run"):
                with pytest.raises(RunFolderError, match=r"can't be written: Permission denied; choose a folder"):
                    opened(path)
    finally:
        locked.chmod(0o755)
    assert not contents(closed) and not contents(locked)


@contextmanager
def small_disk(path: Path, *, kib: int) -> Iterator[Path]:
    """A file system of so many KiB."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        yield path
    finally:
        # tensors that were read may still be mapped from their file
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_names_the_file_and_how_to_go_on_and_keeps_what_was_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kib=256) as disk, opened(disk / "run") as folder:
        entry = folder.entry("teacher")
        small, large = Snapshot(tensors={"w": torch.ones(9)}, values={}), torch.ones(200_000)
        entry.save_snapshot(small)
        with pytest.raises(RunError, match=r"training.safetensors can't be written: No space.*same command again"):
            entry.save_snapshot(Snapshot(tensors={"w": large}, values={}))
        kept = entry.snapshot()
        assert kept is not None and torch.equal(kept.tensors["w"], torch.ones(9))
        assert not list(disk.rglob("*.part"))
        with pytest.raises(RunError, match=r"model.safetensors can't be written"):
            entry.finish(weights={"w": large}, description={}, metrics={}, history=())
        assert entry.finished() is None


# -- one network --------------------------------------------------------------------------------------------

RECORDS = (
    EpochRecord(epoch=1, learning_rate=0.1, train_loss=2.5, val_accuracy=None, seconds=1.234),
    EpochRecord(epoch=2, learning_rate=0.05, train_loss=1 / 3, val_accuracy=0.75, seconds=2.0),
)


@pytest.fixture
def entry(tmp_path: Path) -> NetworkFolder:
    return NetworkFolder(path=tmp_path)


def test_a_history_reads_back_and_a_corrupt_one_is_named(tmp_path: Path) -> None:
    entry = NetworkFolder(path=tmp_path)
    entry.finish(weights=None, description={}, metrics={}, history=RECORDS)
    assert entry.history() == tuple(replace(r, seconds=round(r.seconds, 2)) for r in RECORDS)
    for content in ("epoch\n1\n", history_csv(RECORDS) + "three,,,,\n"):
        (tmp_path / "history.csv").write_text(content)
        with pytest.raises(CheckpointError, match=r"history\.csv is not a history"):
            entry.history()


def test_a_history_is_csv_with_nothing_for_what_was_not_measured() -> None:
    assert history_csv(RECORDS).splitlines() == [
        "epoch,learning_rate,train_loss,val_accuracy,seconds",
        "1,0.1,2.5,,1.23",
        "2,0.05,0.3333333333333333,0.75,2.00",
    ]


def test_a_finished_network_has_its_metrics_and_no_state_left(entry: NetworkFolder) -> None:
    entry.save_snapshot(Snapshot(tensors={"w": torch.ones(2)}, values={"step": 3}))
    assert entry.finished() is None
    entry.finish(weights={"w": torch.zeros(2)}, description={"label": "x"}, metrics={"a": 1}, history=RECORDS)
    assert entry.finished() == {"a": 1}
    assert torch.equal(entry.weights()["w"], torch.zeros(2))
    assert entry.snapshot() is None
    entry.clear()
    assert not contents(entry.path) and entry.path.is_dir()


def test_metrics_are_written_last(entry: NetworkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = os.replace

    def noted(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    entry.finish(weights={"w": torch.zeros(2)}, description={}, metrics={}, history=())
    assert written == ["plan.json", "history.csv", "model.safetensors", "metrics.json"]


def test_a_state_left_by_a_kill_right_after_the_metrics_goes(
    entry: NetworkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    entry.save_snapshot(Snapshot(tensors={"w": torch.ones(2)}, values={"step": 3}))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", killed)
        entry.finish(weights={"w": torch.zeros(2)}, description={}, metrics={"a": 1}, history=())
    assert entry.snapshot() is not None
    assert entry.finished() == {"a": 1}
    assert entry.snapshot() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"null"])
def test_corrupt_metrics_are_named(entry: NetworkFolder, content: bytes) -> None:
    (entry.path / "metrics.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.json can't be read"):
        entry.finished()


@pytest.mark.parametrize("keep", [0, 1, 7, 40, -1])
def test_a_truncated_state_or_weights_file_is_named(entry: NetworkFolder, keep: int) -> None:
    entry.finish(weights={"w": torch.zeros(2)}, description={}, metrics={}, history=())
    entry.save_snapshot(Snapshot(tensors={"w": torch.ones(2)}, values={}))
    for name, read in (("model.safetensors", entry.weights), ("training.safetensors", entry.snapshot)):
        path = entry.path / name
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            read()


def test_a_description_is_written_again_only_where_it_is_wrong(
    entry: NetworkFolder, caplog: pytest.LogCaptureFixture
) -> None:
    plan = entry.path / "plan.json"
    entry.finish(weights=None, description={"label": "x"}, metrics={}, history=())
    before = plan.stat().st_ino
    entry.check_description({"label": "x"})
    assert plan.stat().st_ino == before
    assert not caplog.records
    plan.write_text("{")
    entry.check_description({"label": "x"})
    assert json.loads(plan.read_text()) == {"label": "x"}
    assert "plan.json can't be read" in caplog.text


# -- costs ----------------------------------------------------------------------------------------------------


def test_costs_read_back_as_they_were(tmp_path: Path) -> None:
    prices = {"teacher": {"cheetah-lan": random_price(0)}, "abc": {"cheetah-lan": random_price(1)}}
    costs = RunCosts(models={"cheetah": MODELS["cheetah"]}, prices=prices)
    costs.write(tmp_path)
    assert read_costs(tmp_path) == costs


def test_a_run_without_costs_has_none_and_corrupt_ones_are_named(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == RunCosts(models={}, prices={})
    no_model, no_price = '{"models": {"x": {}}, "prices": {}}', '{"models": {}, "prices": {"a": {"b": {}}}}'
    for text in ("{", "{}", "[]", no_model, no_price):
        (tmp_path / "costs.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"costs\.json"):
            read_costs(tmp_path)
