"""One run from its first network to its last: the teacher, criticality, drafts, candidates, in that order."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from deepreduce.arrangement import Arrangement
from deepreduce.config import OptimizeConfig
from deepreduce.crew import Crew, CrewError
from deepreduce.errors import CheckpointError, RunError
from deepreduce.estimate import Work
from deepreduce.jobs import Job, Outcome, SharedJob, Start, Workshop
from deepreduce.loggers import LoggedNetwork, RunLoggers
from deepreduce.methods import Proposal
from deepreduce.methods.budget import beaten, turns_for
from deepreduce.methods.deepreduce import measured_cull_order
from deepreduce.methods.levers import stage_costs
from deepreduce.network import Network, without_weights
from deepreduce.outputs import objective_of, overlay_of, title_of, write_plots, write_tables
from deepreduce.plan import TEACHER_ID, Candidate, ReductionPlan
from deepreduce.pricing import Preset
from deepreduce.progress import Watcher
from deepreduce.randomness import derived_seed
from deepreduce.results import ReducedNetwork, Result
from deepreduce.runs import ANSWERS, CRITICALITY, RunCosts, RunFolder
from deepreduce.schedule import Family, Schedule, SharedBudget, TrainingCosts, own_epochs
from deepreduce.storage import write_json
from deepreduce.training import EpochRecord, Lesson, Monitor, Recipe, Stopped, Views
from deepreduce.transforms import can_inherit
from deepreduce.wiring import (
    pricing_under,
    remembered_logits,
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


class Conductor:
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
        presets: Sequence[Preset] = (),
    ) -> None:
        self.config, self.folder, self.workshop, self.schedule = config, folder, workshop, schedule
        self.watcher, self.loggers, self.model = watcher, loggers, model
        self.arrangement, self.presets = arrangement, presets
        self.price, self.objective = pricing_under(presets), objective_of(config)
        self.original, self.recipe = workshop.original, run_recipe(config)
        self.started = 0
        self.candidates: dict[str, Candidate] = {}

    def conduct(self) -> Result:
        self._train_teacher()
        criticality = self._settle_cull_order()
        self._record_costs()
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
            folder=self.folder.path,
            teacher=networks[0],
            candidates=tuple(networks[1:]),
            criticality=criticality,
            objective=self.objective,
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
            prices=self.price(self.original),
        )
        self._teach(self.workshop.load(job))

    def _teach(self, teacher: Network) -> None:
        """Let all trainings from here on learn from the teacher."""
        shop = self.workshop
        test = shop.teacher_test or shop.predict_test(teacher.module)  # known where it was trained just now
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
            costs=stage_costs(without_weights(self.original), self.objective, self.price),
        )
        if order:
            log.info("stages to cull, least critical first: %s", ", ".join(order))
        write_json(
            self.folder.path / CRITICALITY,
            {"cull_order": list(order), "criticality": worth, "val_accuracy": {s: accuracies[s] for s in worth}},
        )
        facts = self.workshop.data.facts
        self.schedule = run_schedule(
            self.original, facts, self.config, cull_order=order, measured=True, presets=self.presets
        )
        return worth

    def _record_costs(self) -> None:
        if self.presets:
            prices = {p.plan_id: p.prices for p in self.schedule.candidates}
            prices[TEACHER_ID] = self.candidates[TEACHER_ID].prices
            RunCosts(models={p.model.name: p.model for p in self.presets}, prices=prices).write(self.folder.path)

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
        by_id, cost = {p.plan_id: p for p in drafts}, self.objective.cost
        accuracies = {p.plan_id: o.val_accuracy for p, o in drafts.items() if o.val_accuracy is not None}
        better = beaten({p.plan_id: cost(p) for p in drafts}, accuracies, margin=recipe.margin)
        for proposal, outcome in drafts.items():
            name = proposal.plan_id
            if outcome.val_accuracy is None:
                self._keep(proposal, "drafts", failure=outcome.failure)
            elif name in better:
                winner = by_id[better[name]]
                reason = (
                    f"its draft has {100 * accuracies[name]:.2f} % validation accuracy, that of {winner.label}"
                    f" ({self.objective.text(cost(winner))}) {100 * accuracies[winner.plan_id]:.2f} %"
                )
                log.info("%s is dropped: %s", proposal.label, reason)
                self._keep(proposal, "drafts", failure=reason, is_dropped=True)
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
            self._keep(proposal, "candidates", measurement=outcome.measurement(), failure=outcome.failure)
            write_tables(self.folder.path, self._in_order(), stages=self.original.stages, complete=False)

    def _keep(self, proposal: Proposal, kind: str, **became: Any) -> None:
        """Take a network among the candidates; `became` is what `Candidate` says of its fate."""
        self.candidates[proposal.plan_id] = Candidate(
            plan_id=proposal.plan_id,
            plan=proposal.plan,
            label=proposal.label,
            relu_count=proposal.relu_count,
            folder=f"{kind}/{proposal.plan_id}",
            prices=proposal.prices,
            **became,
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
        write_tables(path, candidates, stages=self.original.stages, complete=True, objective=self.objective)
        write_plots(path, title=title_of(self.config), overlay=overlay_of(self.config), objective=self.objective)
        self.loggers.finish(candidates, self.objective)
        (path / ANSWERS).unlink(missing_ok=True)


def _history(job: Job) -> tuple[EpochRecord, ...]:
    """The epochs of a network that is done, none where their file can't be read: no result depends on it."""
    try:
        return job.folder.history()
    except CheckpointError as error:
        log.warning("%s", error)
        return ()
