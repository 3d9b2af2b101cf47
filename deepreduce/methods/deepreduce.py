"""DeepReDuce (Jha, Ghodsi, Garg, Reagen; ICML 2021, arXiv 2103.01396).

In the paper's order:

1. criticality: what are a stage's ReLUs worth? (section 3.1: train a network with ReLUs in that stage only)
2. culling: drop the least critical stage, then the next, ..., keep at least one (section 3.1)
3. thinning: drop alternate ReLUs in what each culling left (section 3.2)
4. reshaping: scale channels by alpha and resolution by rho for tighter budgets (section 3.3)
5. and 6. every network is distilled from the full one, and the Pareto frontier is taken: the pipeline's part

For D stages that is D probes and at most (D - 1) * (1 + K * (1 + number of reshapes)) networks, K being the number of
ways to thin (1, or 2 with `thin_keep` both): linear in D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from deepreduce.cost.objective import UNLIMITED, Limits
from deepreduce.errors import PlanError, unknown_name
from deepreduce.methods.proposal import Collector, Pricing, Proposal, Proposals, ReducedByPlan, unpriced
from deepreduce.network.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import THIN_KEEP, cull_plan, reshape_plan, thin_plan

CRITICALITY_FORMS = ("ratio", "difference")
"""`ratio`: A_k (N_k / N)^-w. `difference`: (A_k - min A) / N_k^w. The paper's exact formula is not known to us."""


@dataclass(frozen=True, kw_only=True)
class DeepReduceMethod:
    """The method's options.

    `thin_keep` is the ReLU that a thinned block keeps: first, last, or both as networks of their own. `alphas` and
    `rhos` are combined with each other; `depths` (blocks per stage) apply at the smallest alpha and rho only, where
    the budget is tightest; None: none of these here, and others in `deepreduce.methods.levers`. `pad_once` has every
    network pad its linear regions once, so that they collapse exactly (`deepreduce.transforms.collapse.pad_once`).
    """

    thin_keep: str = "first"
    alphas: tuple[float, ...] = (1.0, 0.5)
    rhos: tuple[float, ...] = (1.0, 0.5)
    depths: tuple[tuple[int, ...], ...] | None = None
    pad_once: bool = False
    criticality_form: str = "ratio"
    criticality_exponent: float = 0.07


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The network that has ReLUs in `stage` only."""

    stage: str
    proposal: Proposal


# -- 1. criticality -----------------------------------------------------------------------------------------


def probes(network: Network, *, alpha: float = 1.0, price: Pricing = unpriced) -> list[Probe]:
    """One network per stage that has ReLUs, with all other stages culled, and channels scaled by `alpha`.

    Narrow ones rank the stages as those of full width do, at a fraction of their cost (docs/performance.md). Raises
    `PlanError` or `ModelError` where the network can't be as narrow.
    """
    stages = live_stages(network)
    width = ReductionPlan(alpha=alpha)
    words = reshape_label(alpha, 1)
    found = []
    for stage in stages if len(stages) > 1 else []:
        plan = cull_plan(network, [s for s in stages if s != stage]).merge(width)
        label = ", ".join([f"only {stage}", *([words] if words else [])])
        found.append(Probe(stage=stage, proposal=ReducedByPlan.of(network, plan, label, price).proposal))
    return found


def criticality(
    accuracies: Mapping[str, float], costs: Mapping[str, float], *, form: str, exponent: float
) -> dict[str, float]:
    """How much each stage's ReLUs are worth, from the accuracy A_k with ReLUs in stage k alone and their cost N_k.

    `costs` are ReLU counts in the paper, and may be anything positive. `form` is one of `CRITICALITY_FORMS`. In both,
    equal accuracy from cheaper ReLUs is worth more.
    """
    if form not in CRITICALITY_FORMS:
        raise PlanError(unknown_name("form of criticality", form, CRITICALITY_FORMS))
    total, worst = sum(costs.values()), min(accuracies.values())
    if form == "ratio":
        return {k: a * (costs[k] / total) ** -exponent for k, a in accuracies.items()}
    return {k: (a - worst) / costs[k] ** exponent for k, a in accuracies.items()}


def measured_cull_order(
    network: Network,
    score: Callable[[str], float],
    *,
    form: str,
    exponent: float,
    costs: Mapping[str, float] | None = None,
    images: int | None = None,
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Stages to cull, least critical first, without the most critical; and every stage's criticality.

    `score` gives the validation accuracy of the stage's probe. `costs` are what each stage's ReLUs cost (None: their
    number). `images` are those that accuracies were measured on: of stages whose criticality differs by less than
    the standard error that follows (None: 0), the one that costs more goes first, since that saves more.
    """
    costs = costs or network.stage_relu_counts
    stages = live_stages(network)
    accuracies = {stage: score(stage) for stage in stages} if len(stages) > 1 else {}
    if not accuracies:
        return (), {}
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
    return tuple(ranked[:-1]), worth


