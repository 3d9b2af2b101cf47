"""Records: JSON objects with a checksum, so that a changed digit or name is named and never believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepreduce.errors import CheckpointError
from deepreduce.utils.files import read_json, write_json

CHECKSUM = "checksum"
"""The key that holds "sha256:" and the hash of all other keys and values."""


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain values as a JSON object that ends with its checksum, as `write_json` does."""
    assert CHECKSUM not in value
    # as they will be read: tuples become lists, and numbers as keys become texts
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, {**plain, CHECKSUM: checksum_of(plain)})


def read_record(path: Path) -> dict[str, Any]:
    """Return the values of a record, without the checksum.

    Raises `CheckpointError`, with the path, where the file can't be read, has no checksum, or another one than its
    values have.
    """
    value, has_checksum = read_record_or_json(path)
    if not has_checksum:
        raise CheckpointError(f"{path} has no checksum, so that nobody can tell whether it is as it was written")
    return value


def read_record_or_json(path: Path) -> tuple[dict[str, Any], bool]:
    """Return the values of a record or of a plain JSON object, and whether it has a checksum.

    Raises `CheckpointError` where the file can't be read, holds no object, or does not match its checksum.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} can't be read: it is no JSON object")
    if CHECKSUM not in value:
        return value, False
    given = value.pop(CHECKSUM)
    if given != checksum_of(value):
        raise CheckpointError(f"{path} was changed or damaged after it was written: its checksum does not match")
    return value, True


def checksum_of(value: Mapping[str, Any]) -> str:
    """Return the checksum of plain values: of their JSON with sorted keys and without spaces."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return digest_of(canonical.encode())


def digest_of(content: bytes) -> str:
    """Return "sha256:" and the hash of the bytes, in hexadecimal digits."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
