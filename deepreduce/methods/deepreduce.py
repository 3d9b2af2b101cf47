"""DeepReDuce (Jha, Ghodsi, Garg, Reagen; ICML 2021, arXiv 2103.01396).

In the paper's order:

1. criticality: what are a stage's ReLUs worth? (section 3.1: train a network with ReLUs in that stage only)
2. culling: drop the least critical stage, then the next, ..., keep at least one (section 3.1)
3. thinning: drop alternate ReLUs in what each culling left (section 3.2)
4. reshaping: scale channels by alpha and resolution by rho for tighter budgets (section 3.3)
5. and 6. every network is distilled from the full one, and the Pareto frontier is taken: the run's part

For D stages that is D probes and at most (D - 1) * (1 + K * (1 + number of reshapes)) networks, K being the number of
ways to thin (1, or 2 with `thin_keep` both): linear in D.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from deepreduce.cost.objective import UNLIMITED, Costs, Limits, Objective
from deepreduce.errors import ModelError, PlanError, unknown_name
from deepreduce.methods.base import Search, SearchContext, TrainingRequest
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Collector, Proposal, Proposals, StageCriticality
from deepreduce.network.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import THIN_KEEP, apply_plan, cull_plan, reshape_plan, thin_plan
from deepreduce.transforms.collapse.costs import CostEstimator, no_estimates
from deepreduce.utils.fields import Count, Listed, NotNegative, Resolution, Scale

log = logging.getLogger(__name__)

CRITICALITY_FORMS = ("ratio", "difference")
"""`ratio`: A_k (N_k / N)^-w. `difference`: (A_k - min A) / N_k^w. The paper's exact formula is not known to us."""

_PROBE_ALPHAS = (1.0, 0.5, 0.25, 0.125)
"""Widths of probes, of which the first is taken that the budget trains in full.

Long trainings of narrow networks rank the stages as full ones do, short trainings of wide networks do not
(docs/performance.md).
"""

_NARROWING_PAYS = 0.6
"""A narrower width is tried only if it costs less than this share: hardware computes 16 channels as fast as one."""

_LEAST_SHARE = 1e-3
"""Smallest share of the whole cost that a stage's ReLUs are taken to have, since criticality divides by it."""


MOST_SCALES = 16
"""Longest list of scales or depths: networks are tried for all pairs of scales, in every order of culling."""


class DeepReduceOptions(MethodOptions):
    """Options of DeepReDuce: which networks it tries."""

    cull_order: Annotated[tuple[str, ...], Listed, Field(max_length=64)] | None = None
    """Stages, least critical first, as in S1,S4,S2; None measures the order."""
    thin_keep: Literal["first", "last", "both"] = "first"
    """ReLU that a thinned block keeps; `both` tries either."""
    alphas: Annotated[tuple[Scale, ...], Listed, Field(min_length=1, max_length=MOST_SCALES)] = (1.0, 0.5)
    """Channel scales, each combined with each of `rhos`."""
    rhos: Annotated[tuple[Resolution, ...], Listed, Field(min_length=1, max_length=MOST_SCALES)] = (1.0, 0.5)
    """Feature-map resolution scales: 1, 1/2, 1/3, ..."""
    depths: (
        Annotated[
            tuple[Annotated[tuple[Count, ...], Field(min_length=1, max_length=64)], ...],
            Field(max_length=MOST_SCALES),
        ]
        | None
    ) = None
    """Blocks per stage to try at the smallest alpha and rho, a list for each; None: no such networks, and with method
    `levers` half the blocks of every stage."""
    pad_once: bool = False
    """Pad regions that culling makes linear once, at their entry: they then collapse into one convolution exactly."""
    criticality_form: Literal["ratio", "difference"] = "ratio"
    """Formula of a stage's criticality: A / (share of all ReLUs)^exponent for accuracy A (`ratio`), or A less that of
    the worst stage, over (its ReLU count)^exponent (`difference`)."""
    criticality_exponent: Annotated[NotNegative, Field(le=10)] = 0.07
    """Exponent of the ReLU count in the criticality."""


