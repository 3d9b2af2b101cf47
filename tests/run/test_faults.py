"""A disk that fails at any call of a run: one line, nothing lost that was done, and the run resumes."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deepreduce.candidate import TEACHER_ID, Candidate
from deepreduce.cli.main import run_command
from deepreduce.errors import DeepReduceError
from deepreduce.execution.task import TrainResult
from deepreduce.execution.trainer import TrainingContext
from deepreduce.plan import ReductionPlan
from deepreduce.run.optimize import _log_file, remove_logits_cache
from deepreduce.run.outputs import write_tables
from deepreduce.run.read import read_run
from deepreduce.store.names import LOG, LOGITS_CACHE
from deepreduce.store.run_folder import RunFolder, RunIdentity
from deepreduce.training import AugmentationSchedule, Teacher, predict
from deepreduce.training.logits_cache import open_logits_cache
from tests.helpers.execution import alone, complete, original, plain, teacher, untaught
from tests.helpers.faults import failing_disk
from tests.helpers.runs import TINY, tiny_config, without_seconds

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)


def small_run(folder: Path) -> TrainResult:
    """Do with files what a run does with them, for one network: everything but plots."""
    identity = RunIdentity(config_yaml="seed: 0\n", differing_keys=lambda _: [], environment={"identity": {}})
    with RunFolder.open(folder, identity) as opened, _log_file(opened.path / LOG):
        context = _taught(opened.path)
        result = complete(context, alone())
        logging.getLogger("deepreduce").warning("trained")
        network = original()
        candidate = Candidate(
            plan_id=TEACHER_ID, plan=ReductionPlan(), label="x", relu_count=1, folder="teacher",
            measurement=result.measurement(),
        )  # fmt: skip
        write_tables(opened.path, [candidate], stages=network.stages, complete=True)
    return result


def _taught(root: Path) -> TrainingContext:
    context = untaught(root)
    cache = open_logits_cache(root / LOGITS_CACHE, epochs=2, steps=4, batch_size=18, num_classes=3, max_bytes=1e9)
    return replace(
        context,
        schedule=AugmentationSchedule(seed=3, epochs=2),
        teacher=Teacher(teacher(), precision=context.precision, cache=cache),
        teacher_test=predict(teacher(), context.data.test, batch_size=256),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The records and weights of a run without what a clock measured."""
    kept = ("plan.json", "model.safetensors", "environment.json", "config.yaml")
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in kept}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, dict[str, bytes], int]:
    """The result and files of a run that nothing disturbed, and its number of calls that may fail."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with failing_disk(folder) as disk:
        result = plain(small_run(folder))
    assert {"open", "write", "fsync", "replace", "mkdir"} <= set(disk.calls)
    return result, contents(folder), len(disk.calls)


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_whichever_call_fails_it_is_one_line_and_the_run_resumes(
    tmp_path: Path, undisturbed: tuple[TrainResult, dict[str, bytes], int], forever: bool, every: int
) -> None:
    expected, files, count = undisturbed
    failures = 0
    for number in range(3 * forever, count, every):
        folder, error = tmp_path / f"run{number}", ERRORS[number % len(ERRORS)]
        with failing_disk(folder, number=number, error=error, forever=forever) as disk:
            try:
                assert plain(small_run(folder)) == expected  # what failed was not needed
            except DeepReduceError as caught:
                failures += 1
                line = str(caught)
                assert "\n" not in line and str(folder) in line and os.strerror(error) in line, line
                assert ";" in line  # and a repair
        assert disk.failed
        assert not [path for path in folder.rglob("*.part")] or forever  # nothing can be removed there
        assert plain(small_run(folder)) == expected
        assert contents(folder) == files and len(read_run(folder)) == 1
        assert not list(folder.rglob("*.part"))
    assert failures > count // every // 2


@pytest.mark.slow
def test_a_command_on_a_failing_disk_says_one_line_each_time_and_ends_like_an_undisturbed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path / "tiny.yaml", data={"train_limit": 120, "test_limit": 50}, training={"epochs": 1})
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ["optimize", "--config", str(config), "--set", "log=[tensorboard]", "--out"]
    assert run_command([*words, str(whole)]) == 0
    ended, attempts = False, 0
    while not ended:
        capsys.readouterr()
        with failing_disk(
            run, number=7 + 61 * attempts, error=ERRORS[attempts % 3], forever=attempts % 2 == 0
        ) as disk:
            code = run_command([*words, str(run)])
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepreduce: ")]
        assert (code in (1, 2) and len(said) == 1 and str(run) in said[0]) if code else not said
        ended, attempts = code == 0 and not disk.failed, attempts + 1
    assert attempts > 5
    tables = [without_seconds((folder / "candidates.csv").read_text()) for folder in (run, whole)]
    assert tables[0] == tables[1]


# -- files in the way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "dangling link", "link"])
def test_a_log_file_that_can_not_be_opened_is_one_line(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "run" / LOG, tmp_path / "target"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
        if kind == "link":
            target.write_text("mine")
    with pytest.raises(DeepReduceError, match=r"log\.txt (can't be written: Is a directory|is a link)") as caught:
        small_run(path.parent)
    assert "\n" not in str(caught.value)
    assert target.exists() == (kind == "link") and (kind != "link" or target.read_text() == "mine")


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_whatever_lies_in_place_of_the_logits_cache_stays_and_the_run_ends(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, target = tmp_path / LOGITS_CACHE, tmp_path / "target"
    target.write_text("mine")
    path.mkdir() if kind == "folder" else path.symlink_to(target)
    assert open_logits_cache(path, epochs=1, steps=1, batch_size=2, num_classes=3, max_bytes=1e6) is None
    assert "the teacher's logits are not cached" in caplog.text
    remove_logits_cache(tmp_path)
    assert ("can't be removed" in caplog.text) == (kind == "folder")
    assert target.read_text() == "mine"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_run_on_a_disk_of_no_room_is_one_line(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path / "tiny.yaml", data={"train_limit": 120, "test_limit": 50}, training={"epochs": 1})
    assert TINY["threads"] == 1
    code = run_command(["optimize", "--config", str(config), "--out", str(small_disk / "run")])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepreduce: ")]
    assert code == 1 and len(said) == 1
    assert "can't be written: No space left on device; make room and give the same command again" in said[0]
