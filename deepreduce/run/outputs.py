"""The files that a run leaves for its reader: tables and plots, made from what its folder holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepreduce.candidate import Candidate
from deepreduce.config.schema import OptimizeConfig, load_config
from deepreduce.cost.link import LINKS
from deepreduce.cost.objective import BYTES, COUNT_OF_RELUS, LATENCY, MEASURED, RELUS, Objective, basis_of
from deepreduce.cost.price import CostEstimate
from deepreduce.errors import CheckpointError, UserError, unknown_name
from deepreduce.frontier import front_by
from deepreduce.network import Network
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.result import price_of_run
from deepreduce.report.published import PublishedPoint, read_published_csv, select_published
from deepreduce.report.tables import candidates_csv, frontier_csv, read_candidates_csv
from deepreduce.store.run_folder import CONFIG, PLAN, read_costs
from deepreduce.utils.files import read_json, write_bytes, write_text

CANDIDATES_CSV, FRONTIER_CSV = "candidates.csv", "frontier.csv"
FRONTIER_PLOTS, LAYERS_PLOT = ("frontier.png", "frontier.svg"), "layers.png"
_ROWS = 14


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


def objective_of(config: OptimizeConfig) -> Objective:
    """What a run's frontier is about."""
    cost = config.cost
    if cost.objective == RELUS:
        return COUNT_OF_RELUS
    return Objective(name=cost.objective, preset=f"{cost.protocol or 'cheetah'}-{cost.link or 'lan'}")


def write_tables(
    folder: Path,
    candidates: Sequence[Candidate],
    *,
    stages: Sequence[str],
    complete: bool,
    objective: Objective = COUNT_OF_RELUS,
) -> None:
    """candidates.csv with what there is so far and, of a run that is `complete`, frontier.csv.

    Both hold the teacher, on the frontier or not, to compare with.
    """
    write_text(folder / CANDIDATES_CSV, candidates_csv(candidates, stages=stages))
    if complete:
        front = front_by(objective, candidates)
        teacher = [c for c in candidates if c.is_teacher and c not in front]
        write_text(folder / FRONTIER_CSV, frontier_csv([*front, *teacher], stages=stages))


def write_plots(
    folder: Path, *, title: str, overlay: Overlay | None = None, objective: Objective = COUNT_OF_RELUS
) -> list[Path]:
    """The plots of a finished run; returns their paths.

    frontier.png, frontier.svg, layers.png, and costs-PRESET.png for each preset that the run was priced under and for
    the objective's. Raises `UserError` where the folder holds no finished run, or no network of known cost.
    """
    # matplotlib takes a second to import, and analyzing a network needs none of it
    from deepreduce.report.figures.costs import CostRow, costs_figure
    from deepreduce.report.figures.frontier import LayerRow, figure_bytes, frontier_figure, layers_figure

    candidates = read_run(folder)
    front = front_by(objective, candidates)
    if not front:
        raise UserError(_unpriced(candidates, objective))
    figure = frontier_figure(candidates, front, title=title, published=published_points(overlay), objective=objective)
    for name in FRONTIER_PLOTS:
        write_bytes(folder / name, figure_bytes(figure, "png" if name.endswith("png") else "svg"))
    teacher = next(c for c in candidates if c.is_teacher)
    # with more networks the figures are too tall to read
    shown = _dearest_first([*front, teacher], objective)[:_ROWS]
    rows = [
        LayerRow(
            label=_row_label(c),
            relu_count=c.relu_count,
            kept={name: count for name, _, count in _sites(folder / c.folder)},
        )
        for c in shown
    ]
    layers = layers_figure(rows, _sites(folder / teacher.folder), title=f"ReLUs kept: {title}")
    write_bytes(folder / LAYERS_PLOT, figure_bytes(layers, "png"))
    written = [*FRONTIER_PLOTS, LAYERS_PLOT]
    for preset in sorted({*estimated_presets(candidates), *filter(None, [objective.preset])}):
        bars = [CostRow(label=_row_label(c), price=c.prices[preset]) for c in shown if preset in c.prices]
        costs = costs_figure(bars, title=f"What one image costs: {title}", note=basis_of(preset))
        write_bytes(folder / costs_plot(preset), figure_bytes(costs, "png"))
        written.append(costs_plot(preset))
    return [folder / name for name in written]


def costs_plot(preset: str) -> str:
    """The file with where the seconds and bytes go under a preset."""
    return f"costs-{preset}.png"


def estimated_presets(candidates: Sequence[Candidate]) -> list[str]:
    """The presets that a run's networks were priced under, measurements apart."""
    return sorted({p for c in candidates for p in c.prices if not p.startswith(MEASURED)})


