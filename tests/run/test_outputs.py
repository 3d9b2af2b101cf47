"""The tables and plots of a run are those of its candidates."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.cost.objective import COUNT_OF_RELUS
from deepreduce.errors import UserError
from deepreduce.frontier import front_by
from deepreduce.report.tables import read_candidates_csv
from deepreduce.run.outputs import write_plots, write_tables
from deepreduce.run.read import read_run, read_sites
from tests.helpers.made_up_run import write_run


def test_an_unfinished_run_has_candidates_but_no_frontier(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=3)
    candidates = read_run(tmp_path / "run")
    stages = tuple(candidates[0].measurement.stage_relu_counts)  # type: ignore[union-attr]
    for complete in (False, True):
        folder = tmp_path / str(complete)
        folder.mkdir()
        write_tables(folder, candidates, stages=stages, complete=complete)
        assert (folder / "frontier.csv").exists() == complete
        assert len(read_candidates_csv((folder / "candidates.csv").read_text())) == len(candidates)
    front = {c.plan_id for c in read_candidates_csv((folder / "frontier.csv").read_text())}
    assert front == {c.plan_id for c in front_by(COUNT_OF_RELUS, candidates)} | {"teacher"}


def test_plots_are_written_from_what_the_folder_holds(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=3)
    written = write_plots(tmp_path / "run", title="a run")
    assert {p.name for p in written} >= {"frontier.png", "frontier.svg", "layers.png"}
    assert all(p.stat().st_size > 1000 for p in written)
    with pytest.raises(UserError, match=r"holds no run with a candidates\.json"):
        write_plots(tmp_path, title="nothing")


def test_the_sites_of_a_network_add_up_to_its_relus(tmp_path: Path) -> None:
    write_run(tmp_path / "run", size=3)
    for candidate in read_run(tmp_path / "run"):
        if candidate.measurement is not None:
            sites = read_sites(tmp_path / "run" / candidate.folder)
            assert sum(site.relu_count for site in sites) == candidate.relu_count
