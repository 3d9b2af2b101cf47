"""report.html of a run, from what its folder holds."""

from __future__ import annotations

from pathlib import Path

from deepreduce.candidate import Candidate
from deepreduce.errors import CheckpointError
from deepreduce.report.page import NetworkFiles, PageContents, SiteCount, StageWorth, TrainedEpoch, page_html
from deepreduce.run.outputs import FRONTIER_CSV, objective_of, read_run, read_run_config, title_of
from deepreduce.store.run_folder import CONFIG, ENVIRONMENT, PLAN, NetworkFolder, read_criticality
from deepreduce.utils.files import read_json, write_text

REPORT_PAGE = "report.html"


def write_page(folder: Path, *, out: Path | None = None) -> Path:
    """Write the page of a run, finished or not, to `out` or else into its folder; returns where it is.

    Raises `UserError` where the folder holds no run or plotly is not installed, `CheckpointError` for a corrupt file.
    """
    path = out or folder / REPORT_PAGE
    write_text(path, page_html(page_contents(folder)))
    return path


def page_contents(folder: Path) -> PageContents:
    """What the page of a run shows. Errors are those of `write_page`, plotly's aside."""
    config = read_run_config(folder)
    candidates = read_run(folder)
    return PageContents(
        title=title_of(config),
        candidates=candidates,
        files={c.plan_id: _network_files(folder, c) for c in candidates},
        criticality=_stage_worths(folder),
        config_yaml=(folder / CONFIG).read_text(encoding="utf-8"),
        config_path=str(folder / CONFIG),
        environment=dict(read_json(folder / ENVIRONMENT)),
        complete=(folder / FRONTIER_CSV).is_file(),
        objective=objective_of(config),
    )


def _network_files(folder: Path, candidate: Candidate) -> NetworkFiles:
    path = folder / candidate.folder
    described = read_json(path / PLAN)
    try:
        return NetworkFiles(
            path=str(path),
            sites=tuple(
                SiteCount(name=str(s["name"]), stage=str(s["stage"]), relu_count=int(s["relu_count"]))
                for s in described["sites"]
            ),
            history=tuple(
                TrainedEpoch(epoch=r.epoch, train_loss=r.train_loss, val_accuracy=r.val_accuracy)
                for r in NetworkFolder(path=path).history()
            ),
            needs_model=described["model"] is None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / PLAN} does not describe a network: {error}") from error


def _stage_worths(folder: Path) -> tuple[StageWorth, ...]:
    measured = read_criticality(folder)
    if measured is None:
        return ()
    return tuple(
        StageWorth(stage=stage, criticality=worth, val_accuracy=measured.val_accuracy[stage])
        for stage, worth in measured.criticality.items()
    )
