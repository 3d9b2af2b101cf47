"""Turn what a command raises into one line on standard error and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from deepreduce.cli.output import say
from deepreduce.errors import DeepReduceError, RunInterrupted, UserError
from deepreduce.utils.text import one_line, shown

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory")
"""Words of the errors that torch raises as `RuntimeError`."""


def exit_code_of(command: Callable[[], Any], words: list[str]) -> int:
    """Run the command that `words` name and return its exit code: one line for every foreseen error.

    An exception that is nobody's mistake is raised on, with its traceback.
    """
    try:
        _check_words(words)
        code = command()
        sys.stdout.flush()  # here, where a full disk or a closed pipe is told in one line
        if code == INTERRUPTED:  # typer's own way to say Ctrl-C
            return _told("interrupted", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _told(str(error), MISTAKE)
    except RunInterrupted as error:
        _told(f"{error}", INTERRUPTED)
        say(f"go on with: {_same_command(words, error.folder)}", to_errors=True)
        return INTERRUPTED
    except DeepReduceError as error:
        return _told(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _told("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # the reader of our output is gone, as in `deepreduce analyze | head`
        _discard_output()
        return FAILED
    except OSError as error:  # a file's name is too long, its folder can't be entered, or standard output is full
        _discard_output()
        named = f"{error.filename} can't be used: " if error.filename is not None else ""
        return _told(f"{named}{error.strerror or error}", FAILED if error.errno in _FULL else MISTAKE)
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
            return _told("out of memory; lower training.batch_size, data.image_size or data.train_limit", FAILED)
        # typer's usage errors are click's in older versions and its own in newer ones; both can tell their message
        if not hasattr(error, "format_message"):
            raise
        return _told(f"{error.format_message()} (see 'deepreduce --help')", MISTAKE)


def _check_words(words: list[str]) -> None:
    """Raise `UserError` for an argument that is empty, or holds what no file name or text holds.

    An empty path would mean the working folder, which nobody means to write a run to.
    """
    for before, word in zip(["", *words], words, strict=False):
        option, separator, value = word.partition("=")
        if not word.startswith("--"):
            option, separator, value = before if before.startswith("--") else "an argument", "=", word
        if separator and not value:
            raise UserError(f"{option} is empty; leave it out, or give a value")
        strange = next((c for c in word if c == "\0" or "\ud800" <= c <= "\udfff"), None)
        if strange is not None:
            raise UserError(f"{shown(word)} holds {strange!r}, which is no character of a text; give text in UTF-8")


def _discard_output() -> None:
    """Let nothing more be written to standard output, so that Python does not complain when it exits."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(message: str, code: int) -> int:
    say(f"deepreduce: {one_line(message)}", to_errors=True)
    return code


def _same_command(words: list[str], folder: Path) -> str:
    """The command that was given, with the run's folder."""
    import shlex

    named = any(word == "--out" or word.startswith("--out=") for word in words)
    return shlex.join(["deepreduce", *words, *([] if named else ["--out", str(folder)])])
