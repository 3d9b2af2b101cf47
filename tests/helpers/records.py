"""Records changed by hand, with a checksum that fits again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepreduce.config.load import dump_config
from deepreduce.config.schema import OptimizeConfig
from deepreduce.store.config_file import CONFIG_DIGEST, text_digest
from deepreduce.utils.records import CHECKSUM, checksum_of, write_record


def change_record(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write what `change` makes of a record's values; a mapping gets the checksum that fits it."""
    value = json.loads(path.read_text(encoding="utf-8"))
    value.pop(CHECKSUM)
    value = change(value)
    path.write_text(json.dumps({**value, CHECKSUM: checksum_of(value)} if isinstance(value, dict) else value))


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Return a change of some values."""
    return lambda value: {**value, **changes}


def begin_run(folder: Path, config: OptimizeConfig | None = None) -> None:
    """Write what a run of that config (None: the defaults) writes about itself when it begins."""
    text = dump_config(config or OptimizeConfig())
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "environment.json", {"identity": {}, CONFIG_DIGEST: text_digest(text)})
    (folder / "config.yaml").write_text(text, encoding="utf-8")
