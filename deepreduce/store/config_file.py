"""config.yaml of a run: there, a file of its own, and as the run began."""

from __future__ import annotations

from pathlib import Path

from deepreduce.errors import CheckpointError, UserError
from deepreduce.store.names import CONFIG, ENVIRONMENT
from deepreduce.store.sealed import read_run_record
from deepreduce.utils.records import digest_of

CONFIG_DIGEST = "config"
"""The key of environment.json that holds the hash of config.yaml's text."""


def text_digest(text: str) -> str:
    """Return the hash of a text, whatever ends its lines."""
    return digest_of("\n".join(text.splitlines()).encode())


def read_config_text(run: Path) -> str:
    """Return the text of a run's config.yaml.

    Raises `UserError` where it is missing, empty, a link, or not the text that the run began with: numbers of another
    config would pass for the run's.
    """
    path, repair = run / CONFIG, "restore the file of the run, or give the settings with --config FILE"
    if path.is_symlink():
        raise UserError(f"{path} is a link, and a run's config is a file of its own; {repair}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{run} holds no run with a {CONFIG}; {repair}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError(f"{path} can't be read: {reason}; {repair}") from error
    if not text.strip():
        raise UserError(f"{path} is empty; {repair}")
    try:
        known = read_run_record(run / ENVIRONMENT).get(CONFIG_DIGEST)
    except CheckpointError as error:
        raise UserError(f"{path} can't be trusted: {error}; {repair}") from error
    if known is not None and known != text_digest(text):
        raise UserError(f"{path} was changed after the run began; {repair}")
    return text
