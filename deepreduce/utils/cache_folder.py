"""The folder in which deepreduce remembers what it measured on this machine."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return deepreduce's folder in the user's cache: in `$XDG_CACHE_HOME` where that is set. It need not exist."""
    return platformdirs.user_cache_path("deepreduce", appauthor=False)