class DeepReduce:
    """Cull stages in the order of their criticality, thin what is left, and reshape it."""

    name = "deepreduce"
    summary = "cull, thin and reshape whole layers of ReLUs"
    Options = DeepReduceOptions
    paper = "DeepReDuce, Jha et al., ICML 2021, arXiv 2103.01396"
    unit = "site"
    epochs = "the recipe's"

    def search(self, network: Network, options: DeepReduceOptions, context: SearchContext) -> Search:
        """Request a probe for each stage, unless `cull_order` is given; return the networks of section 3."""

        def propose_in(order: Sequence[str]) -> Proposals:
            return propose(network, order, options, estimator=context.estimator, limits=context.limits)

        return (yield from search_in_measured_order(network, options, context, propose_in))


def search_in_measured_order(
    network: Network,
    options: DeepReduceOptions,
    context: SearchContext,
    propose_in: Callable[[Sequence[str]], Proposals],
) -> Search:
    """Request probes, unless the options give a cull order, and return what `propose_in` makes of the order.

    Where no network of the measured order keeps to the limits, stages are culled that cost most first.
    """
    if options.cull_order is not None:
        return propose_in(check_cull_order(network, options.cull_order))
    costs = stage_costs(network, context.objective, context.objective_estimator)
    provisional = provisional_cull_order(network, costs)
    requests = request_probes(network, context)
    if not requests:
        return propose_in(provisional)
    answers = yield list(requests.values())
    accuracies = {stage: answers[request].val_accuracy for stage, request in requests.items()}
    if all(accuracy is None for accuracy in accuracies.values()):
        return propose_in(provisional)
    for stage, request in requests.items():
        if accuracies[stage] is None:
            log.warning(
                "%s could not be trained, so stage %s counts as least critical", request.proposal.label, stage
            )
    measured = measured_criticality(
        network,
        {stage: accuracy or 0.0 for stage, accuracy in accuracies.items()},
        form=options.criticality_form,
        exponent=options.criticality_exponent,
        costs=costs,
        images=context.val_images,
    )
    if measured.cull_order:
        log.info("stages to cull, least critical first: %s", ", ".join(measured.cull_order))
    try:
        return _with_criticality(propose_in(measured.cull_order), measured)
    except PlanError as error:
        if not context.limits.given:
            raise
        log.warning("%s; culling %s instead, the stages that cost most first", error, ", ".join(provisional))
        return _with_criticality(propose_in(provisional), measured)


def _with_criticality(proposals: Proposals, measured: StageCriticality) -> Proposals:
    """Return the proposals with the criticality, whose order is the one that they were culled in."""
    return replace(proposals, criticality=replace(measured, cull_order=proposals.cull_order))


# -- 1. criticality -----------------------------------------------------------------------------------------


def request_probes(network: Network, context: SearchContext) -> dict[str, TrainingRequest]:
    """Return a training request for the probe of each stage: as wide as the budget can train in full."""
    budget = context.budget
    found: dict[str, Proposal] = {}
    for alpha in _PROBE_ALPHAS:
        try:
            narrower = probes(network, alpha=alpha, estimator=context.estimator)
        except (ModelError, PlanError):
            if alpha == 1:
                raise
            break  # the network can't be as narrow
        if found:
            wide, narrow = (sum(budget.epoch_costs(list(p.values()))) for p in (found, narrower))
            if narrow > _NARROWING_PAYS * wide:
                break
        found = narrower
        if budget.pays_in_full(list(found.values())):
            break
    epochs = budget.trial_epochs(list(found.values()))
    return {
        stage: TrainingRequest(proposal=proposal, epochs=e)
        for (stage, proposal), e in zip(found.items(), epochs, strict=True)
    }


