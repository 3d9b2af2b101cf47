"""Writing report.html from a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import deepreduce
from deepreduce.api import report_run
from deepreduce.cli.main import run_command
from deepreduce.errors import CheckpointError
from tests.helpers.made_up_run import write_run
from tests.helpers.page import Parsed
from tests.helpers.records import change_record, changed
from tests.helpers.runs import NUM_CANDIDATES, TINY, TINY_RELUS


def test_a_network_whose_folder_is_corrupt_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=1)
    plan = tmp_path / "run" / "candidates" / "plan00" / "plan.json"
    change_record(plan, changed(sites=3))
    with pytest.raises(CheckpointError, match=r"plan00/plan.json does not describe a network"):
        report_run(tmp_path / "run")
    plan.unlink()
    with pytest.raises(CheckpointError, match=r"plan00/plan.json can't be read"):
        report_run(tmp_path / "run")


def test_the_command_writes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_run(run, size=1)
    assert run_command(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_bytes() == report_run(run).read_bytes()
    assert run_command(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert run_command(["report", str(run), "--out", str(tmp_path / "nowhere" / "page.html")]) == 2


@pytest.mark.slow
def test_the_page_of_a_real_run_loads_each_network_as_it_says(tmp_path: Path) -> None:
    """The runs of the other tests are made up; this one holds them to what optimize leaves."""
    result = deepreduce.optimize(out=tmp_path / "run", **TINY)
    data = Parsed(report_run(result.folder).read_text(encoding="utf-8")).data()
    assert data["complete"] and len(data["networks"]) == NUM_CANDIDATES + 1
    assert {w["stage"] for w in data["criticality"]} == set(TINY_RELUS)
    for network in data["networks"]:
        assert sum(count for _, _, count in network["sites"]) == network["relu_count"]
        is_teacher = network["is_teacher"]
        assert not is_teacher or len(network["history"]["epoch"]) == TINY["training"]["epochs"]
        assert network["is_dropped"] == (network["history"]["epoch"] == [])
        names: dict[str, Any] = {}
        exec(network["snippet"], names)
        assert isinstance(names["network"], torch.nn.Module)
