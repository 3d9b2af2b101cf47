"""Read the records of a run folder: with their checksum, or of a run that a version without checksums began."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from deepreduce.errors import CheckpointError
from deepreduce.store.names import ENVIRONMENT, METRICS, PLAN, TEACHER, run_of
from deepreduce.utils.files import read_json
from deepreduce.utils.records import CHECKSUM, read_record_or_json

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)


class RecordModel(BaseModel):
    """Base of the types of records: no unknown keys, no conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def read_run_record(path: Path) -> dict[str, Any]:
    """Return the values of a record in the folder of a run, or of one of its networks.

    Earlier versions wrote no checksums. A record without one is accepted, with a warning, only where the record by
    which its run began has none either. Raises `CheckpointError` for any other, and for what does not match its
    checksum.
    """
    value, has_checksum = read_record_or_json(path)
    if has_checksum:
        return value
    if not is_of_earlier_version(path):
        raise CheckpointError(f"{path} was changed after it was written: its checksum is missing")
    _warn_of_earlier_version(run_of(path.parent) or path.parent)
    return value


def is_of_earlier_version(path: Path) -> bool:
    """Return whether a file without checksum is of a run, or of a network's folder, that has none anywhere."""
    return not any(_carries_checksum(witness) for witness in _witnesses(path))


def checked(model: type[M], value: object, path: Path, what: str) -> M:
    """Return the value as the model. Raises `CheckpointError` with the path and the first thing that is wrong."""
    try:
        return TypeAdapter(model).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"{path} {what}: {where + ': ' if where else ''}{rule}") from error


def _witnesses(path: Path) -> list[Path]:
    """Return the records that tell whether the run that `path` belongs to was begun with checksums."""
    run = run_of(path.parent) or path.parent
    begun = run / ENVIRONMENT
    if path != begun and begun.exists():
        return [begun]
    others = [run / TEACHER / PLAN] if path == begun else [path.parent / PLAN, path.parent / METRICS]
    return [other for other in others if other != path and other.exists()]


def _carries_checksum(path: Path) -> bool:
    """Return whether a record has a checksum; one that can't be read is taken to have had one."""
    try:
        value = read_json(path)
    except CheckpointError:
        return True
    return not isinstance(value, dict) or CHECKSUM in value


@cache
def _warn_of_earlier_version(folder: Path) -> None:
    log.warning(
        "%s: its records have no checksums, since an earlier version wrote them; they are believed as they are",
        folder,
    )