def criticality_error(
    accuracy: float, cost: float, total: float, *, form: str, exponent: float, images: int | None
) -> float:
    """The standard error of a stage's criticality, whose accuracy was measured on so many images (None: on all)."""
    if images is None:
        return 0.0
    error = math.sqrt(max(accuracy * (1 - accuracy), 0.0) / max(images, 1))
    share = cost / total if form == "ratio" else cost
    return float(error * share**-exponent)


def provisional_cull_order(network: Network, costs: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """The order to show before criticality is measured: the stage that costs most (None: has most ReLUs) first."""
    costs = costs or network.stage_relu_counts
    return tuple(sorted(live_stages(network), key=lambda stage: -costs[stage])[:-1])


def check_cull_order(network: Network, order: Sequence[str]) -> tuple[str, ...]:
    """The order as given. Raises `PlanError` for unknown or repeated stages, and where none would be left."""
    for stage in order:
        network.sites_of(stage)
    if len(set(order)) != len(order):
        raise PlanError(f"cull order {', '.join(order)} names a stage twice")
    if set(live_stages(network)) <= set(order):
        raise PlanError(f"cull order {', '.join(order)} leaves {network.name} no ReLU; leave out the stage to keep")
    return tuple(order)


def live_stages(network: Network) -> list[str]:
    """The stages that have ReLUs, in network order."""
    return [stage for stage, count in network.stage_relu_counts.items() if count]


# -- 2. to 4. culling, thinning, reshaping --------------------------------------------------------------------


def propose(
    network: Network,
    cull_order: Sequence[str],
    method: DeepReduceMethod,
    *,
    price: Pricing = unpriced,
    limits: Limits = UNLIMITED,
) -> Proposals:
    """Every network within `limits` that the method trains when it culls in that order, with its prices.

    Raises `PlanError` where there is nothing to propose.
    """
    collected = Collector(network, price)
    padding = ReductionPlan(pad_once=method.pad_once)
    for plan, label in _variants(network, cull_order, method, collected):
        collected.add(plan.merge(padding), label)
    collected.keep_within(limits)
    return collected.proposals()


def _variants(
    network: Network, cull_order: Sequence[str], method: DeepReduceMethod, collected: Collector
) -> Iterator[tuple[ReductionPlan, str]]:
    # a network of one stage has nothing to cull, but may still be thinned and reshaped
    for level in range(1, len(cull_order) + 1) if cull_order else [0]:
        culled = list(cull_order[:level])
        plan = cull_plan(network, culled) if culled else ReductionPlan()
        label = f"cull {' '.join(culled)}" if culled else "all stages"
        if culled:
            yield plan, label
        kept = [stage for stage in live_stages(network) if stage not in culled]
        for keep in THIN_KEEP if method.thin_keep == "both" else (method.thin_keep,):
            thinned, thinned_label = plan, label
            try:
                thinned = plan.merge(thin_plan(network, stages=kept, keep=keep))
            except PlanError as error:
                collected.leave_out(str(error), f"{label}, thin")
            else:
                thinned_label = f"{label}, thin" if keep == "first" else f"{label}, thin (keep {keep})"
                yield thinned, thinned_label
            for reshape, words in _reshapes(method):
                yield thinned.merge(reshape), f"{thinned_label}, {words}"


def _reshapes(method: DeepReduceMethod) -> Iterator[tuple[ReductionPlan, str]]:
    for alpha in method.alphas:
        for rho in method.rhos:
            if (alpha, rho) != (1, 1):
                yield reshape_plan(alpha=alpha, rho=rho), reshape_label(alpha, rho)
    alpha, rho = min(method.alphas, default=1.0), min(method.rhos, default=1.0)
    for depth in method.depths or ():
        yield reshape_plan(alpha=alpha, rho=rho, depth=depth), reshape_label(alpha, rho, depth)


def reshape_label(alpha: float, rho: float, depth: Sequence[int] | None = None) -> str:
    """A reshape in a reader's words: "alpha 0.5 rho 0.5 depth 1-1-1-1", "" where nothing is scaled."""
    parts = [f"{name} {value:g}" for name, value in (("alpha", alpha), ("rho", rho)) if value != 1]
    return " ".join([*parts, f"depth {'-'.join(str(n) for n in depth)}"] if depth else parts)
