"""report.html of a run, from what its folder holds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from deepreduce.errors import CheckpointError
from deepreduce.outputs import FRONTIER_CSV, read_run, read_run_config, title_of
from deepreduce.plan import Candidate
from deepreduce.report.page import NetworkFiles, PageContents, SiteCount, StageWorth, TrainedEpoch, page_html
from deepreduce.runs import CONFIG, ENVIRONMENT, HISTORY, PLAN
from deepreduce.storage import read_json, write_text

REPORT_PAGE, CRITICALITY = "report.html", "criticality.json"


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
        criticality=_stage_worths(folder / CRITICALITY),
        config_yaml=(folder / CONFIG).read_text(encoding="utf-8"),
        config_path=str(folder / CONFIG),
        environment=dict(read_json(folder / ENVIRONMENT)),
        complete=(folder / FRONTIER_CSV).is_file(),
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
            history=_epochs(path / HISTORY),
            needs_model=described["model"] is None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / PLAN} does not describe a network: {error}") from error


def _epochs(path: Path) -> tuple[TrainedEpoch, ...]:
    """The history of a network; that of one whose training failed holds nothing."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return tuple(
            TrainedEpoch(
                epoch=int(row["epoch"]),
                train_loss=float(row["train_loss"]),
                val_accuracy=float(row["val_accuracy"]) if row["val_accuracy"] else None,
            )
            for row in rows
        )
    except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a history of training: {error}") from error


def _stage_worths(path: Path) -> tuple[StageWorth, ...]:
    """Nothing for a run whose order of culling was given, or is still being measured."""
    if not path.is_file():
        return ()
    measured = read_json(path)
    try:
        return tuple(
            StageWorth(
                stage=str(stage), criticality=float(worth), val_accuracy=float(measured["val_accuracy"][stage])
            )
            for stage, worth in measured["criticality"].items()
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the criticality of stages: {error}") from error
