"""The tables and plots that a run leaves in its folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from deepreduce.candidate import Candidate
from deepreduce.cost.objective import COUNT_OF_RELUS, Objective, basis_of
from deepreduce.errors import UserError
from deepreduce.frontier import front_by
from deepreduce.report.published import Overlay
from deepreduce.report.tables import candidates_csv, frontier_csv
from deepreduce.run.read import estimated_presets, read_run, read_sites
from deepreduce.store.candidates import write_candidates
from deepreduce.store.names import CANDIDATES_CSV, FRONTIER_CSV, FRONTIER_PLOTS, LAYERS_PLOT, costs_plot
from deepreduce.utils.files import write_bytes, write_text

_ROWS = 14
"""Networks in the plots of layers and costs, which are too tall to read with more."""


def write_tables(
    folder: Path,
    candidates: Sequence[Candidate],
    *,
    stages: Sequence[str],
    complete: bool,
    objective: Objective = COUNT_OF_RELUS,
) -> None:
    """Write candidates.csv with the candidates so far and, for a run that is `complete`, frontier.csv.

    Both hold the teacher, on the frontier or not, to compare with. candidates.json records the same for plots, the
    page and `load_result`.
    """
    write_candidates(folder, candidates)
    write_text(folder / CANDIDATES_CSV, candidates_csv(candidates, stages=stages))
    if complete:
        front = front_by(objective, candidates)
        teacher = [c for c in candidates if c.is_teacher and c not in front]
        write_text(folder / FRONTIER_CSV, frontier_csv([*front, *teacher], stages=stages))


def write_plots(
    folder: Path, *, title: str, overlay: Overlay | None = None, objective: Objective = COUNT_OF_RELUS
) -> list[Path]:
    """Write the plots of a finished run; return their paths.

    They are frontier.png, frontier.svg, layers.png, and costs-PRESET.png for each preset of the run and for the
    objective's. Raises `UserError` where the folder holds no finished run, or no network of known cost.
    """
    # matplotlib takes a second to import, and analyzing a network needs none of it
    from deepreduce.report.figures.costs import CostRow, costs_figure
    from deepreduce.report.figures.frontier import LayerRow, figure_bytes, frontier_figure, layers_figure

    candidates = read_run(folder)
    front = front_by(objective, candidates)
    if not front:
        raise UserError(_describe_missing_costs(candidates, objective))
    figure = frontier_figure(
        candidates, front, title=title, published=overlay.points() if overlay is not None else [], objective=objective
    )
    for name in FRONTIER_PLOTS:
        write_bytes(folder / name, figure_bytes(figure, "png" if name.endswith("png") else "svg"))
    teacher = next(c for c in candidates if c.is_teacher)
    shown = _most_expensive_first([*front, teacher], objective)[:_ROWS]
    left = {c.plan_id: read_sites(folder / c.folder) for c in shown}
    rows = [
        LayerRow(
            label=_row_label(c),
            relu_count=c.relu_count,
            kept={site.name: site.relu_count for site in left[c.plan_id]},
            masked=frozenset(site.name for site in left[c.plan_id] if site.action),
        )
        for c in shown
    ]
    sites = [(site.name, site.stage, site.relu_count) for site in read_sites(folder / teacher.folder)]
    layers = layers_figure(rows, sites, title=f"ReLUs kept: {title}")
    write_bytes(folder / LAYERS_PLOT, figure_bytes(layers, "png"))
    written = [*FRONTIER_PLOTS, LAYERS_PLOT]
    for preset in sorted({*estimated_presets(candidates), *filter(None, [objective.preset])}):
        bars = [
            CostRow(label=_row_label(c), estimate=c.cost_estimates[preset])
            for c in shown
            if preset in c.cost_estimates
        ]
        costs = costs_figure(bars, title=f"What one image costs: {title}", note=basis_of(preset))
        write_bytes(folder / costs_plot(preset), figure_bytes(costs, "png"))
        written.append(costs_plot(preset))
    return [folder / name for name in written]


def _describe_missing_costs(candidates: Sequence[Candidate], objective: Objective) -> str:
    if not any(objective.knows(c) for c in candidates):
        return f"no network of the run has a known cost by {objective.key}"
    return "no network was trained and measured; there is none to draw"


def _most_expensive_first(candidates: Sequence[Candidate], objective: Objective) -> list[Candidate]:
    """Return each candidate once, those of unknown cost first."""
    every = {c.plan_id: c for c in candidates}.values()
    return sorted(every, key=lambda c: (-(objective.cost(c) if objective.knows(c) else math.inf), -c.relu_count))


def _row_label(candidate: Candidate) -> str:
    return "teacher" if candidate.is_teacher else candidate.label
