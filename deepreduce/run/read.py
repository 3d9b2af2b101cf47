"""A run read back from its folder: its candidates, their costs, the sites of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepreduce.candidate import Candidate
from deepreduce.cost.link import LINKS
from deepreduce.cost.objective import BYTES, LATENCY, MEASURED, RELUS, Objective
from deepreduce.cost.price import CostEstimate
from deepreduce.errors import CheckpointError, UserError, unknown_name
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.result import price_of_run
from deepreduce.report.page import SiteCount
from deepreduce.report.tables import read_candidates_csv
from deepreduce.store.names import CANDIDATES_CSV, PLAN, private_run
from deepreduce.store.records import read_costs
from deepreduce.utils.files import read_json


def read_run(folder: Path) -> list[Candidate]:
    """Return the candidates of a run folder, with the teacher, and their costs.

    Costs are estimates and, for networks that 'deepreduce private run' has run, measurements. Raises `UserError`
    where there are no candidates and `CheckpointError` for a corrupt file.
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


def _measured_prices(network: Path) -> dict[str, CostEstimate]:
    prices = {}
    for protocol in PROTOCOLS:
        path = network / private_run(protocol)
        if path.is_file():
            value = read_json(path)
            for name, link in LINKS.items():
                try:
                    prices[f"{MEASURED}{protocol}-{name}"] = price_of_run(value, link)
                except UserError as error:
                    raise CheckpointError(f"{path}: {error}; remove the file, or measure again") from error
    return prices


def read_sites(network: Path) -> list[SiteCount]:
    """Return the ReLU sites of a saved network. Raises `CheckpointError` for a corrupt plan.json."""
    try:
        return [
            SiteCount(
                name=str(s["name"]),
                stage=str(s["stage"]),
                relu_count=int(s["relu_count"]),
                action=str(s.get("action", "")),
            )
            for s in read_json(network / PLAN)["sites"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{network / PLAN} does not list the network's sites: {error}") from error


def estimated_presets(candidates: Sequence[Candidate]) -> list[str]:
    """Return the presets under which a run estimated costs; measurements are not among them."""
    return sorted({p for c in candidates for p in c.prices if not p.startswith(MEASURED)})


def chosen_objective(
    candidates: Sequence[Candidate], usual: Objective, *, name: str | None = None, preset: str | None = None
) -> Objective:
    """Return the objective to draw a finished run by: its `usual` one, or another `name` or `preset`.

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
            raise UserError(_ask_for_preset(known))
        preset = estimated[0]
    if preset not in known:
        raise UserError(unknown_name("preset of this run", preset, known) if known else _ask_for_preset(known))
    return Objective(name=name or (BYTES if usual.name == BYTES else LATENCY), preset=preset)


def _ask_for_preset(known: Sequence[str]) -> str:
    if known:
        return f"there are several presets; give --preset with one of {', '.join(known)}"
    return (
        "the run's networks have no known costs but their ReLUs; give 'deepreduce optimize' its command again with"
        " --preset, as in --preset cheetah-lan, or measure some with 'deepreduce private run'"
    )
