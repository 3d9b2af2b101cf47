"""The main job, from a config to a frontier: teacher, criticality, candidates, tables and plots."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepreduce.config.build import (
    chosen_arrangement,
    model_seed,
    presets_of,
    resolve_config,
    run_schedule,
    using_threads,
)
from deepreduce.config.inputs import choose_device, fingerprint, load_data, original_network, versions
from deepreduce.config.schema import OptimizeConfig
from deepreduce.errors import RunInterrupted
from deepreduce.execution.trainer import CandidateTrainer
from deepreduce.network import Network
from deepreduce.observers import Observers, RunObserver, make_observers
from deepreduce.run.outputs import overlay_of, published_points, run_title
from deepreduce.run.result import Result
from deepreduce.run.runner import Runner
from deepreduce.run.stages import Conductor
from deepreduce.store.run_folder import RunFolder, read_costs, recorded_arrangement
from deepreduce.training import Distillation, Stopped
from deepreduce.training.autotune import ExecutionPlan
from deepreduce.utils.stop import StopRequest

log = logging.getLogger(__name__)


def optimize(
    model: str | nn.Module | Mapping[str, Any] | None = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    config: str | Path | OptimizeConfig | None = None,
    settings: Sequence[str] = (),
    max_relus: int | None = None,
    max_cost: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    observers: Sequence[RunObserver] = (),
    **values: Any,
) -> Result:
    """Train, cull, thin, reshape and distill: the ReLU/accuracy frontier of a network (DeepReDuce, ICML 2021).

    `model` is a name (see `deepreduce models`) or an `nn.Module` that gives (batch, classes) logits; `data` a name,
    two torch data sets, four tensors, or an `ImageData`; either may be its section of the config. `config` is a YAML
    file or an `OptimizeConfig`; keyword arguments are its keys (`training={"epochs": 2}`), `settings` dotted ones
    (`["training.epochs=2"]`). `out` is the run's folder, by default a new one under runs/; the same call again with
    the same folder goes on where it stopped. `observers` hear what the run does (`RunObserver`), before those that
    `log` names.

    Raises `UserError` for the caller's mistakes, `RunError` where the run itself fails and `RunInterrupted` when a
    signal asked it to stop; everything is saved then.
    """
    given = {"max_relus": max_relus, "max_cost": max_cost, "seed": seed, "device": device}
    if isinstance(model, Mapping):
        values, model = {**values, "model": model}, None
    if isinstance(data, Mapping) and "x_train" not in data:
        values, data = {**values, "data": data}, None
    chosen = resolve_config(
        model=model,
        data=data,
        config=config,
        settings=settings,
        values=_flattened(values) | {key: value for key, value in given.items() if value is not None},
    )
    return run(
        chosen,
        out=Path(out) if out is not None else new_run_folder(chosen),
        model=None if isinstance(model, str) else model,
        data=None if isinstance(data, str) else data,
        observers=observers,
    )


def _flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections as dotted keys, so that giving one key of a section leaves its others as the config has them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[key] = value
    return flat


def new_run_folder(config: OptimizeConfig) -> Path:
    """A folder under runs/ that is not there yet, named after model, data and time."""
    name = run_title(config.model.name.replace(":", "-"), config.data.name).replace(" on ", "-").replace("/", "-")
    stem = f"{name.removesuffix('.npz')}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}-{number}", number + 1
    return path


def run(
    config: OptimizeConfig,
    *,
    out: Path,
    model: nn.Module | None = None,
    data: Any = None,
    observers: Sequence[RunObserver] = (),
) -> Result:
    """`optimize` with a resolved config; `model` and `data` are those given from Python."""
    following = Observers([*observers, *make_observers(config.log)])
    device = choose_device(config.device)
    images = load_data(config.data, seed=config.seed, given=data)
    images.check_batch_size(config.training.batch_size)
    original = original_network(config.model, images.facts, seed=model_seed(config), given=model)
    # what a plan, a budget or a file forbids is found before anything is written
    published_points(overlay_of(config))
    presets = presets_of(config, recorded=read_costs(out).models)
    schedule = run_schedule(original, images.facts, config, cull_order=config.method.cull_order, presets=presets)
    arrangement = chosen_arrangement(config, original, device, before=recorded_arrangement(out))
    with using_threads(arrangement.threads):
        environment = _environment(original, images.fingerprint, device, arrangement)
        with (
            RunFolder.open(out, config, environment) as folder,
            StopRequest() as stop,
            _log_file(folder),
            following,
        ):
            following.run_started(folder.path)
            log.info("run in %s, with %s", folder.path, arrangement.told())
            for note in schedule.notes:
                log.warning("%s", note)
            workshop = CandidateTrainer(
                original=original,
                data=images,
                precision=arrangement.precision,
                device=device,
                distillation=Distillation(temperature=config.distill.temperature, weight=config.distill.weight),
                checkpoint_seconds=config.training.checkpoint_seconds,
                stop=stop,
            )
            foreman = Runner(workshop, arrangement=arrangement, observers=following, root=folder.path)
            try:
                with foreman:
                    return Conductor(config, folder, foreman, schedule, following, model, presets=presets).conduct()
            except Stopped:
                raise RunInterrupted(f"stopped; all is saved in {folder.path}", folder=folder.path) from None


# -- surroundings -------------------------------------------------------------------------------------------


def _environment(
    original: Network, data_fingerprint: str, device: torch.device, arrangement: ExecutionPlan
) -> dict[str, Any]:
    precision = arrangement.precision
    arithmetic = f"{'bf16' if precision.bf16 else 'fp32'}{' channels_last' if precision.channels_last else ''}"
    on_cpu = device.type == "cpu"
    return {
        "versions": dict(versions()),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "arrangement": asdict(arrangement),
        # a run goes on only where these are the same: other values give other numbers
        "identity": {
            "model": fingerprint(original),
            "data": data_fingerprint,
            "device": device.type,
            "threads": arrangement.threads if on_cpu else 0,
            "student_threads": arrangement.student_threads if on_cpu else 0,
            "precision": arithmetic,
        },
    }


class _RunLog(logging.FileHandler):
    """A log file that keeps silent when its disk is full: the run itself says so, in one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def _log_file(folder: RunFolder) -> Iterator[None]:
    """Everything that deepreduce logs, in the run's log.txt as well."""
    handler = _RunLog(folder.path / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("deepreduce")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
