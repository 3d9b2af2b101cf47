"""What a config asks for, as the values that the building blocks take."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepreduce.config.inputs import FROM_PYTHON
from deepreduce.config.schema import OptimizeConfig, TrainingConfig, load_config
from deepreduce.cost.model import CostModel
from deepreduce.cost.objective import RELUS, Limits
from deepreduce.cost.preset import Preset, preset_named, prices_of
from deepreduce.data import DataFacts, ImageData
from deepreduce.methods import DeepReduceMethod, LeverSearch, Pricing
from deepreduce.network import Network
from deepreduce.run.outputs import config_of_network, objective_of
from deepreduce.search.budget import FullBudget, SharedBudget
from deepreduce.search.headroom import FrontierState
from deepreduce.search.schedule import Schedule, make_schedule
from deepreduce.training import LogitsCache, Recipe
from deepreduce.training.autotune import ExecutionPlan, choose_execution
from deepreduce.utils.seed import derived_seed

log = logging.getLogger(__name__)


def resolve_config(
    *,
    model: str | nn.Module | None = None,
    data: Any = None,
    config: str | Path | OptimizeConfig | None = None,
    settings: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> OptimizeConfig:
    """One config from a file or object, overridden by `values`, by model and data, then by `key=value` settings.

    Raises `ConfigError` that lists every mistake at once.
    """
    overrides: dict[str, Any] = {}
    if isinstance(config, OptimizeConfig):
        overrides |= config.model_dump(mode="json")
        config = None
    overrides |= dict(values or {})
    if model is not None:
        overrides["model.name"] = model if isinstance(model, str) else f"{FROM_PYTHON}{type(model).__name__}"
    if data is not None:
        overrides["data.name"] = data if isinstance(data, str) else f"{FROM_PYTHON}{type(data).__name__}"
    return load_config(config, values=overrides, settings=settings)


def config_for_network(
    folder: Path,
    *,
    config: Path | None = None,
    data: str | None = None,
    settings: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> OptimizeConfig:
    """The config of the run that a network's folder lies in, or the given file, with what else is given."""
    found = config if config is not None else config_of_network(folder)
    return resolve_config(data=data, config=found, settings=settings, values=values)


def run_schedule(
    network: Network,
    facts: DataFacts,
    config: OptimizeConfig,
    *,
    cull_order: Sequence[str] | None,
    measured: bool = False,
    standing: FrontierState | None = None,
    trained: Collection[str] = (),
    presets: Sequence[Preset],
) -> Schedule:
    """The networks of a run; `measured` says that the order comes from probes, `standing` what they have found.

    `trained` are the ids of plans whose networks are trained already.
    """
    method, training = config.method, config.training
    return make_schedule(
        network,
        facts,
        DeepReduceMethod(
            thin_keep=method.thin_keep,
            alphas=method.alphas,
            rhos=method.rhos,
            depths=method.depths,
            pad_once=method.pad_once,
            criticality_form=method.criticality_form,
            criticality_exponent=method.criticality_exponent,
        ),
        run_recipe(config),
        teacher_epochs=teacher_epochs(training),
        cull_order=cull_order,
        limits=limits_of(config),
        measured=measured,
        search=lever_search(config, presets),
        price=pricing_under(presets),
        standing=standing,
        trained=trained,
    )


def lever_search(config: OptimizeConfig, presets: Sequence[Preset]) -> LeverSearch | None:
    """What to search for under `presets_of` the config, where that is not the paper's networks of few ReLUs."""
    objective, cost = objective_of(config), config.cost
    if objective.name == RELUS:
        return None
    price = pricing_under([preset for preset in presets if preset.name == objective.preset])
    return LeverSearch(objective=objective, price=price, gain=cost.gain, most=cost.networks)


def limits_of(config: OptimizeConfig) -> Limits:
    """What the config allows a network to have."""
    return Limits(max_relus=config.max_relus, max_cost=config.max_cost, objective=objective_of(config))


def presets_of(config: OptimizeConfig, *, recorded: Mapping[str, CostModel] | None = None) -> tuple[Preset, ...]:
    """The presets that a run prices its networks under, the objective's first.

    `recorded` are the cost models with which the run began: it goes on with these though the user has calibrated
    anew. Raises `UserError` for a name that is not known.
    """
    objective = objective_of(config)
    names = dict.fromkeys([*([objective.preset] if objective.preset else []), *config.cost.presets])
    return tuple(preset_named(name, models=recorded or {}) for name in names)


def pricing_under(presets: Sequence[Preset]) -> Pricing:
    """What an image costs a network under each of them."""
    return lambda network: prices_of(network, presets)


def run_recipe(config: OptimizeConfig) -> FullBudget | SharedBudget:
    """How long students are trained, and from which weights."""
    epochs, batch_size, fast = config.training.epochs, config.training.batch_size, config.fast
    if config.recipe == "paper":
        return FullBudget(epochs=epochs, batch_size=batch_size)
    return SharedBudget(
        epochs=epochs,
        batch_size=batch_size,
        student_batch_size=max(round(fast.batch * batch_size), 1),
        price=fast.price,
        probe_share=fast.probe_share,
        draft_share=fast.draft_share,
        margin=fast.margin,
        views=min(fast.views, epochs),
    )


def teacher_epochs(training: TrainingConfig) -> int:
    """Epochs of the teacher: the full recipe's unless the config says otherwise."""
    return training.epochs if training.teacher_epochs is None else training.teacher_epochs


def model_seed(config: OptimizeConfig) -> int:
    """What initialises the original network."""
    return derived_seed(config.seed, "model") % 2**31


def training_recipe(
    training: TrainingConfig, *, epochs: float, rate: float = 1.0, batch_size: int | None = None
) -> Recipe:
    """The recipe of the config for so many epochs, with `rate` times its learning rate.

    Another `batch_size` scales the rate in proportion; the warm-up of a shorter training is shorter in proportion.
    """
    batch_size = batch_size or training.batch_size
    rate *= batch_size / training.batch_size
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=training.learning_rate * rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        warmup_epochs=training.warmup_epochs * min(epochs / training.epochs, 1.0),
        label_smoothing=training.label_smoothing,
        clip_norm=training.clip_norm,
        validate_every=training.validate_every,
    )


def remembered_logits(
    path: Path, data: ImageData, config: OptimizeConfig, *, epochs: int, batch_size: int
) -> LogitsCache | None:
    """Room on the disk for the teacher's answers to so many epochs of views, or to as many as it may hold.

    They are asked for, and kept, in batches of `batch_size`.

    None where it may hold none, or the disk has no room.
    """
    sizes = {
        "steps": data.train.num_steps(batch_size),
        "batch_size": batch_size,
        "num_classes": data.num_classes,
    }
    allowed = int(config.distill.remember_gb * 1e9 // LogitsCache.size(epochs=1, **sizes))
    if not allowed:
        return None
    try:
        return LogitsCache(path, epochs=min(epochs, allowed), **sizes)
    except OSError as error:
        log.warning("the teacher's answers are not remembered: %s", error.strerror or error)
        return None


def execution_plan(
    config: OptimizeConfig, network: Network, device: torch.device, *, recorded: ExecutionPlan | None = None
) -> ExecutionPlan:
    """Return how to train: as the config says, as `recorded` (how the run began), or as a trial finds fastest."""
    return choose_execution(
        network,
        device=device,
        batch_size=config.training.batch_size,
        precision=config.training.precision,
        threads=config.threads,
        workers=config.side_by_side,
        recorded=recorded,
    )
