"""The files that a run leaves for its reader: tables and plots, made from what its folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreduce.config import OptimizeConfig, load_config
from deepreduce.errors import CheckpointError, UserError
from deepreduce.frontier import pareto_front
from deepreduce.network import Network
from deepreduce.plan import Candidate
from deepreduce.report.published import PublishedPoint, read_published_csv, select_published
from deepreduce.report.tables import candidates_csv, frontier_csv, read_candidates_csv
from deepreduce.runs import CONFIG, PLAN
from deepreduce.storage import read_json, write_bytes, write_text

CANDIDATES_CSV, FRONTIER_CSV = "candidates.csv", "frontier.csv"
FRONTIER_PLOTS, LAYERS_PLOT = ("frontier.png", "frontier.svg"), "layers.png"
_LAYER_ROWS = 14  # more networks than this make the figure too tall to read


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A paper's points to draw beside a frontier: a CSV file, and which of its rows."""

    path: Path
    dataset: str | None = None
    backbone: str | None = None
    methods: tuple[str, ...] | None = None


def stages_of(network: Network) -> tuple[str, ...]:
    """The columns of the tables."""
    return network.stages


def published_points(overlay: Overlay | None) -> list[PublishedPoint]:
    """The points to draw, none without an overlay. Raises `UserError` for a bad file and a choice without points."""
    if overlay is None:
        return []
    return select_published(
        read_published_csv(overlay.path), dataset=overlay.dataset, backbone=overlay.backbone, methods=overlay.methods
    )


def write_tables(folder: Path, candidates: Sequence[Candidate], *, stages: Sequence[str], complete: bool) -> None:
    """candidates.csv with what there is so far and, of a run that is `complete`, frontier.csv.

    Both hold the teacher, on the frontier or not, to compare with.
    """
    write_text(folder / CANDIDATES_CSV, candidates_csv(candidates, stages=stages))
    if complete:
        front = pareto_front(candidates)
        teacher = [c for c in candidates if c.is_teacher and c not in front]
        write_text(folder / FRONTIER_CSV, frontier_csv([*front, *teacher], stages=stages))


def write_plots(folder: Path, *, title: str, overlay: Overlay | None = None) -> list[Path]:
    """frontier.png, frontier.svg and layers.png of a finished run; returns their paths.

    Raises `UserError` where the folder holds no finished run.
    """
    # matplotlib takes a second to import, and analyzing a network needs none of it
    from deepreduce.report.plots import LayerRow, figure_bytes, frontier_figure, layers_figure

    candidates = read_run(folder)
    front = pareto_front(candidates)
    figure = frontier_figure(candidates, front, title=title, published=published_points(overlay))
    for name in FRONTIER_PLOTS:
        write_bytes(folder / name, figure_bytes(figure, "png" if name.endswith("png") else "svg"))
    teacher = next(c for c in candidates if c.is_teacher)
    shown = sorted({c.plan_id: c for c in [*front, teacher]}.values(), key=lambda c: -c.relu_count)
    rows = [
        LayerRow(
            label="teacher" if c.is_teacher else c.label,
            relu_count=c.relu_count,
            kept={name: count for name, _, count in _sites(folder / c.folder)},
        )
        for c in shown[:_LAYER_ROWS]
    ]
    layers = layers_figure(rows, _sites(folder / teacher.folder), title=f"ReLUs kept: {title}")
    write_bytes(folder / LAYERS_PLOT, figure_bytes(layers, "png"))
    return [folder / name for name in (*FRONTIER_PLOTS, LAYERS_PLOT)]


def read_run(folder: Path) -> list[Candidate]:
    """The candidates of a run folder, the teacher among them. Raises `UserError` where there are none."""
    path = folder / CANDIDATES_CSV
    if not path.is_file():
        raise UserError(f"{folder} holds no run with a {CANDIDATES_CSV}; give the folder that optimize wrote to")
    candidates = read_candidates_csv(path.read_text(encoding="utf-8"))
    if not any(c.is_teacher and c.measurement is not None for c in candidates):
        raise UserError(f"{path} has no row for the teacher; give the folder of a run that got so far")
    return candidates


def read_run_config(folder: Path) -> OptimizeConfig:
    """The config of a run folder. Raises `UserError` where it has none."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no run with a {CONFIG}; give the folder that optimize wrote to")
    return load_config(folder / CONFIG)


def run_title(model: str, data: str) -> str:
    """The default title of a run's plots."""
    short = data.partition(":")[2].rsplit("/", 1)[-1] or data
    return f"{model} on {short}"


def redraw(folder: Path, *, title: str | None = None, overlay: Overlay | None = None) -> list[Path]:
    """The plots of a finished run once more; what is not given is as the run's config says."""
    config = read_run_config(folder)
    return write_plots(folder, title=title or title_of(config), overlay=overlay or overlay_of(config))


def title_of(config: OptimizeConfig) -> str:
    """The title of a run's plots."""
    return config.plot.title or run_title(config.model.name.removeprefix("python:"), config.data.name)


def overlay_of(config: OptimizeConfig) -> Overlay | None:
    """The published points that the config wants drawn."""
    plot = config.plot
    if plot.published is None:
        return None
    return Overlay(path=Path(plot.published), dataset=plot.published_dataset, backbone=plot.published_backbone)


def config_of_network(folder: Path) -> OptimizeConfig | None:
    """The config of the run that a network's folder lies in; None where it lies in none."""
    for parent in folder.resolve().parents[:2]:
        if (parent / CONFIG).is_file():
            return load_config(parent / CONFIG)
    return None


def _sites(folder: Path) -> list[tuple[str, str, int]]:
    """(name, stage, ReLUs) of a saved network's sites. Raises `CheckpointError` for a corrupt plan.json."""
    try:
        return [(str(s["name"]), str(s["stage"]), int(s["relu_count"])) for s in read_json(folder / PLAN)["sites"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / PLAN} does not list the network's sites: {error}") from error
