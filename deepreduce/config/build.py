"""From a config to what it means: one frozen `RunSpec`, below which nobody reads the config."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepreduce.config.inputs import choose_device, load_data, original_network, some_images
from deepreduce.config.load import differing_keys_of_run, dump_config
from deepreduce.config.schema import FROM_PYTHON, OptimizeConfig, default_method
from deepreduce.cost.model import CostModel
from deepreduce.cost.objective import Limits, Objective, objective_class, objective_named
from deepreduce.cost.preset import Preset, preset_named
from deepreduce.data import DataFacts
from deepreduce.errors import ConfigError
from deepreduce.methods.base import Method, SearchContext
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.registry import method_named
from deepreduce.network import Network
from deepreduce.observers.base import RunObserver
from deepreduce.observers.registry import make_observers
from deepreduce.report.published import Overlay
from deepreduce.run.environment import describe_environment
from deepreduce.run.read import earlier_networks
from deepreduce.run.spec import RunSpec, SearchSpec
from deepreduce.search.budget import Budget, FullBudget, SharedBudget, WarmFullBudget
from deepreduce.store.records import read_costs, read_execution_plan
from deepreduce.store.run_folder import RunIdentity
from deepreduce.training import Distillation, Recipe
from deepreduce.training.autotune import choose_execution
from deepreduce.training.callbacks import CallbackFactory, describe_callbacks
from deepreduce.training.memory import check_batch_fits
from deepreduce.transforms.collapse.costs import cost_estimator
from deepreduce.utils.memory import check_memory
from deepreduce.utils.seed import derived_seed

_WORKER_BYTES = 150e6
"""Least memory of a worker process, which imports torch; the data and its network come on top."""
_MOST_THREADS = 64
"""Threads that any machine bears, however few its cores."""


def build_run(
    config: OptimizeConfig,
    *,
    out: Path,
    model: nn.Module | None = None,
    data: Any = None,
    observers: Sequence[RunObserver] = (),
    callbacks: Sequence[CallbackFactory] = (),
) -> RunSpec:
    """Return everything that a run in the folder `out` needs. Writes nothing.

    `model` and `data` are those given from Python. What a run in `out` has recorded (cost models, threads, workers)
    is taken from there. Raises `UserError` for everything that the config, a file or a budget rules out.
    """
    check_machine(config)
    following = make_observers(config.log, own=observers)
    device = choose_device(config.device)
    images = load_data(config.data, seed=config.seed, given=data)
    network = fitting_network(config, images.facts, device=device, given=model, images=some_images(images))
    check_outputs(config)
    search = build_search(config, network, images.facts, presets=presets_of(config, recorded=read_costs(out).models))
    search.preview()  # raises what a plan or a budget rules out
    execution = choose_execution(
        network,
        device=device,
        batch_size=config.training.batch_size,
        precision=config.training.precision,
        threads=config.threads,
        workers=config.side_by_side,
        recorded=read_execution_plan(out),
    )
    environment = describe_environment(
        network,
        data_fingerprint=images.fingerprint,
        device=device,
        execution=execution,
        callbacks=describe_callbacks(callbacks),
    )
    return RunSpec(
        search=search,
        data=images,
        recipe=recipe_of(config),
        distillation=Distillation(temperature=config.distill.temperature, weight=config.distill.weight),
        logits_cache_bytes=config.distill.remember_gb * 1e9,
        checkpoint_seconds=config.training.checkpoint_seconds,
        seed=config.seed,
        device=device,
        execution=execution,
        observers=following,
        callbacks=tuple(callbacks),
        title=title_of(config),
        overlay=overlay_of(config),
        identity=RunIdentity(
            config_yaml=dump_config(config),
            differing_keys=lambda path: differing_keys_of_run(path, config),
            environment=environment,
        ),
        model=model,
    )


def build_search(
    config: OptimizeConfig, network: Network, facts: DataFacts, *, presets: tuple[Preset, ...]
) -> SearchSpec:
    """Return which networks are sought for data of these sizes, and how long they are trained."""
    method, options = method_of(config)
    budget = budget_of(config, network, facts)
    objective = objective_of(config)
    context = SearchContext(
        budget=budget,
        val_images=facts.val_images,
        objective=objective,
        limits=Limits(max_relus=config.max_relus, max_cost=config.max_cost, objective=objective),
        estimator=cost_estimator(presets),
        objective_estimator=cost_estimator([preset for preset in presets if preset.name == objective.preset]),
        earlier=earlier_networks,
    )
    return SearchSpec(
        network=network,
        method=method,
        options=options,
        context=context,
        budget=budget,
        presets=presets,
        teacher_epochs=teacher_epochs(config),
    )


def method_of(config: OptimizeConfig) -> tuple[Method[Any], MethodOptions]:
    """Return the method that the config names, or the default one, with its options.

    The options `gain` and `networks` of method `levers` are those of section `cost` where it is the default. Raises
    `ConfigError` where a method of the same option is named and `cost` gives the option another value.
    """
    options, cost = config.method, config.cost
    moved = {key: getattr(cost, key) for key in ("gain", "networks")}
    method = method_named(options.name or default_method(recipe=config.recipe, objective=cost.objective))
    if options.name is None and method.name == "levers":
        return method, method.Options.model_validate(options.model_dump() | moved)
    usual = type(cost)()
    given = [k for k, v in moved.items() if v != getattr(usual, k) and v != getattr(options, k, v)]
    if given:
        raise ConfigError(
            f"cost.{given[0]} and method.{given[0]} differ; with method {method.name} give the latter alone"
        )
    return method, options


def budget_of(config: OptimizeConfig, network: Network, facts: DataFacts) -> Budget:
    """Return how long students are trained, and from which weights."""
    epochs, batch_size, fast = config.training.epochs, config.training.batch_size, config.fast
    if config.recipe != "fast":
        return (FullBudget if config.recipe == "paper" else WarmFullBudget)(
            compute=network.compute_cost,
            facts=facts,
            epochs=epochs,
            batch_size=batch_size,
            student_batch_size=batch_size,
            schedule_epochs=epochs,
        )
    return SharedBudget(
        compute=network.compute_cost,
        facts=facts,
        epochs=epochs,
        batch_size=batch_size,
        student_batch_size=max(round(fast.batch * batch_size), 1),
        schedule_epochs=min(fast.views, epochs),
        price=fast.price,
        probe_share=fast.probe_share,
        anneal_share=fast.ease,
    )


def recipe_of(config: OptimizeConfig) -> Recipe:
    """Return the full recipe."""
    training = config.training
    return Recipe(
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        warmup_epochs=training.warmup_epochs,
        label_smoothing=training.label_smoothing,
        clip_norm=training.clip_norm,
        validate_every=training.validate_every,
    )


def teacher_epochs(config: OptimizeConfig) -> int:
    """Return the epochs of the teacher: the full recipe's unless the config says otherwise."""
    training = config.training
    return training.epochs if training.teacher_epochs is None else training.teacher_epochs


