"""A made-up run, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.api import report_run
from tests.helpers.made_up_run import write_run
from tests.helpers.page import Parsed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "run"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Parsed:
    return Parsed(report_run(run).read_text(encoding="utf-8"))
