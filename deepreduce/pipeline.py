"""The main job, from a config to a frontier: teacher, criticality, candidates, tables and plots."""

from __future__ import annotations

import copy
import logging
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepreduce.config import OptimizeConfig
from deepreduce.errors import CheckpointError, RunError, RunInterrupted
from deepreduce.estimate import Work
from deepreduce.inputs import (
    choose_device,
    fingerprint,
    load_data,
    original_network,
    versions,
)
from deepreduce.interrupt import StopRequest
from deepreduce.jobs import Job, Outcome, Workshop
from deepreduce.loggers import LoggedNetwork, RunLoggers, check_installed, open_loggers
from deepreduce.methods import Probe, Proposal
from deepreduce.methods.deepreduce import measured_cull_order
from deepreduce.network import Network
from deepreduce.outputs import overlay_of, published_points, run_title, title_of, write_plots, write_tables
from deepreduce.plan import TEACHER_ID, Candidate, ReductionPlan
from deepreduce.progress import NoWatcher, Watcher
from deepreduce.randomness import derived_seed
from deepreduce.results import ReducedNetwork, Result
from deepreduce.runs import CRITICALITY, RunFolder, recorded_threads
from deepreduce.schedule import Schedule
from deepreduce.storage import write_json
from deepreduce.training import Distillation, EpochRecord, Monitor, Precision, Recipe, Stopped, choose_precision
from deepreduce.transforms import apply_plan
from deepreduce.wiring import (
    model_seed,
    resolve_config,
    run_schedule,
    teacher_epochs,
    thread_count,
    training_recipe,
    using_threads,
)

log = logging.getLogger(__name__)

TEACHER_FOLDER = "teacher"


def optimize(
    model: str | nn.Module | Mapping[str, Any] | None = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    config: str | Path | OptimizeConfig | None = None,
    settings: Sequence[str] = (),
    max_relus: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    watcher: Watcher | None = None,
    **values: Any,
) -> Result:
    """Train, cull, thin, reshape and distill: the ReLU/accuracy frontier of a network (DeepReDuce, ICML 2021).

    `model` is a name (see `deepreduce models`) or an `nn.Module` that gives (batch, classes) logits; `data` a name,
    two torch data sets, four tensors, or an `ImageData`; either may be its section of the config. `config` is a YAML
    file or an `OptimizeConfig`; keyword arguments are its keys (`training={"epochs": 2}`), `settings` dotted ones
    (`["training.epochs=2"]`). `out` is the run's folder, by default a new one under runs/; the same call again with
    the same folder goes on where it stopped.

    Raises `UserError` for the caller's mistakes, `RunError` where the run itself fails and `RunInterrupted` when a
    signal asked it to stop; everything is saved then.
    """
    given = {"max_relus": max_relus, "seed": seed, "device": device}
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
        watcher=watcher,
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
    watcher: Watcher | None = None,
) -> Result:
    """`optimize` with a resolved config; `model` and `data` are those given from Python."""
    check_installed(config.log)
    device = choose_device(config.device)
    images = load_data(config.data, seed=config.seed, given=data)
    images.check_batch_size(config.training.batch_size)
    original = original_network(config.model, images.facts, seed=model_seed(config), given=model)
    # what a plan, a budget or a file forbids is found before anything is written
    published_points(overlay_of(config))
    schedule = run_schedule(original, images.facts, config, cull_order=config.method.cull_order)
    precision = choose_precision(config.training.precision, original, device=device)
    # a run goes on with the threads it began with, or says that it is asked for others
    threads = config.threads or recorded_threads(out) or thread_count(config, original, precision, device)
    with using_threads(threads):
        environment = _environment(original, images.fingerprint, device, precision)
        with (
            RunFolder.open(out, config, environment) as folder,
            StopRequest() as stop,
            _log_file(folder),
            open_loggers(config.log, folder.path) as loggers,
        ):
            log.info("run in %s", folder.path)
            for note in schedule.notes:
                log.warning("%s", note)
            workshop = Workshop(
                original=original,
                data=images,
                precision=precision,
                device=device,
                distillation=Distillation(temperature=config.distill.temperature, weight=config.distill.weight),
                checkpoint_seconds=config.training.checkpoint_seconds,
                stop=stop,
            )
            conductor = _Conductor(config, folder, workshop, schedule, watcher or NoWatcher(), loggers, model)
            try:
                return conductor.conduct()
            except Stopped:
                raise RunInterrupted(f"stopped; all is saved in {folder.path}", folder=folder.path) from None
            finally:
                conductor.watcher.close()


