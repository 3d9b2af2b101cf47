"""Records changed by hand, with a checksum that fits again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepreduce.utils.records import CHECKSUM, checksum_of


def change_record(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write what `change` makes of a record's values; a mapping gets the checksum that fits it."""
    value = json.loads(path.read_text(encoding="utf-8"))
    value.pop(CHECKSUM)
    value = change(value)
    path.write_text(json.dumps({**value, CHECKSUM: checksum_of(value)} if isinstance(value, dict) else value))


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Return a change of some values."""
    return lambda value: {**value, **changes}
