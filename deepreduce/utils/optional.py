"""Optional packages: the error if one is missing, and a context that quiets their loggers."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from deepreduce.errors import UserError


def require_packages(user: str, *packages: str, extra: str) -> None:
    """Raise `UserError` if one of `packages` is not installed.

    The message names what needs them (`user`, as in "to_pandas") and the extra of deepreduce that installs them.
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
    """Silence the loggers of other packages below `level` inside the block, and restore their levels afterwards."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
