"""report.html of a run, from what its folder holds."""

from __future__ import annotations

from pathlib import Path

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import Objective
from deepreduce.report.page import NetworkFiles, PageContents, StageWorth, TrainedEpoch, page_html
from deepreduce.run.read import read_run, read_sites
from deepreduce.store.config_file import CONFIG_DIGEST, read_config_text
from deepreduce.store.description import read_description, spec_in
from deepreduce.store.names import CONFIG, ENVIRONMENT, FRONTIER_CSV, PLAN, REPORT_PAGE
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.store.records import read_criticality
from deepreduce.store.sealed import read_run_record
from deepreduce.utils.files import write_text


def write_page(folder: Path, *, title: str, objective: Objective, out: Path | None = None) -> Path:
    """Write the page of a run, finished or not, to `out` or else into the run's folder; return its path.

    Raises `UserError` where the folder holds no run or plotly is not installed, `CheckpointError` for a corrupt file.
    """
    path = out or folder / REPORT_PAGE
    write_text(path, page_html(page_contents(folder, title=title, objective=objective)))
    return path


def page_contents(folder: Path, *, title: str, objective: Objective) -> PageContents:
    """Return what the page of a run shows. Errors are those of `write_page`, except plotly's."""
    candidates = read_run(folder)
    return PageContents(
        title=title,
        candidates=candidates,
        files={c.plan_id: _network_files(folder, c) for c in candidates},
        criticality=_stage_worths(folder),
        config_yaml=read_config_text(folder),
        config_path=str(folder / CONFIG),
        environment={k: v for k, v in read_run_record(folder / ENVIRONMENT).items() if k != CONFIG_DIGEST},
        complete=(folder / FRONTIER_CSV).is_file(),
        objective=objective,
    )


def _network_files(folder: Path, candidate: Candidate) -> NetworkFiles:
    path = folder / candidate.folder
    described = read_description(path)
    spec = spec_in(described, path / PLAN)
    return NetworkFiles(
        path=str(path),
        sites=tuple(read_sites(path)),
        history=tuple(
            TrainedEpoch(epoch=r.epoch, train_loss=r.train_loss, val_accuracy=r.val_accuracy)
            for r in NetworkFolder(path=path).history()
        ),
        needs_model=spec is None,
        runs_file=spec is not None and spec.runs_file is not None,
    )


def _stage_worths(folder: Path) -> tuple[StageWorth, ...]:
    measured = read_criticality(folder)
    if measured is None:
        return ()
    return tuple(
        StageWorth(stage=stage, criticality=worth, val_accuracy=measured.val_accuracy[stage])
        for stage, worth in measured.criticality.items()
    )
