"""The run folder: one run at a time, resumable after a kill at any moment. `names` lists its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from deepreduce.errors import CheckpointError, RunFolderError, UserError
from deepreduce.store.config_file import CONFIG_DIGEST, read_config_text, text_digest
from deepreduce.store.names import CONFIG, ENVIRONMENT, LOCK, LOG
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.store.sealed import read_run_record
from deepreduce.utils.files import is_partial_name, remove_partial_files, write_text, writing
from deepreduce.utils.records import write_record

_WRITTEN_BEFORE_CONFIG = {LOCK, LOG, ENVIRONMENT}
"""Files that a run leaves behind when it is killed in its first moments."""


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Identity of a run: what it writes about itself when it begins, and must share when it is resumed.

    `config_yaml` is the text of config.yaml; `differing_keys` returns the settings in which another config.yaml gives
    other numbers, each with both values. `environment` is the content of environment.json, whose "identity" holds
    fingerprints (of model, data, threads, ...) that must be equal.
    """

    config_yaml: str
    differing_keys: Callable[[Path], Sequence[str]]
    environment: Mapping[str, Any]


class RunFolder:
    """A run's folder, locked while it is open. Use as a context manager."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, identity: RunIdentity) -> RunFolder:
        """Create the folder, or open it to resume the run in it.

        Raises `RunFolderError` where the folder holds something else, belongs to a run of another identity, is in use
        by another process or can't be written; the folder is then left as it was.
        """
        _refuse_foreign_files(path)
        if (path / CONFIG).exists():
            _check_same_run(path, identity)  # before anything is touched, the lock included
        _refuse_links(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path / LOCK, timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise RunFolderError(
                    f"{path} is in use by another run; wait for it to end, or give another folder with --out"
                ) from None
        try:
            if (path / CONFIG).exists():
                _check_same_run(path, identity)  # again: another process may have begun in between
            remove_partial_files(path)
            if not (path / CONFIG).exists():
                digest = text_digest(identity.config_yaml)
                write_record(path / ENVIRONMENT, {**identity.environment, CONFIG_DIGEST: digest})
                write_text(path / CONFIG, identity.config_yaml)
        except BaseException:
            lock.release()
            raise
        return cls(path, lock)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def entry(self, *parts: str) -> NetworkFolder:
        """Return the folder of one network; create it where it does not exist."""
        return NetworkFolder.open(self.path.joinpath(*parts))


def _refuse_foreign_files(path: Path) -> None:
    with writing(path):
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; give a folder with --out")
        found = {p.name for p in path.iterdir()} if path.exists() else set()
    foreign = {name for name in found - _WRITTEN_BEFORE_CONFIG if not is_partial_name(name)}
    if foreign and CONFIG not in found:
        raise RunFolderError(
            f"{path} holds other files ({', '.join(sorted(foreign)[:3])}) and no {CONFIG}; give another folder"
        )


def _refuse_links(path: Path) -> None:
    """Raise `RunFolderError` where a file that the run opens by its name leads somewhere else."""
    for name in (LOCK, LOG, CONFIG):
        if (path / name).is_symlink():
            raise RunFolderError(f"{path / name} is a link, which the run would write through; remove it")


def _check_same_run(path: Path, identity: RunIdentity) -> None:
    different = identity.differing_keys(path / CONFIG)
    if different:
        raise RunFolderError(
            f"{path} belongs to a run with other settings: {', '.join(different)}; give another folder with --out"
        )
    try:
        before = dict(read_run_record(path / ENVIRONMENT)["identity"])
        read_config_text(path)
    except UserError as error:
        raise RunFolderError(f"{path} can't be resumed: {error}") from error
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path} can't be resumed: its {ENVIRONMENT} is missing or corrupt; give another folder with --out"
        ) from error
    now = identity.environment["identity"]
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise RunFolderError(
                f"{path} belongs to a run with another {name} ({before.get(name)}, now {now.get(name)}); give another"
                " folder"
            )
