"""The errors that callers may catch.

`UserError` and its subclasses are the caller's mistakes: the command line prints one line and exits with 2.
`RunError` and its subclasses are failures of a run itself: one line, exit 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class DeepReduceError(Exception):
    """The base class of all errors that deepreduce raises on purpose."""


class UserError(DeepReduceError):
    """The caller's mistake: a wrong name, value or file. The message gives the value, the rule and the repair."""


class ConfigError(UserError):
    """An invalid config key or value; one error lists all mistakes of a config."""


class ModelError(UserError):
    """An unknown network, an option it does not have, or an input it can't take."""


class NetworkTraceError(ModelError):
    """A network that torch.fx can't trace; the message names the line and the repair."""


class NetworkGuardError(ModelError):
    """A network whose traced graph does not compute what the user's module does; the message names the module."""


class PlanError(UserError):
    """A plan that names something the network does not have, or that changes nothing."""


class DataError(UserError):
    """A data set that is missing, malformed, or does not fit the network."""


class RunFolderError(UserError):
    """A run folder that is in use, belongs to another run, or can't be written."""


class RunError(DeepReduceError):
    """A failure of the run itself: full disk, diverged teacher, out of memory."""


class RunInterrupted(DeepReduceError):
    """A run stopped by a signal; the same call with its `folder` resumes it."""

    def __init__(self, message: str, *, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


class NonFiniteLossError(RunError):
    """A loss that stayed infinite or NaN after every retry."""


class CheckpointError(RunError):
    """A file of weights or training state that is corrupt, truncated, or of another network."""


_SHOWN = 200
"""Characters of an unknown name that are compared and shown."""


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `name`, ignoring case; None if none is similar."""
    by_lower = {n.lower(): n for n in known}
    nearest = difflib.get_close_matches(str(name)[:_SHOWN].lower(), list(by_lower), n=1, cutoff=0.5)
    return by_lower[nearest[0]] if nearest else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Return one line about an unknown name: the nearest known name, then all known names."""
    names = list(known)
    nearest = nearest_name(name, names)
    hint = f"did you mean {nearest!r}? " if nearest is not None else ""
    text = str(name)
    shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text):,} characters)"
    return f"unknown {kind} {shown}; {hint}known: {', '.join(names) or 'none'}"