def probes(network: Network, *, alpha: float = 1.0, estimator: CostEstimator = no_estimates) -> dict[str, Proposal]:
    """Return, for each stage that has ReLUs, the network with ReLUs in it only and channels scaled by `alpha`.

    Narrow ones rank the stages as those of full width do, at a fraction of their cost (docs/performance.md). Empty
    for a network of one stage. Raises `PlanError` or `ModelError` where the network can't be as narrow.
    """
    stages = live_stages(network)
    width = ReductionPlan(alpha=alpha)
    words = reshape_label(alpha, 1)
    found = {}
    for stage in stages if len(stages) > 1 else []:
        plan = cull_plan(network, [s for s in stages if s != stage]).merge(width)
        label = ", ".join([f"only {stage}", *([words] if words else [])])
        found[stage] = Proposal.of(network, plan, label, estimator)
    return found


def criticality(
    accuracies: Mapping[str, float], costs: Mapping[str, float], *, form: str, exponent: float
) -> dict[str, float]:
    """Return how much each stage's ReLUs are worth: a function of A_k and N_k.

    A_k is the accuracy with ReLUs in stage k alone, N_k the cost of the stage's ReLUs. `costs` are ReLU
    counts in the paper, and may be anything positive. `form` is one of `CRITICALITY_FORMS`. In both, equal
    accuracy from cheaper ReLUs is worth more.
    """
    if form not in CRITICALITY_FORMS:
        raise PlanError(unknown_name("form of criticality", form, CRITICALITY_FORMS))
    total, worst = sum(costs.values()), min(accuracies.values())
    if form == "ratio":
        return {k: a * (costs[k] / total) ** -exponent for k, a in accuracies.items()}
    return {k: (a - worst) / costs[k] ** exponent for k, a in accuracies.items()}


def measured_criticality(
    network: Network,
    accuracies: Mapping[str, float],
    *,
    form: str,
    exponent: float,
    costs: Mapping[str, float] | None = None,
    images: int | None = None,
) -> StageCriticality:
    """Return every stage's criticality, and the stages to cull: least critical first, without the most critical.

    `accuracies` are the validation accuracies of the stages' probes, in network order. `costs` are what each stage's
    ReLUs cost (None: their number). `images` are those that accuracies were measured on: of stages whose criticality
    differs by less than the standard error that follows (None: 0), the one that costs more goes first, since that
    saves more.
    """
    costs = costs or network.stage_relu_counts
    of_stages = {k: costs[k] for k in accuracies}
    worth = criticality(accuracies, of_stages, form=form, exponent=exponent)
    errors = {
        k: criticality_error(a, costs[k], sum(of_stages.values()), form=form, exponent=exponent, images=images)
        for k, a in accuracies.items()
    }
    ranked: list[str] = []
    while left := [k for k in accuracies if k not in ranked]:
        least = min(left, key=lambda k: worth[k])
        alike = [k for k in left if worth[k] - worth[least] <= math.hypot(errors[k], errors[least])]
        ranked.append(max(alike, key=lambda k: costs[k]))
    return StageCriticality(cull_order=tuple(ranked[:-1]), criticality=worth, val_accuracy=dict(accuracies))


def criticality_error(
    accuracy: float, cost: float, total: float, *, form: str, exponent: float, images: int | None
) -> float:
    """Return the standard error of a stage's criticality; its accuracy is that on `images` images (None: all)."""
    if images is None:
        return 0.0
    error = math.sqrt(max(accuracy * (1 - accuracy), 0.0) / max(images, 1))
    share = cost / total if form == "ratio" else cost
    return float(error * share**-exponent)


def stage_costs(network: Network, objective: Objective, estimator: CostEstimator) -> dict[str, float]:
    """Return what each stage's ReLUs cost: the cost of the network less that of the network without them."""
    if objective.counts_relus:
        return dict(network.stage_relu_counts)
    whole = objective.cost(Costs(relu_count=network.relu_count, cost_estimates=estimator(network)))
    costs = {}
    for stage in live_stages(network):
        without = apply_plan(network, cull_plan(network, [stage]))
        saved = whole - objective.cost(Costs(relu_count=without.relu_count, cost_estimates=estimator(without)))
        costs[stage] = max(saved, _LEAST_SHARE * whole)
    return costs


