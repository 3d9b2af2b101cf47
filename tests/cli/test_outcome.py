"""What a command raises becomes one line and an exit code."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from deepreduce.cli.checks import check_writable
from deepreduce.cli.outcome import FAILED, INTERRUPTED, MISTAKE, exit_code_of
from deepreduce.errors import RunError, RunFolderError, RunInterrupted, UserError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a\nb\x1b[31m"), MISTAKE, r"a b\x1b[31m"),
        (RunError("no"), FAILED, "no"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), MISTAKE, "x can't be used: File name too long"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), FAILED, "x can't be used: No space left on device"),
        (MemoryError(), FAILED, "out of memory; lower training.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), FAILED, "out of memory; lower"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), FAILED, "out of memory; lower"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    assert exit_code_of(fails, []) == code
    printed = capsys.readouterr().err
    assert printed.startswith(f"deepreduce: {line}") and printed.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 / 0, [])


def test_a_stopped_run_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def stops() -> None:
        raise RunInterrupted("stopped", folder=Path("a b"))

    assert exit_code_of(stops, ["optimize"]) == INTERRUPTED
    assert capsys.readouterr().err.endswith("go on with: deepreduce optimize --out 'a b'\n")


def test_a_file_that_can_not_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    check_writable(None)
    check_writable(tmp_path / "new")
    for path in (tmp_path, tmp_path / "no" / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(RunFolderError, match="can't be written"):
            check_writable(path)
    assert not list(tmp_path.iterdir())
