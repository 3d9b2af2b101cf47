"""Packages that only some users install: the error where one is missing, and their own loggers kept quiet."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from deepreduce.errors import UserError


def require_packages(user: str, *packages: str, extra: str) -> None:
    """Raise `UserError` where one of `packages` is not installed.

    The error says what needs them (`user`, as in "to_pandas") and which extra of deepreduce brings them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{user} needs {', '.join(missing)}, which {verb} not installed; install it with:"
            f" pip install 'deepreduce[{extra}]'"
        )


@contextmanager
def quiet_loggers(*names: str, level: int = logging.WARNING) -> Iterator[None]:
    """Let the loggers of other packages pass nothing below `level` inside, and restore their levels at the end."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
