"""What stops a trace, and where: one line for each cause, with the network's own line and the repair."""

from __future__ import annotations

import inspect
import linecache
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deepreduce.errors import NetworkTraceError

_PACKAGE = Path(__file__).parents[2]
_NOT_THE_USERS = tuple(f"{folder}/".replace("\\", "/") for folder in (Path(torch.__file__).parent, _PACKAGE))


class Unfollowable(Exception):
    """A part of a forward pass that a graph can't express. The message says what and how to repair it.

    `line` is where in the network's code, as text to put behind "at"; None for the line that raised the error.
    """

    def __init__(self, message: str, *, line: str | None = None) -> None:
        super().__init__(message)
        self.line = line


class MisfitError(Exception):
    """An operation failed on an image of the given size."""


_OUTSIDE = (
    "move that code out of forward, or put it in a function marked with torch.fx.wrap (which counts as one layer)"
)

BY_VALUES = f"it needs the values of a tensor, which a graph does not have: {_OUTSIDE}"
BY_BATCH = (
    "it depends on the number of images in the batch, which a graph must not: use sizes of one image alone, or"
    " tensor operations that take any number of images"
)


def trace_error(name: str, error: BaseException) -> NetworkTraceError:
    """Return the error to raise for a network whose trace raised `error`."""
    if isinstance(error, Unfollowable):
        where = _user_line(error) if error.line is None else (f" at {error.line}" if error.line else "")
        return NetworkTraceError(f"{name} can't be traced{where}: {error}")
    return NetworkTraceError(
        f"{name} can't be traced{_user_line(error)}: {_first_line(error)}; deepreduce follows forward without data:"
        f" {_OUTSIDE}"
    )


def calling_line() -> str:
    """Return the innermost line of the network's own code that is running, as "FILE:LINE in FUNCTION"; "" if none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_the_users(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def line_of(function: Any) -> str:
    """Return where a function begins, as "FILE:LINE in FUNCTION"; "" for one that is not Python."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}"


def _is_the_users(filename: str) -> bool:
    path = filename.replace("\\", "/")
    return not path.startswith(("<", *_NOT_THE_USERS))


def _user_line(error: BaseException) -> str:
    """Return the last line of the network's own code in the traceback, as text to append; "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_the_users(frame.filename):
            code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            return f" at {frame.filename}:{frame.lineno} in {frame.name} ({code})"
    return ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