def provisional_cull_order(network: Network, costs: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """Return the order to show before criticality is measured: the most expensive stage (None: most ReLUs) first."""
    costs = costs or network.stage_relu_counts
    return tuple(sorted(live_stages(network), key=lambda stage: -costs[stage])[:-1])


def check_cull_order(network: Network, order: Sequence[str]) -> tuple[str, ...]:
    """Return the order as given. Raises `PlanError` for unknown or repeated stages, and where none would be left."""
    for stage in order:
        network.sites_of(stage)
    if len(set(order)) != len(order):
        raise PlanError(f"cull order {', '.join(order)} names a stage twice")
    if set(live_stages(network)) <= set(order):
        raise PlanError(f"cull order {', '.join(order)} leaves {network.name} no ReLU; leave out the stage to keep")
    return tuple(order)


def live_stages(network: Network) -> list[str]:
    """Return the stages that have ReLUs, in network order."""
    return [stage for stage, count in network.stage_relu_counts.items() if count]


# -- 2. to 4. culling, thinning, reshaping --------------------------------------------------------------------


def propose(
    network: Network,
    cull_order: Sequence[str],
    options: DeepReduceOptions,
    *,
    estimator: CostEstimator = no_estimates,
    limits: Limits = UNLIMITED,
) -> Proposals:
    """Return every network within `limits` that DeepReDuce trains when it culls in that order, with cost estimates.

    Raises `PlanError` where there is nothing to propose.
    """
    collected = Collector(network, estimator)
    padding = ReductionPlan(pad_once=options.pad_once)
    for plan, label in _variants(network, cull_order, options, collected):
        collected.add_plan(plan.merge(padding), label)
    collected.keep_within(limits)
    return collected.proposals(cull_order=tuple(cull_order))


def _variants(
    network: Network, cull_order: Sequence[str], options: DeepReduceOptions, collected: Collector
) -> Iterator[tuple[ReductionPlan, str]]:
    # a network of one stage has nothing to cull, but may still be thinned and reshaped
    for level in range(1, len(cull_order) + 1) if cull_order else [0]:
        culled = list(cull_order[:level])
        plan = cull_plan(network, culled) if culled else ReductionPlan()
        label = f"cull {' '.join(culled)}" if culled else "all stages"
        if culled:
            yield plan, label
        kept = [stage for stage in live_stages(network) if stage not in culled]
        for keep in THIN_KEEP if options.thin_keep == "both" else (options.thin_keep,):
            thinned, thinned_label = plan, label
            try:
                thinned = plan.merge(thin_plan(network, stages=kept, keep=keep))
            except PlanError as error:
                collected.leave_out(str(error), f"{label}, thin")
            else:
                thinned_label = f"{label}, thin" if keep == "first" else f"{label}, thin (keep {keep})"
                yield thinned, thinned_label
            for reshape, words in _reshapes(options):
                yield thinned.merge(reshape), f"{thinned_label}, {words}"


def _reshapes(options: DeepReduceOptions) -> Iterator[tuple[ReductionPlan, str]]:
    for alpha in options.alphas:
        for rho in options.rhos:
            if (alpha, rho) != (1, 1):
                yield reshape_plan(alpha=alpha, rho=rho), reshape_label(alpha, rho)
    alpha, rho = min(options.alphas), min(options.rhos)
    for depth in options.depths or ():
        yield reshape_plan(alpha=alpha, rho=rho, depth=depth), reshape_label(alpha, rho, depth)


def reshape_label(alpha: float, rho: float, depth: Sequence[int] | None = None) -> str:
    """Return the label of a reshape: "alpha 0.5 rho 0.5 depth 1-1-1-1", "" where nothing is scaled."""
    parts = [f"{name} {value:g}" for name, value in (("alpha", alpha), ("rho", rho)) if value != 1]
    return " ".join([*parts, f"depth {'-'.join(str(n) for n in depth)}"] if depth else parts)
