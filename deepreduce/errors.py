"""What callers may catch.

`UserError` and its children are the caller's mistakes: the command line prints them as one line and exits
with 2. `RunError` and its children are failures of a run itself: one line, exit 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class DeepReduceError(Exception):
    """Base of everything deepreduce raises on purpose."""


class UserError(DeepReduceError):
    """The caller's mistake: a wrong name, value or file. The message says the repair."""


class ConfigError(UserError):
    """A config key or value that does not fit; all mistakes of a config in one error."""


class ModelError(UserError):
    """An unknown network, an option it does not have, or an input it can't take."""


class NetworkTraceError(ModelError):
    """A network whose graph torch.fx can't follow; names the line and the way out."""


class PlanError(UserError):
    """A plan that names what the network has not, or that changes nothing it names."""


class DataError(UserError):
    """A data set that is missing, malformed, or does not fit the network."""


class RunFolderError(UserError):
    """A run folder that is in use, belongs to another run, or can't be written."""


class RunError(DeepReduceError):
    """The run itself failed: full disk, diverged teacher, out of memory."""


class RunInterrupted(DeepReduceError):
    """A signal asked the run to stop. `folder` holds it; the same call with that folder goes on."""

    def __init__(self, message: str, *, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


class NonFiniteLossError(RunError):
    """The loss stayed infinite or NaN after every retry."""


class CheckpointError(RunError):
    """A file of weights or state that is corrupt, truncated, or of another network."""


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` most resembles, whatever its case; None where none comes near."""
    by_lower = {n.lower(): n for n in known}
    nearest = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.5)
    return by_lower[nearest[0]] if nearest else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """One line for a name that is not known: the nearest known one first, then all of them."""
    names = list(known)
    nearest = nearest_name(name, names)
    hint = f"did you mean {nearest!r}? " if nearest is not None else ""
    listed = ", ".join(names) if names else "none"
    return f"unknown {kind} {str(name)!r}; {hint}known: {listed}"
