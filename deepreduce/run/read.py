"""A run read back from its folder: its candidates, their costs, the sites of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepreduce.candidate import Candidate
from deepreduce.cost.batch import with_batch
from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.link import LINKS
from deepreduce.cost.objective import MEASURED, Objective, objective_class, objective_named
from deepreduce.errors import CheckpointError, UserError, unknown_name
from deepreduce.methods.base import EarlierNetwork
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.result import batch_of_run, cost_of_run
from deepreduce.report.page import SiteCount
from deepreduce.report.tables import read_candidates_csv
from deepreduce.store.candidates import read_candidates
from deepreduce.store.checkpoint import SavedNetwork
from deepreduce.store.description import read_description
from deepreduce.store.names import CANDIDATES_CSV, CANDIDATES_RECORD, PLAN, WEIGHTS, private_runs
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.store.records import read_costs
from deepreduce.store.sealed import is_of_earlier_version, read_run_record
from deepreduce.utils.records import digest_of


def read_run(folder: Path) -> list[Candidate]:
    """Return the candidates of a run folder, with the teacher, and their costs.

    Costs are estimates and, for networks that 'deepreduce private run' has run, measurements. Raises `UserError`
    where there are no candidates and `CheckpointError` for a file that is not as it was written.
    """
    candidates = _recorded_candidates(folder)
    if not any(c.is_teacher and c.measurement is not None for c in candidates):
        raise UserError(f"{folder} has no measured teacher; give the folder of a run that got so far")
    estimates = read_costs(folder).cost_estimates
    return [
        replace(c, cost_estimates={**estimates.get(c.plan_id, {}), **_measured_costs(folder / c.folder)})
        for c in candidates
    ]


def _recorded_candidates(folder: Path) -> list[Candidate]:
    """Return the candidates of candidates.json, or of the table of a run that an earlier version finished."""
    if (folder / CANDIDATES_RECORD).exists():
        return read_candidates(folder)
    path = folder / CANDIDATES_CSV
    if not path.is_file():
        raise UserError(f"{folder} holds no run with a {CANDIDATES_RECORD}; give the folder that optimize wrote to")
    if not is_of_earlier_version(path):
        raise CheckpointError(
            f"{folder / CANDIDATES_RECORD} is missing; give optimize's command again, which writes it"
        )
    try:
        return read_candidates_csv(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error


def _measured_costs(network: Path) -> dict[str, CostEstimate]:
    costs = {}
    for protocol in PROTOCOLS:
        for batch, path in private_runs(network, protocol).items():
            try:
                value = read_run_record(path)
                if batch_of_run(value) != batch:
                    raise UserError(f"it holds queries of {batch_of_run(value)} images, and its name says {batch}")
                for name, link in LINKS.items():
                    costs[f"{MEASURED}{with_batch(protocol, batch)}-{name}"] = cost_of_run(value, link)
            except UserError as error:
                raise CheckpointError(f"{path}: {error}; remove the file, or measure again") from error
            except CheckpointError as error:
                raise CheckpointError(f"{error}; remove the file, or measure again") from error
    return costs


def earlier_networks(folder: str) -> list[EarlierNetwork]:
    """Return the trained networks of a run folder without its teacher, or the one of a network's own folder.

    Raises `UserError` where there are none, and `CheckpointError` for a file that is not as it was written.
    """
    path = Path(folder).resolve()
    if (path / PLAN).is_file():
        return [_earlier_network(path)]
    trained = [c for c in read_run(path) if not c.is_teacher and c.measurement is not None]
    if not trained:
        raise UserError(f"{folder} holds no network but its teacher; give a run that has trained some")
    return [_earlier_network(path / c.folder) for c in trained]


def _earlier_network(path: Path) -> EarlierNetwork:
    saved, folder = SavedNetwork.read(path), NetworkFolder(path=path)
    metrics = folder.finished()
    if metrics is None or "val_accuracy" not in metrics:
        raise UserError(f"{path} holds a network that is not trained to its end; resume its run, or give another")
    return EarlierNetwork(
        folder=path.as_posix(),
        label=saved.label,
        plan=saved.plan,
        relu_count=metrics["relu_count"],
        val_accuracy=metrics["val_accuracy"],
        model_name=saved.model_name,
        input_shape=saved.input_shape,
        digest=digest_of((path / WEIGHTS).read_bytes()),
    )


def read_sites(network: Path) -> list[SiteCount]:
    """Return the ReLU sites of a saved network. Raises `CheckpointError` for a corrupt plan.json."""
    sites = read_description(network).sites
    return [SiteCount(name=s.name, stage=s.stage, relu_count=s.relu_count, action=s.action) for s in sites]


def estimated_presets(candidates: Sequence[Candidate]) -> list[str]:
    """Return the presets under which a run estimated costs; measurements are not among them."""
    return sorted({p for c in candidates for p in c.cost_estimates if not p.startswith(MEASURED)})


def chosen_objective(
    candidates: Sequence[Candidate], usual: Objective, *, name: str | None = None, preset: str | None = None
) -> Objective:
    """Return the objective to draw a finished run by: its `usual` one, or another `name` or `preset`.

    A preset alone means the usual objective under that preset (latency, where the usual one has none). A name alone
    means the usual objective's preset, else the only one that there are estimates for. Raises `UserError` where there
    are several, and for an unknown name or preset.
    """
    if name is None and preset is None:
        return usual
    if name is not None and not objective_class(name).needs_preset:
        return objective_named(name, preset)
    if name is not None and preset is None and usual.preset is not None:
        return objective_named(name, usual.preset)
    known = sorted({p for c in candidates for p in c.cost_estimates})
    if preset is None:
        estimated = estimated_presets(candidates)
        if len(estimated) != 1:
            raise UserError(_ask_for_preset(known))
        preset = estimated[0]
    if preset not in known:
        raise UserError(unknown_name("preset of this run", preset, known) if known else _ask_for_preset(known))
    return usual.under(preset) if name is None else objective_named(name, preset)


def _ask_for_preset(known: Sequence[str]) -> str:
    if known:
        return f"there are several presets; give --preset with one of {', '.join(known)}"
    return (
        "the run's networks have no known costs but their ReLUs; give 'deepreduce optimize' its command again with"
        " --preset, as in --preset cheetah-lan, or measure some with 'deepreduce private run'"
    )
