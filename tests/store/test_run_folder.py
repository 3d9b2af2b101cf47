"""The run folder: one run at a time, nobody else's files, and files that are whole or named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from deepreduce.config.load import differing_keys, dump_config, load_config
from deepreduce.config.schema import OptimizeConfig
from deepreduce.errors import ConfigError, RunError, RunFolderError
from deepreduce.store.config_file import text_digest
from deepreduce.store.run_folder import RunFolder, RunIdentity
from deepreduce.training import Snapshot
from deepreduce.utils.records import read_record
from tests.helpers import REPOSITORY

CONFIG = OptimizeConfig()
ENVIRONMENT = {"versions": {"torch": "2"}, "identity": {"model": "abc", "data": "def"}}
OTHER = load_config(values={"training.epochs": 3})


def identity(config: OptimizeConfig = CONFIG, environment: dict[str, Any] = ENVIRONMENT) -> RunIdentity:
    return RunIdentity(
        config_yaml=dump_config(config),
        differing_keys=lambda path: differing_keys(load_config(path), config),
        environment=environment,
    )


def opened(path: Path, config: OptimizeConfig = CONFIG, environment: dict[str, Any] = ENVIRONMENT) -> RunFolder:
    return RunFolder.open(path, identity(config, environment))


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
        written = read_record(path / "environment.json")
        assert written == {**ENVIRONMENT, "config": text_digest((path / "config.yaml").read_text())}
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
    (tmp_path / f".deepreduce-{'0' * 32}.part").write_text("half")
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
    for name in (".lock", "log.txt", "environment.json", f".deepreduce-{'0' * 32}.part"):
        (tmp_path / name).write_text("")
        with opened(tmp_path):
            pass
        (tmp_path / "config.yaml").unlink()


def test_half_written_files_of_a_killed_run_are_cleared_away(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        entry = folder.entry("candidates", "abc")
    for folder_of_both in (tmp_path, entry.path):
        (folder_of_both / f".deepreduce-{'0' * 32}.part").write_text("half")
        (folder_of_both / "film.part").write_text("mine")
    with opened(tmp_path):
        assert [path.name for path in tmp_path.rglob("*.part")] == ["film.part"] * 2


@pytest.mark.parametrize("name", [".lock", "log.txt", "config.yaml"])
def test_a_link_in_place_of_a_file_is_refused_and_its_target_stays(tmp_path: Path, name: str) -> None:
    run, target = tmp_path / "run", tmp_path / "target"
    with opened(run):
        pass
    text = (run / "config.yaml").read_text()
    target.write_text(text)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    with pytest.raises(RunFolderError, match=f"{name} is a link"):
        opened(run)
    assert target.read_text() == text


def test_a_config_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text + "# mine\n")
    with pytest.raises(RunFolderError, match=r"config\.yaml was changed after the run began; restore the file"):
        opened(tmp_path)
    (tmp_path / "config.yaml").write_bytes(text.replace("\n", "\r\n").encode())  # as a checkout on Windows leaves it
    with opened(tmp_path):
        pass


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
