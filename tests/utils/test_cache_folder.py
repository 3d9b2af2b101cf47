"""One folder in the user's cache holds all that is remembered of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.cost.preset import calibration_folder
from deepreduce.utils.cache_folder import cache_folder


def test_the_cache_lies_where_xdg_cache_home_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "deepreduce"
    assert not cache_folder().exists()


def test_calibrations_lie_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration_folder().is_relative_to(cache_folder())