def chosen_objective(
    candidates: Sequence[Candidate], usual: Objective, *, name: str | None = None, preset: str | None = None
) -> Objective:
    """What to draw a finished run's frontier by: its usual objective, or another `name` or `preset`.

    A preset alone means latency, unless the usual objective is bytes; latency or bytes alone means the usual
    objective's preset or else the only one there is. Raises `UserError` where that is not one, or is not known.
    """
    if name is None and preset is None:
        return usual
    known = sorted({p for c in candidates for p in c.prices})
    if name == RELUS or (preset is None and usual.preset is not None):
        return Objective(name=name or usual.name, preset=preset if name == RELUS else usual.preset)
    if preset is None:
        estimated = estimated_presets(candidates)
        if len(estimated) != 1:
            raise UserError(_name_a_preset(known))
        preset = estimated[0]
    if preset not in known:
        raise UserError(unknown_name("preset of this run", preset, known) if known else _name_a_preset(known))
    return Objective(name=name or (BYTES if usual.name == BYTES else LATENCY), preset=preset)


def _name_a_preset(known: Sequence[str]) -> str:
    if known:
        return f"there are several presets; give --preset with one of {', '.join(known)}"
    return (
        "the run's networks have no known costs but their ReLUs; give 'deepreduce optimize' its command again with"
        " --preset, as in --preset cheetah-lan, or measure some with 'deepreduce private run'"
    )


def _unpriced(candidates: Sequence[Candidate], objective: Objective) -> str:
    if not any(objective.knows(c) for c in candidates):
        return f"no network of the run has a cost under {objective.preset}"
    return "no network was trained and measured; there is none to draw"


def _dearest_first(candidates: Sequence[Candidate], objective: Objective) -> list[Candidate]:
    """Each once; those of unknown cost first."""
    every = {c.plan_id: c for c in candidates}.values()
    return sorted(every, key=lambda c: (-(objective.cost(c) if objective.knows(c) else math.inf), -c.relu_count))


def _row_label(candidate: Candidate) -> str:
    return "teacher" if candidate.is_teacher else candidate.label


def read_run(folder: Path) -> list[Candidate]:
    """The candidates of a run folder, the teacher among them, with their prices.

    These are estimates and, of networks that 'deepreduce private run' has run, measurements. Raises `UserError` where
    there are no candidates and `CheckpointError` for a corrupt file.
    """
    path = folder / CANDIDATES_CSV
    if not path.is_file():
        raise UserError(f"{folder} holds no run with a {CANDIDATES_CSV}; give the folder that optimize wrote to")
    candidates = read_candidates_csv(path.read_text(encoding="utf-8"))
    if not any(c.is_teacher and c.measurement is not None for c in candidates):
        raise UserError(f"{path} has no row for the teacher; give the folder of a run that got so far")
    estimates = read_costs(folder).prices
    return [
        replace(c, prices={**estimates.get(c.plan_id, {}), **_measured_prices(folder / c.folder)}) for c in candidates
    ]


def private_file(network: Path, protocol: str) -> Path:
    """Where 'deepreduce private run' keeps what it measured of the network in a folder."""
    return network / f"private-{protocol}.json"


def _measured_prices(network: Path) -> dict[str, CostEstimate]:
    prices = {}
    for protocol in PROTOCOLS:
        path = private_file(network, protocol)
        if path.is_file():
            value = read_json(path)
            for name, link in LINKS.items():
                try:
                    prices[f"{MEASURED}{protocol}-{name}"] = price_of_run(value, link)
                except UserError as error:
                    raise CheckpointError(f"{path}: {error}; remove the file, or measure again") from error
    return prices


def read_run_config(folder: Path) -> OptimizeConfig:
    """The config of a run folder. Raises `UserError` where it has none."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no run with a {CONFIG}; give the folder that optimize wrote to")
    return load_config(folder / CONFIG)


def run_title(model: str, data: str) -> str:
    """The default title of a run's plots."""
    short = data.partition(":")[2].rsplit("/", 1)[-1] or data
    return f"{model} on {short}"


def redraw(
    folder: Path,
    *,
    title: str | None = None,
    overlay: Overlay | None = None,
    objective: str | None = None,
    preset: str | None = None,
) -> list[Path]:
    """The plots of a finished run once more; what is not given is as the run's config says.

    `objective` and `preset` are as in `chosen_objective`.
    """
    config = read_run_config(folder)
    chosen = chosen_objective(read_run(folder), objective_of(config), name=objective, preset=preset)
    return write_plots(
        folder, title=title or title_of(config), overlay=overlay or overlay_of(config), objective=chosen
    )


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
