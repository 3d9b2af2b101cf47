"""The batch: the number of images of a query, its limit, and its place in names such as semi2k-x16-lan."""

from __future__ import annotations

import re

from deepreduce.errors import UserError
from deepreduce.utils.text import shown

MOST_IMAGES = 256
"""Most images of a query."""

_SUFFIX = re.compile(r"(?P<name>.+)-x(?P<batch>[1-9]\d{0,8})")


def check_batch(batch: int, *, most: int = MOST_IMAGES) -> int:
    """Return the number of images of a query. Raises `UserError` unless it is a whole number from 1 to `most`."""
    if type(batch) is not int or not 1 <= batch <= most:
        given = shown(batch) if type(batch) is int else repr(batch)
        raise UserError(f"the batch is {given}; give a whole number of images for each query, 1 to {most}")
    return batch


def with_batch(name: str, batch: int) -> str:
    """Return the name of a protocol or model for queries of `batch` images: "semi2k-x16", "semi2k" for one image."""
    return name if batch == 1 else f"{name}-x{batch}"


def split_batch(name: str) -> tuple[str, int]:
    """Return the name and the batch that `with_batch` joined. Raises `UserError` for a batch that is too large."""
    found = _SUFFIX.fullmatch(name)
    return (found["name"], check_batch(int(found["batch"]))) if found is not None else (name, 1)
