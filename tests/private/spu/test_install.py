"""A missing engine is one line with the repair."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from deepreduce.errors import UserError
from deepreduce.private.spu import install


@pytest.mark.parametrize("version", [(3, 12), (3, 13)])
def test_another_version_of_python_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    with pytest.raises(UserError, match=rf"SPU, which is built for Python 3.10 and 3.11; this is 3.{version[1]}"):
        install.check_installed()


def test_a_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"needs spu, jax, which are not installed; install it with: pip install 'deepreduce\[private\]'",
    ):
        install.check_installed()