class _Conductor:
    """Runs the networks of a schedule one after the other and tells the watcher."""

    def __init__(
        self,
        config: OptimizeConfig,
        folder: RunFolder,
        workshop: Workshop,
        schedule: Schedule,
        watcher: Watcher,
        loggers: RunLoggers,
        model: nn.Module | None,
    ) -> None:
        self.config, self.folder, self.workshop, self.schedule = config, folder, workshop, schedule
        self.watcher, self.loggers, self.model = watcher, loggers, model
        self.original = workshop.original
        self.number = 0

    def conduct(self) -> Result:
        teacher = self._train_teacher()
        criticality = self._settle_cull_order()
        candidates = [teacher]
        for proposal, work in zip(self.schedule.candidates, self.schedule.candidate_works, strict=True):
            candidates.append(self._train_candidate(proposal, work))
            write_tables(self.folder.path, candidates, stages=self.original.stages, complete=False)
        self._finish(candidates)
        networks = [
            ReducedNetwork(candidate=c, folder=self.folder.path / c.folder, original=self.model) for c in candidates
        ]
        return Result(
            folder=self.folder.path, teacher=networks[0], candidates=tuple(networks[1:]), criticality=criticality
        )

    # -- teacher, probes, candidates ------------------------------------------------------------------------

    def _train_teacher(self) -> Candidate:
        epochs = teacher_epochs(self.config.training)
        job = Job(
            name=TEACHER_ID,
            plan=ReductionPlan(),
            folder=self.folder.entry(TEACHER_FOLDER),
            build=lambda: apply_plan(self.original, ReductionPlan()),
            recipe=training_recipe(self.config.training, epochs=epochs),
            seed=derived_seed(self.config.seed, TEACHER_ID),
        )
        outcome = self._run(job, self.schedule.teacher_work)
        if outcome.failure is not None:
            raise RunError(f"the teacher could not be trained: {outcome.failure}; lower training.learning_rate")
        self.teacher = self.workshop.load(job)
        lesson = copy.deepcopy(self.teacher.module).requires_grad_(False)
        self.workshop.teacher = lesson.to(memory_format=self.workshop.precision.memory_format)
        return Candidate(
            plan_id=TEACHER_ID,
            plan=ReductionPlan(),
            label="full network",
            relu_count=self.original.relu_count,
            folder=TEACHER_FOLDER,
            measurement=outcome.measurement(),
        )

    def _settle_cull_order(self) -> dict[str, float]:
        """Measure the criticality of the stages, where the order is not given, and schedule by it."""
        if not self.schedule.is_provisional:
            return {}
        works = dict(zip((p.stage for p in self.schedule.probes), self.schedule.probe_works, strict=True))
        accuracies: dict[str, float] = {}

        def score(probe: Probe) -> float:
            accuracies[probe.stage] = self._probe(probe, works[probe.stage])
            return accuracies[probe.stage]

        method = self.config.method
        order, worth = measured_cull_order(
            self.original, score, form=method.criticality_form, exponent=method.criticality_exponent
        )
        if order:
            log.info("stages to cull, least critical first: %s", ", ".join(order))
        write_json(
            self.folder.path / CRITICALITY,
            {"cull_order": list(order), "criticality": worth, "val_accuracy": accuracies},
        )
        facts = self.workshop.data.facts
        self.schedule = run_schedule(self.original, facts, self.config, cull_order=order, measured=True)
        return worth

    def _probe(self, probe: Probe, work: Work) -> float:
        proposal = probe.proposal
        recipe = training_recipe(self.config.training, epochs=self.config.method.probe_epochs)
        outcome = self._run(self._student(proposal, "probes", recipe, test=False), work)
        if outcome.val_accuracy is None:
            log.warning("%s could not be trained, so its stage counts as least critical", proposal.label)
            return 0.0
        return outcome.val_accuracy

    def _train_candidate(self, proposal: Proposal, work: Work) -> Candidate:
        recipe = training_recipe(self.config.training, epochs=self.config.training.epochs)
        outcome = self._run(self._student(proposal, "candidates", recipe, test=True), work)
        return Candidate(
            plan_id=proposal.plan_id,
            plan=proposal.plan,
            label=proposal.label,
            relu_count=proposal.relu_count,
            folder=f"candidates/{proposal.plan_id}",
            measurement=outcome.measurement(),
            failure=outcome.failure,
        )

    def _student(self, proposal: Proposal, kind: str, recipe: Recipe, *, test: bool) -> Job:
        source = self.teacher if self.config.training.init == "teacher" else self.original
        seed = derived_seed(self.config.seed, proposal.plan_id)
        return Job(
            name=proposal.label,
            plan=proposal.plan,
            folder=self.folder.entry(kind, proposal.plan_id),
            build=partial(apply_plan, source, proposal.plan, seed=seed % 2**31),
            recipe=recipe,
            seed=seed,
            test=test,
        )

    def _run(self, job: Job, work: Work) -> Outcome:
        if self.workshop.stop():
            raise Stopped
        self.number += 1
        count = 1 + len(self.schedule.probes) + len(self.schedule.candidates)
        total = self.schedule.total_work
        self.watcher.begin(job.name, number=self.number, count=count, work=work.total, total=total)
        finished = self.workshop.finished(job)
        if finished is not None:
            self._log_begin(job, _history(job))
        told = Monitor(on_start=partial(self._log_begin, job), on_step=self.watcher.step, on_epoch=self.loggers.epoch)
        outcome = finished or self.workshop.run(job, told)
        self.loggers.end(outcome)
        self.watcher.end(result=outcome.told(), was_done=finished is not None)
        return outcome

    def _log_begin(self, job: Job, epochs: Sequence[EpochRecord]) -> None:
        folder = job.folder.path.relative_to(self.folder.path).as_posix()
        plan_id = TEACHER_ID if folder == TEACHER_FOLDER else job.plan.plan_id
        self.loggers.begin(LoggedNetwork(label=job.name, plan_id=plan_id, folder=folder), epochs)

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self, candidates: Sequence[Candidate]) -> None:
        if all(c.measurement is None for c in candidates if not c.is_teacher):
            reasons = "; ".join(sorted({c.failure or "" for c in candidates if c.failure}))
            raise RunError(f"no network could be trained: {reasons}; lower training.learning_rate")
        path = self.folder.path
        write_tables(path, candidates, stages=self.original.stages, complete=True)
        write_plots(path, title=title_of(self.config), overlay=overlay_of(self.config))
        self.loggers.finish(candidates)


def _history(job: Job) -> tuple[EpochRecord, ...]:
    """The epochs of a network that is done, none where their file can't be read: no result depends on it."""
    try:
        return job.folder.history()
    except CheckpointError as error:
        log.warning("%s", error)
        return ()


# -- surroundings -------------------------------------------------------------------------------------------


def _environment(
    original: Network, data_fingerprint: str, device: torch.device, precision: Precision
) -> dict[str, Any]:
    arithmetic = f"{'bf16' if precision.bf16 else 'fp32'}{' channels_last' if precision.channels_last else ''}"
    return {
        "versions": dict(versions()),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        # a run goes on only where these are the same: other values give other numbers
        "identity": {
            "model": fingerprint(original),
            "data": data_fingerprint,
            "device": device.type,
            "threads": torch.get_num_threads() if device.type == "cpu" else 0,
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
