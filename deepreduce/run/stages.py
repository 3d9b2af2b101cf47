"""One run from its first network to its last: the teacher, criticality, candidates, in that order."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from deepreduce.config.build import (
    limits_of,
    pricing_under,
    remembered_logits,
    run_recipe,
    run_schedule,
    teacher_epochs,
    training_recipe,
)
from deepreduce.config.schema import OptimizeConfig
from deepreduce.cost.preset import Preset
from deepreduce.errors import PlanError, RunError
from deepreduce.execution.trainer import SharedWeightsTask, TrainResult, TrainTask, WarmStart
from deepreduce.methods import Proposal
from deepreduce.methods.deepreduce import measured_cull_order
from deepreduce.methods.levers import stage_costs
from deepreduce.network import Network, without_weights
from deepreduce.observers import Observers
from deepreduce.plan import TEACHER_ID, Candidate, ReductionPlan
from deepreduce.run.outputs import objective_of, overlay_of, title_of, write_plots, write_tables
from deepreduce.run.result import ReducedNetwork, Result
from deepreduce.run.runner import TEACHER_FOLDER, Runner
from deepreduce.search.budget import SharedBudget, SharingGroup, TrainingCosts
from deepreduce.search.headroom import FrontierState, Incumbent, beaten, turns_for
from deepreduce.search.schedule import Schedule
from deepreduce.store.run_folder import ANSWERS, CRITICALITY, RunCosts, RunFolder
from deepreduce.training import AugmentationSchedule, Recipe, Teacher
from deepreduce.transforms import can_warm_start
from deepreduce.utils.files import write_json
from deepreduce.utils.seed import derived_seed

log = logging.getLogger(__name__)

_ROUNDS = 4
"""Turns of the network that is drafted for the fewest epochs, before all turns begin again."""


class Conductor:
    """Decides which networks are trained, in which order and for how long, and keeps what becomes of them."""

    def __init__(
        self,
        config: OptimizeConfig,
        folder: RunFolder,
        foreman: Runner,
        schedule: Schedule,
        observers: Observers,
        model: nn.Module | None,
        *,
        presets: Sequence[Preset] = (),
    ) -> None:
        self.config, self.folder, self.foreman, self.schedule = config, folder, foreman, schedule
        self.observers, self.model, self.presets = observers, model, presets
        self.price, self.objective = pricing_under(presets), objective_of(config)
        self.original, self.facts = foreman.workshop.original, foreman.workshop.data.facts
        self.recipe, self.limits = run_recipe(config), limits_of(config)
        self.costs = TrainingCosts(load=self.original.load, facts=self.facts, recipe=self.recipe)
        self.candidates: dict[str, Candidate] = {}

    def conduct(self) -> Result:
        self._announce()
        self._train_teacher()
        criticality = self._settle_cull_order()
        self._record_costs()
        self._train_alone(self.schedule.alone)
        if isinstance(self.recipe, SharedBudget):
            self._train_others(self.recipe)
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

    def _announce(self) -> None:
        """Tell how many networks will be trained, as far as is known."""
        self.foreman.count, self.foreman.total = self.schedule.count, self.schedule.total_work

    # -- teacher, probes ------------------------------------------------------------------------------------

    def _train_teacher(self) -> None:
        epochs = teacher_epochs(self.config.training)
        job = TrainTask(
            name=TEACHER_ID,
            plan=ReductionPlan(),
            folder=self.folder.entry(TEACHER_FOLDER),
            recipe=training_recipe(self.config.training, epochs=epochs),
            seed=derived_seed(self.config.seed, TEACHER_ID),
        )
        outcome = self.foreman.teacher(job, self.schedule.teacher_work.total)
        if outcome.failure is not None:
            raise RunError(f"the teacher could not be trained: {outcome.failure}; lower training.learning_rate")
        self.teacher_start = WarmStart(folder=job.folder, plan=job.plan)
        self.candidates[TEACHER_ID] = Candidate(
            plan_id=TEACHER_ID,
            plan=ReductionPlan(),
            label="full network",
            relu_count=self.original.relu_count,
            folder=TEACHER_FOLDER,
            measurement=outcome.measurement(),
            prices=self.price(self.original),
        )
        self.standing = self._standing_of_teacher(outcome.val_accuracy or 0.0)
        self._teach(self.foreman.workshop.load(job))

    def _standing_of_teacher(self, accuracy: float) -> FrontierState:
        return FrontierState(
            whole=self.objective.cost(self.candidates[TEACHER_ID]),
            full=accuracy,
            error=math.sqrt(accuracy * (1 - accuracy) / max(self.facts.val_images, 1)),
            chance=1 / self.facts.num_classes,
        )

    def _teach(self, teacher: Network) -> None:
        """Let all trainings from here on learn from the teacher."""
        shop, recipe = self.foreman.workshop, self.recipe
        test = shop.teacher_test or shop.predict_test(teacher.module)  # known where it was trained just now
        epochs = recipe.views if isinstance(recipe, SharedBudget) else round(recipe.epochs)
        batch_size = recipe.student_batch_size
        lesson = Teacher(
            teacher.module.requires_grad_(False).to(memory_format=shop.precision.memory_format),
            precision=shop.precision,
            remembered=remembered_logits(
                self.folder.path / ANSWERS, shop.data, self.config, epochs=epochs, batch_size=batch_size
            ),
        )
        views = AugmentationSchedule(
            seed=derived_seed(self.config.seed, "views"), epochs=epochs, batch_size=batch_size
        )
        self.foreman.workshop = replace(shop, lesson=lesson, teacher_test=test, views=views)

    def _settle_cull_order(self) -> dict[str, float]:
        """Measure the criticality of the stages, where the order is not given, and schedule by it."""
        if not self.schedule.is_provisional:
            return {}
        accuracies = self._probe()
        method = self.config.method
        order, worth = measured_cull_order(
            self.original,
            accuracies.__getitem__,
            form=method.criticality_form,
            exponent=method.criticality_exponent,
            costs=stage_costs(without_weights(self.original), self.objective, self.price),
            images=self.facts.val_images,
        )
        if order:
            log.info("stages to cull, least critical first: %s", ", ".join(order))
        order = self._schedule_by(order)
        write_json(
            self.folder.path / CRITICALITY,
            {"cull_order": list(order), "criticality": worth, "val_accuracy": {s: accuracies[s] for s in worth}},
        )
        self._announce()
        return worth

    def _schedule_by(self, order: Sequence[str]) -> tuple[str, ...]:
        """Schedule the candidates by a measured order, or by that of the stages' costs; which of them it is.

        That is where no network of the measured one keeps to the config's limits.
        """

        def scheduled(order: Sequence[str]) -> Schedule:
            return run_schedule(
                self.original, self.facts, self.config, cull_order=order, measured=True, standing=self.standing,
                trained=set(self.candidates), presets=self.presets,
            )  # fmt: skip

        try:
            self.schedule = scheduled(order)
        except PlanError as error:
            if not self.limits.given:
                raise
            provisional = self.schedule.cull_order
            log.warning("%s; culling %s instead, the stages that cost most first", error, ", ".join(provisional))
            self.schedule = scheduled(provisional)
        return self.schedule.cull_order

    def _record_costs(self) -> None:
        if self.presets:
            prices = {p.plan_id: p.prices for p in self.schedule.candidates}
            prices |= {plan_id: c.prices for plan_id, c in self.candidates.items()}  # teacher, probes
            RunCosts(models={p.model.name: p.model for p in self.presets}, prices=prices).write(self.folder.path)

    def _probe(self) -> dict[str, float]:
        """The validation accuracy with ReLUs in one stage only, for every stage."""
        schedule = self.schedule
        works = {p.proposal: work for p, work in zip(schedule.probes, schedule.probe_works, strict=True)}
        full = {p for p, work in works.items() if self._is_candidate(p, work.epochs)}
        jobs = {
            p: self._alone(p, "probes", epochs=work.epochs, number=number, test=p in full)
            for number, (p, work) in enumerate(works.items())
        }
        outcomes = dict(self.foreman.students(jobs, {p: work.total for p, work in works.items()}))
        for proposal, outcome in outcomes.items():
            if outcome.val_accuracy is None:
                log.warning("%s could not be trained, so its stage counts as least critical", proposal.label)
            if proposal in full:
                self._keep_trained(proposal, "probes", outcome)
        return {p.stage: outcomes[p.proposal].val_accuracy or 0.0 for p in schedule.probes}

    def _is_candidate(self, probe: Proposal, epochs: float) -> bool:
        """Whether a probe is one more network to choose from: by recipe `fast`, if it is trained well enough."""
        shares = isinstance(self.recipe, SharedBudget) and self.recipe.is_enough(epochs)
        return shares and self.limits.allow(probe)

    def _rival(self, proposal: Proposal, outcome: TrainResult) -> Incumbent | None:
        if outcome.val_accuracy is None:
            return None
        return Incumbent(label=proposal.label, cost=self.objective.cost(proposal), accuracy=outcome.val_accuracy)

    # -- networks that share no weights ---------------------------------------------------------------------

    def _train_alone(self, epochs: Mapping[Proposal, float]) -> None:
        jobs = {
            p: self._alone(p, "candidates", epochs=e, number=number) for number, (p, e) in enumerate(epochs.items())
        }
        works = {p: self.costs.alone_work(p, e, tested=True).total for p, e in epochs.items()}
        self._train_candidates(jobs, works)

    def _alone(self, proposal: Proposal, kind: str, *, epochs: float, number: int, test: bool = True) -> TrainTask:
        """The `number`th of some networks that may be trained side by side."""
        recipe = self._student_recipe(epochs, batch_size=self.costs.alone_batch_size)
        job = self._student(proposal, kind, recipe, test=test)
        if not isinstance(self.recipe, SharedBudget):
            return job
        views = self.recipe.views
        return replace(job, first_view=(number * (views // 2) + number // 2) % views, ease=self.config.fast.ease)

    # -- networks that share weights ------------------------------------------------------------------------

    def _train_others(self, recipe: SharedBudget) -> None:
        """Draft those that are too dear for the full recipe, and go on with those drafts that no other beats."""
        schedule = self.schedule
        costs = {p: self.objective.cost(p) for p in schedule.candidates if p.plan_id not in self.candidates}
        division = self.costs.division(costs, self.standing, budget=schedule.left)
        self.foreman.expect(division.count, self.costs.division_work(division, costs, self.standing))
        for proposal, rival in division.needless.items():
            self._leave_out(proposal, rival)
        self._train_alone(division.alone)
        drafts = self._draft(division.families)
        going_on = self._undropped(recipe, drafts)
        epochs = self.costs.own_epochs(going_on, division.own, costs, self.standing)
        jobs = {
            p: self._student(
                p, "candidates", self._student_recipe(e, rate=self.config.fast.rate),
                start=WarmStart(folder=self.folder.entry("drafts", p.plan_id), plan=p.plan),
            )
            for p, e in zip(going_on, epochs, strict=True)
        }  # fmt: skip
        works = {p: self.costs.own_work(p, job.recipe.epochs).total for p, job in jobs.items()}
        self.foreman.expect(len(jobs), sum(works.values()))
        self._train_candidates(jobs, works, drafts)

    def _leave_out(self, proposal: Proposal, rival: Incumbent) -> None:
        """Drop a network that is not trained at all."""
        reason = (
            f"{rival.label} ({self.objective.text(rival.cost)}) has {100 * rival.accuracy:.2f} % validation accuracy"
            f" already, the full network {100 * self.standing.full:.2f} %; what the price leaves for it is too"
            " little to do better"
        )
        job = self._student(proposal, "drafts", self._student_recipe(0.0), test=False)
        self.foreman.workshop.leave_untrained(job, reason)
        self._drop(proposal, reason)

    def _draft(self, families: Sequence[SharingGroup]) -> dict[Proposal, TrainResult]:
        """Train all networks of the families for a while, those of one size together, and judge them."""
        first, others = families[:1], families[1:]
        outcomes = self._draft_together({family: self.teacher_start for family in first})
        widest = self._widest_draft(first[0], outcomes) if first else self.teacher_start
        # under a limit on ReLUs, the widest draft may lack ReLUs or resolution that smaller networks have
        starts = {
            family: widest if all(can_warm_start(p.plan, widest.plan) for p in family.members) else self.teacher_start
            for family in others
        }
        return outcomes | self._draft_together(starts)

    def _draft_together(self, starts: Mapping[SharingGroup, WarmStart]) -> dict[Proposal, TrainResult]:
        jobs = {family: self._shared(family, start) for family, start in starts.items()}
        works = {family: self.costs.family_work(family) for family in jobs}
        outcomes = dict(self.foreman.students(jobs, works))  # in the order in which they ended
        return {p: outcomes[family][p.label] for family in starts for p in family.members}

    def _shared(self, family: SharingGroup, start: WarmStart) -> SharedWeightsTask:
        recipe = self._student_recipe(0.0)
        return SharedWeightsTask(
            name=family.name,
            jobs=tuple(self._student(p, "drafts", recipe, test=False, start=start) for p in family.members),
            turns=tuple(turns_for(family.epochs, rounds=_ROUNDS)),
            folder=self.folder.entry("drafts", family.folder),
            recipe=self._student_recipe(sum(family.epochs)),
            seed=derived_seed(self.config.seed, family.name),
            ease=self.config.fast.ease,
        )

    def _widest_draft(self, family: SharingGroup, outcomes: Mapping[Proposal, TrainResult]) -> WarmStart:
        """The draft that smaller families inherit from: of all channels, and of most ReLUs; else the teacher."""
        able = [
            p for p in family.members if p.plan.alpha == 1 and p.plan.depth is None and outcomes[p].failure is None
        ]
        if not able:
            return self.teacher_start
        widest = max(able, key=lambda p: p.relu_count)
        return WarmStart(folder=self.folder.entry("drafts", widest.plan_id), plan=widest.plan)

    def _undropped(self, recipe: SharedBudget, drafts: Mapping[Proposal, TrainResult]) -> list[Proposal]:
        """Drop the drafts that other networks beat; the rest."""
        known = {p.plan_id: r for p, o in drafts.items() if (r := self._rival(p, o)) is not None}
        known |= {f"{number}": rival for number, rival in enumerate(self.standing.rivals)}
        better = beaten(
            {name: rival.cost for name, rival in known.items()},
            {name: rival.accuracy for name, rival in known.items()},
            margin=recipe.margin,
        )
        going_on = []
        for proposal, outcome in drafts.items():
            name = proposal.plan_id
            if name not in known:
                self._keep(proposal, "drafts", failure=outcome.failure)
            elif name in better:
                winner = known[better[name]]
                self._drop(
                    proposal,
                    f"its draft has {100 * known[name].accuracy:.2f} % validation accuracy, {winner.label}"
                    f" ({self.objective.text(winner.cost)}) {100 * winner.accuracy:.2f} %",
                )
            else:
                going_on.append(proposal)
        return going_on

    def _drop(self, proposal: Proposal, reason: str) -> None:
        log.info("%s is dropped: %s", proposal.label, reason)
        self._keep(proposal, "drafts", failure=reason, is_dropped=True)

    # -- candidates -----------------------------------------------------------------------------------------

    def _student(
        self, proposal: Proposal, kind: str, recipe: Recipe, *, start: WarmStart | None = None, test: bool = True
    ) -> TrainTask:
        return TrainTask(
            name=proposal.label,
            plan=proposal.plan,
            folder=self.folder.entry(kind, proposal.plan_id),
            recipe=recipe,
            seed=derived_seed(self.config.seed, proposal.plan_id),
            start=(start or self.teacher_start) if isinstance(self.recipe, SharedBudget) else None,
            statistics_batches=self.recipe.statistics_batches if isinstance(self.recipe, SharedBudget) else 0,
            test=test,
        )

    def _student_recipe(self, epochs: float, *, rate: float = 1.0, batch_size: int | None = None) -> Recipe:
        batch_size = batch_size or self.recipe.student_batch_size
        recipe = training_recipe(self.config.training, epochs=epochs, rate=rate, batch_size=batch_size)
        if isinstance(self.recipe, SharedBudget):  # the price has room for a validation at the end
            return replace(recipe, validate_every=max(math.ceil(epochs), 1))
        return recipe

    def _train_candidates(
        self,
        jobs: Mapping[Proposal, TrainTask],
        works: Mapping[Proposal, float],
        drafts: Mapping[Proposal, TrainResult] | None = None,
    ) -> None:
        """Train them and keep what becomes of them; the seconds of their `drafts` are theirs too."""
        for proposal, outcome in self.foreman.students(jobs, works):
            drafted = drafts[proposal].train_seconds if drafts else 0.0
            whole = replace(outcome, train_seconds=drafted + outcome.train_seconds)
            self._keep_trained(proposal, "candidates", whole)
            write_tables(self.folder.path, self._in_order(), stages=self.original.stages, complete=False)

    def _keep_trained(self, proposal: Proposal, kind: str, outcome: TrainResult) -> None:
        """Take a network among the candidates that others must beat, unless it failed."""
        rival = self._rival(proposal, outcome)
        if rival is not None:
            rivals = sorted((*self.standing.rivals, rival), key=lambda r: (r.cost, r.label))
            self.standing = replace(self.standing, rivals=tuple(rivals))
        self._keep(proposal, kind, measurement=outcome.measurement(), failure=outcome.failure)

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
        return sorted(self.candidates.values(), key=lambda c: (not c.is_teacher, -c.relu_count, c.label))

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        candidates = self._in_order()
        if all(c.measurement is None for c in candidates if not c.is_teacher):
            reasons = "; ".join(sorted({c.failure or "" for c in candidates if c.failure and not c.is_dropped}))
            raise RunError(f"no network could be trained: {reasons}; lower training.learning_rate")
        path = self.folder.path
        write_tables(path, candidates, stages=self.original.stages, complete=True, objective=self.objective)
        write_plots(path, title=title_of(self.config), overlay=overlay_of(self.config), objective=self.objective)
        self.observers.run_finished(candidates, self.objective)
        (path / ANSWERS).unlink(missing_ok=True)
