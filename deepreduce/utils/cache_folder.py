"""The folder in which deepreduce keeps its measurements of this machine."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return deepreduce's folder in the user's cache (`$XDG_CACHE_HOME` if that is set); it may not exist yet."""
    return platformdirs.user_cache_path("deepreduce", appauthor=False)
