"""The main job, from a config to a frontier: teacher, criticality, candidates, tables and plots."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from deepreduce.arrangement import Arrangement
from deepreduce.config import OptimizeConfig
from deepreduce.crew import Crew, CrewError
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
from deepreduce.jobs import Job, Outcome, SharedJob, Start, Workshop
from deepreduce.loggers import LoggedNetwork, RunLoggers, check_installed, open_loggers
from deepreduce.methods import Proposal
from deepreduce.methods.budget import beaten, turns_for
from deepreduce.methods.deepreduce import measured_cull_order
from deepreduce.network import Network
from deepreduce.outputs import overlay_of, published_points, run_title, title_of, write_plots, write_tables
from deepreduce.plan import TEACHER_ID, Candidate, ReductionPlan
from deepreduce.progress import NoWatcher, Watcher
from deepreduce.randomness import derived_seed
from deepreduce.results import ReducedNetwork, Result
from deepreduce.runs import ANSWERS, CRITICALITY, RunFolder, recorded_arrangement
from deepreduce.schedule import Family, Schedule, SharedBudget, TrainingCosts, own_epochs
from deepreduce.storage import write_json
from deepreduce.training import (
    Distillation,
    EpochRecord,
    Lesson,
    Monitor,
    Recipe,
    Stopped,
    Views,
)
from deepreduce.transforms import can_inherit
from deepreduce.wiring import (
    chosen_arrangement,
    model_seed,
    remembered_logits,
    resolve_config,
    run_recipe,
    run_schedule,
    student_batch_size,
    teacher_epochs,
    training_recipe,
    using_threads,
)

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

TEACHER_FOLDER = "teacher"

_STATISTICS_BATCHES = 20
"""Batches that give a network its batch-norm statistics after a short training."""

_ROUNDS = 4
"""Turns of the network that is drafted for the fewest epochs, before all turns begin again."""


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
    arrangement = chosen_arrangement(config, original, device, before=recorded_arrangement(out))
    with using_threads(arrangement.threads):
        environment = _environment(original, images.fingerprint, device, arrangement)
        with (
            RunFolder.open(out, config, environment) as folder,
            StopRequest() as stop,
            _log_file(folder),
            open_loggers(config.log, folder.path) as loggers,
        ):
            log.info("run in %s, with %s", folder.path, arrangement.told())
            for note in schedule.notes:
                log.warning("%s", note)
            workshop = Workshop(
                original=original,
                data=images,
                precision=arrangement.precision,
                device=device,
                distillation=Distillation(temperature=config.distill.temperature, weight=config.distill.weight),
                checkpoint_seconds=config.training.checkpoint_seconds,
                stop=stop,
            )
            conductor = _Conductor(
                config, folder, workshop, schedule, watcher or NoWatcher(), loggers, model,
                arrangement=arrangement,
            )  # fmt: skip
            try:
                return conductor.conduct()
            except Stopped:
                raise RunInterrupted(f"stopped; all is saved in {folder.path}", folder=folder.path) from None
            finally:
                conductor.watcher.close()


class _Conductor:
    """Runs the networks of a schedule, and tells the watcher."""

    def __init__(
        self,
        config: OptimizeConfig,
        folder: RunFolder,
        workshop: Workshop,
        schedule: Schedule,
        watcher: Watcher,
        loggers: RunLoggers,
        model: nn.Module | None,
        *,
        arrangement: Arrangement,
    ) -> None:
        self.config, self.folder, self.workshop, self.schedule = config, folder, workshop, schedule
        self.watcher, self.loggers, self.model = watcher, loggers, model
        self.arrangement = arrangement
        self.original, self.recipe = workshop.original, run_recipe(config)
        self.started = 0
        self.candidates: dict[str, Candidate] = {}

    def conduct(self) -> Result:
        self._train_teacher()
        criticality = self._settle_cull_order()
        if isinstance(self.recipe, SharedBudget):
            accuracies = self._draft()
            self._finish_drafts(self.recipe, accuracies)
        else:
            jobs = {p: self._student(p, "candidates", epochs=self.recipe.epochs) for p in self.schedule.candidates}
            self._train_candidates(jobs)
        self._finish()
        networks = [
            ReducedNetwork(candidate=c, folder=self.folder.path / c.folder, original=self.model)
            for c in self._in_order()
        ]
        return Result(
            folder=self.folder.path, teacher=networks[0], candidates=tuple(networks[1:]), criticality=criticality
        )

    # -- teacher, probes ------------------------------------------------------------------------------------

    def _train_teacher(self) -> None:
        epochs = teacher_epochs(self.config.training)
        job = Job(
            name=TEACHER_ID,
            plan=ReductionPlan(),
            folder=self.folder.entry(TEACHER_FOLDER),
            recipe=training_recipe(self.config.training, epochs=epochs),
            seed=derived_seed(self.config.seed, TEACHER_ID),
        )
        self._begin(job.name, self.schedule.teacher_work)
        outcome = self._train_here(job)
        if outcome.failure is not None:
            raise RunError(f"the teacher could not be trained: {outcome.failure}; lower training.learning_rate")
        self.teacher_start = Start(folder=job.folder, plan=job.plan)
        self.candidates[TEACHER_ID] = Candidate(
            plan_id=TEACHER_ID,
            plan=ReductionPlan(),
            label="full network",
            relu_count=self.original.relu_count,
            folder=TEACHER_FOLDER,
            measurement=outcome.measurement(),
        )
        self._teach(self.workshop.load(job))

    def _teach(self, teacher: Network) -> None:
        """Let all trainings from here on learn from the teacher."""
        shop = self.workshop
        test = shop.predict_test(teacher.module)
        epochs = self.recipe.views if isinstance(self.recipe, SharedBudget) else round(self.recipe.epochs)
        lesson = Lesson(
            teacher.module.requires_grad_(False).to(memory_format=shop.precision.memory_format),
            precision=shop.precision,
            remembered=remembered_logits(self.folder.path / ANSWERS, shop.data, self.config, epochs=epochs),
        )
        views = Views(seed=derived_seed(self.config.seed, "views"), epochs=epochs)
        self.workshop = replace(shop, lesson=lesson, teacher_test=test, views=views)

    def _settle_cull_order(self) -> dict[str, float]:
        """Measure the criticality of the stages, where the order is not given, and schedule by it."""
        if not self.schedule.is_provisional:
            return {}
        accuracies = self._probe()
        method = self.config.method
        order, worth = measured_cull_order(
            self.original,
            lambda probe: accuracies[probe.stage],
            form=method.criticality_form,
            exponent=method.criticality_exponent,
        )
        if order:
            log.info("stages to cull, least critical first: %s", ", ".join(order))
        write_json(
            self.folder.path / CRITICALITY,
            {"cull_order": list(order), "criticality": worth, "val_accuracy": {s: accuracies[s] for s in worth}},
        )
        facts = self.workshop.data.facts
        self.schedule = run_schedule(self.original, facts, self.config, cull_order=order, measured=True)
        return worth

    def _probe(self) -> dict[str, float]:
        """The validation accuracy with ReLUs in one stage only, for every stage."""
        schedule = self.schedule
        stages = {p.proposal: p.stage for p in schedule.probes}
        works = dict(zip(stages, schedule.probe_works, strict=True))
        jobs = {p: self._student(p, "probes", epochs=work.epochs, test=False) for p, work in works.items()}
        outcomes = {p: outcome for p, _, outcome in self._train_all(jobs, works)}
        for proposal, outcome in outcomes.items():
            if outcome.val_accuracy is None:
                log.warning("%s could not be trained, so its stage counts as least critical", proposal.label)
        return {stage: outcomes[p].val_accuracy or 0.0 for p, stage in stages.items()}

    # -- networks that share weights ------------------------------------------------------------------------

    def _train_family(self, family: Family, work: Work, start: Start) -> dict[Proposal, Outcome]:
        jobs = {p: self._student(p, "drafts", epochs=0, test=False, start=start) for p in family.members}
        shared = SharedJob(
            name=family.name,
            jobs=tuple(jobs.values()),
            turns=tuple(turns_for(family.epochs, rounds=_ROUNDS)),
            folder=self.folder.entry("drafts", family.folder),
            recipe=self._student_recipe(sum(family.epochs)),
            seed=derived_seed(self.config.seed, family.name),
        )
        self._begin(shared.name, work)
        begun: list[Sequence[EpochRecord]] = []  # stays empty where all of them are done
        told_of = Monitor(on_start=begun.append, on_step=partial(self.watcher.step, shared.name))
        of = self.workshop.run_shared(shared, told_of)
        outcomes = {p: of[job.name] for p, job in jobs.items()}
        told = ", ".join(f"{p.label} {100 * (o.val_accuracy or 0):.1f} %" for p, o in outcomes.items())
        self.watcher.end(shared.name, result=f"val {told}", was_done=not begun)
        return outcomes

    def _draft(self) -> dict[Proposal, Outcome]:
        """Train all candidates for a while, those of one size together, and judge them."""
        outcomes: dict[Proposal, Outcome] = {}
        start = self.teacher_start
        for family, work in zip(self.schedule.families, self.schedule.draft_works, strict=True):
            # under a limit on ReLUs, the widest draft may lack ReLUs or resolution that smaller networks have
            able = all(can_inherit(p.plan, start.plan) for p in family.members)
            outcomes |= self._train_family(family, work, start if able else self.teacher_start)
            if family is self.schedule.families[0]:
                start = self._widest_draft(family, outcomes) or start
        return outcomes

    def _widest_draft(self, family: Family, outcomes: Mapping[Proposal, Outcome]) -> Start | None:
        """The draft that narrower families inherit from: of all channels, and of most ReLUs."""
        able = [
            p for p in family.members if p.plan.alpha == 1 and p.plan.depth is None and outcomes[p].failure is None
        ]
        if not able:
            return None
        widest = max(able, key=lambda p: p.relu_count)
        return Start(folder=self.folder.entry("drafts", widest.plan_id), plan=widest.plan)

    def _finish_drafts(self, recipe: SharedBudget, drafts: Mapping[Proposal, Outcome]) -> None:
        """Drop the drafts that others beat, and train the others on their own."""
        by_id = {p.plan_id: p for p in drafts}
        accuracies = {p.plan_id: o.val_accuracy for p, o in drafts.items() if o.val_accuracy is not None}
        better = beaten({p.plan_id: p.relu_count for p in drafts}, accuracies, margin=recipe.margin)
        for proposal, outcome in drafts.items():
            name = proposal.plan_id
            if outcome.val_accuracy is None:
                self._keep(proposal, outcome, kind="drafts")
            elif name in better:
                winner = by_id[better[name]]
                reason = (
                    f"its draft has {100 * accuracies[name]:.2f} % validation accuracy, that of {winner.label}"
                    f" ({winner.relu_count:,} ReLUs) {100 * accuracies[winner.plan_id]:.2f} %"
                )
                log.info("%s is dropped: %s", proposal.label, reason)
                self._drop(proposal, reason)
        going_on = [p for p in drafts if p.plan_id in accuracies and p.plan_id not in better]
        epochs = own_epochs(recipe, self.schedule, self.original, self.workshop.data.facts, going_on)
        jobs = {
            p: self._student(
                p, "candidates", epochs=e, rate=self.config.fast.rate,
                start=Start(folder=self.folder.entry("drafts", p.plan_id), plan=p.plan),
            )
            for p, e in zip(going_on, epochs, strict=True)
        }  # fmt: skip
        self._train_candidates(jobs)

    # -- candidates -----------------------------------------------------------------------------------------

    def _student(
        self,
        proposal: Proposal,
        kind: str,
        *,
        epochs: float,
        rate: float = 1.0,
        start: Start | None = None,
        test: bool = True,
    ) -> Job:
        fast = isinstance(self.recipe, SharedBudget)
        return Job(
            name=proposal.label,
            plan=proposal.plan,
            folder=self.folder.entry(kind, proposal.plan_id),
            recipe=self._student_recipe(epochs, rate),
            seed=derived_seed(self.config.seed, proposal.plan_id),
            start=(start or self.teacher_start) if fast else None,
            statistics_batches=_STATISTICS_BATCHES if fast else 0,
            test=test,
        )

    def _student_recipe(self, epochs: float, rate: float = 1.0) -> Recipe:
        batch_size = student_batch_size(self.config)
        return training_recipe(self.config.training, epochs=epochs, rate=rate, batch_size=batch_size)

    def _train_candidates(self, jobs: Mapping[Proposal, Job]) -> None:
        costs = TrainingCosts(network=self.original, facts=self.workshop.data.facts)
        works = {p: costs.work(p.padded_macs, job.recipe.epochs, tested=True) for p, job in jobs.items()}
        for proposal, _, outcome in self._train_all(jobs, works):
            self._keep(proposal, outcome)
            write_tables(self.folder.path, self._in_order(), stages=self.original.stages, complete=False)

    def _keep(self, proposal: Proposal, outcome: Outcome, *, kind: str = "candidates") -> None:
        self.candidates[proposal.plan_id] = Candidate(
            plan_id=proposal.plan_id,
            plan=proposal.plan,
            label=proposal.label,
            relu_count=proposal.relu_count,
            folder=f"{kind}/{proposal.plan_id}",
            measurement=outcome.measurement(),
            failure=outcome.failure,
        )

    def _drop(self, proposal: Proposal, reason: str) -> None:
        self.candidates[proposal.plan_id] = Candidate(
            plan_id=proposal.plan_id,
            plan=proposal.plan,
            label=proposal.label,
            relu_count=proposal.relu_count,
            folder=f"drafts/{proposal.plan_id}",
            failure=reason,
            is_dropped=True,
        )

    def _in_order(self) -> list[Candidate]:
        """The teacher, then the candidates that are done, most ReLUs first."""
        order = [TEACHER_ID, *(p.plan_id for p in self.schedule.candidates)]
        return [self.candidates[name] for name in order if name in self.candidates]

    # -- training -------------------------------------------------------------------------------------------

    def _train_all(self, jobs: Mapping[K, Job], works: Mapping[K, Work]) -> Iterator[tuple[K, Job, Outcome]]:
        """Every job with its outcome as it ends, several side by side where that is faster."""
        keys = {job.folder.path: key for key, job in jobs.items()}
        todo = []
        for key, job in jobs.items():
            done = self.workshop.finished(job)
            if done is None:
                todo.append(job)
                continue
            self._begin(job.name, works[key])
            self._log_begin(job, _history(job))
            self._end(job, done, was_done=True)
            yield key, job, done
        for job, outcome in self._trained_beside(
            todo, {job.folder.path: works[keys[job.folder.path]] for job in todo}
        ):
            yield keys[job.folder.path], job, outcome

    def _trained_beside(self, todo: Sequence[Job], works: Mapping[Path, Work]) -> Iterator[tuple[Job, Outcome]]:
        """Every job with its outcome: side by side where that is faster and possible, else one after the other."""
        size = min(self.arrangement.side_by_side, len(todo))
        left = list(todo)
        if size > 1:
            try:
                with Crew(self.workshop, size=size, scratch=self.folder.path) as crew:
                    for job, outcome in crew.run(todo, lambda job: self._told_from_afar(job, works[job.folder.path])):
                        left.remove(job)
                        self._log_begin(job, _history(job))
                        self._end(job, outcome)
                        yield job, outcome
            except CrewError as error:
                log.warning("networks are trained one after the other: %s", error)
        with using_threads(self.arrangement.student_threads):
            for job in left:
                self._begin(job.name, works[job.folder.path])
                yield job, self._train_here(job)

    def _train_here(self, job: Job) -> Outcome:
        finished = self.workshop.finished(job)
        if finished is not None:
            self._log_begin(job, _history(job))
        told = Monitor(
            on_start=partial(self._log_begin, job),
            on_step=partial(self.watcher.step, job.name),
            on_epoch=self.loggers.epoch,
        )
        outcome = finished or self.workshop.run(job, told)
        self._end(job, outcome, was_done=finished is not None)
        return outcome

    def _told_from_afar(self, job: Job, work: Work) -> Monitor:
        """Loggers take one network at a time, so they are told of this one when it is done."""
        self._begin(job.name, work)
        return Monitor(on_step=partial(self.watcher.step, job.name))

    def _begin(self, name: str, work: Work) -> None:
        if self.workshop.stop():
            raise Stopped
        self.started += 1
        schedule = self.schedule
        count = 1 + len(schedule.probe_works) + len(schedule.families) + len(schedule.candidates)
        self.watcher.begin(name, number=self.started, count=count, work=work.total, total=schedule.total_work)

    def _end(self, job: Job, outcome: Outcome, *, was_done: bool = False) -> None:
        self.loggers.end(outcome)
        self.watcher.end(job.name, result=outcome.told(), was_done=was_done)

    def _log_begin(self, job: Job, epochs: Sequence[EpochRecord]) -> None:
        folder = job.folder.path.relative_to(self.folder.path).as_posix()
        plan_id = TEACHER_ID if folder == TEACHER_FOLDER else job.plan.plan_id
        self.loggers.begin(LoggedNetwork(label=job.name, plan_id=plan_id, folder=folder), epochs)

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        candidates = self._in_order()
        if all(c.measurement is None for c in candidates if not c.is_teacher):
            reasons = "; ".join(sorted({c.failure or "" for c in candidates if c.failure and not c.is_dropped}))
            raise RunError(f"no network could be trained: {reasons}; lower training.learning_rate")
        path = self.folder.path
        write_tables(path, candidates, stages=self.original.stages, complete=True)
        write_plots(path, title=title_of(self.config), overlay=overlay_of(self.config))
        self.loggers.finish(candidates)
        (path / ANSWERS).unlink(missing_ok=True)


def _history(job: Job) -> tuple[EpochRecord, ...]:
    """The epochs of a network that is done, none where their file can't be read: no result depends on it."""
    try:
        return job.folder.history()
    except CheckpointError as error:
        log.warning("%s", error)
        return ()


# -- surroundings -------------------------------------------------------------------------------------------


def _environment(
    original: Network, data_fingerprint: str, device: torch.device, arrangement: Arrangement
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