def model_seed(config: OptimizeConfig) -> int:
    """Return the seed that initialises the original network."""
    return derived_seed(config.seed, "model") % 2**31


def objective_of(config: OptimizeConfig) -> Objective:
    """Return the cost of a run's frontier."""
    cost = config.cost
    return objective_named(cost.objective, cost.preset if objective_class(cost.objective).needs_preset else None)


def presets_of(config: OptimizeConfig, *, recorded: Mapping[str, CostModel] | None = None) -> tuple[Preset, ...]:
    """Return the presets under which a run estimates costs, the objective's first.

    `recorded` are the cost models with which the run began: a resumed run uses these though the user has calibrated
    again since. Raises `UserError` for an unknown name.
    """
    objective = objective_of(config)
    names = dict.fromkeys([*([objective.preset] if objective.preset else []), *config.cost.presets])
    return tuple(preset_named(name, models=recorded or {}) for name in names)


def fitting_network(
    config: OptimizeConfig,
    facts: DataFacts,
    *,
    device: torch.device,
    given: nn.Module | None,
    images: torch.Tensor | None = None,
) -> Network:
    """Return the original network for data of these sizes. Raises `UserError` where no batch can be trained.

    `images` (batch, C, H, W) are some of the data, on which the traced network is compared with the module.
    """
    batch_size = config.training.batch_size
    facts.check_batch_size(batch_size, name=config.data.name)
    return original_network(
        config.model,
        facts,
        seed=model_seed(config),
        given=given,
        images=images,
        check=lambda network: check_batch_fits(network, batch_size=batch_size, device=device),
    )


def check_machine(config: OptimizeConfig) -> None:
    """Raise `ConfigError` for more threads or worker processes than this machine bears."""
    # beyond what the system allows, OpenMP ends the process
    cores = os.cpu_count() or 1
    most = max(4 * cores, _MOST_THREADS)
    if config.threads is not None and config.threads > most:
        raise ConfigError(f"threads is {config.threads:,}; this machine has {cores} cores, so give at most {most:,}")
    check_memory(
        _WORKER_BYTES * (config.side_by_side or 1),
        f"training {config.side_by_side} students in parallel",
        repair="lower side_by_side",
        error=ConfigError,
    )


def check_outputs(config: OptimizeConfig) -> None:
    """Raise `UserError` for an unknown observer, and for published points that can't be read."""
    make_observers(config.log)
    overlay = overlay_of(config)
    if overlay is not None:
        overlay.points()


def title_of(config: OptimizeConfig) -> str:
    """Return the title of a run's plots."""
    return config.plot.title or run_title(config.model.name.removeprefix(FROM_PYTHON), config.data.name)


def run_title(model: str, data: str) -> str:
    """Return the default title of a run's plots."""
    short = data.partition(":")[2].rsplit("/", 1)[-1] or data
    return f"{model} on {short}"


def overlay_of(config: OptimizeConfig) -> Overlay | None:
    """Return the published points that the config wants drawn."""
    plot = config.plot
    if plot.published is None:
        return None
    return Overlay(path=Path(plot.published), dataset=plot.published_dataset, backbone=plot.published_backbone)
