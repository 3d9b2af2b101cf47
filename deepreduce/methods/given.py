"""Train networks that are given: those of other runs, and plans of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from deepreduce.errors import PlanError, unknown_name
from deepreduce.methods.base import Search, SearchContext
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.proposal import Collector
from deepreduce.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.utils.fields import Listed

_MOST = 1024


class GivenOptions(MethodOptions):
    """Options: where the plans are."""

    of: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Listed, Field(max_length=64)] = ()
    """Folders: of a run, all of whose networks are taken, or of one network, as in runs/a/candidates/3fa9c1d2e4."""
    ids: Annotated[tuple[str, ...], Listed, Field(max_length=_MOST)] | None = None
    """Take these of them alone, by their plan_id; None: all."""
    plans: Annotated[tuple[dict[str, Any], ...], Field(max_length=_MOST)] = ()
    """Plans as in the file plan.json of a network, without masks: {sites: {layer1.0.relu1: identity}, rho: 0.5}."""


class Given:
    """Train the given networks again, by whatever recipe."""

    name = "given"
    summary = "train networks that are given, of another run or as plans: by another recipe, or on other data"
    Options = GivenOptions

    def search(self, network: Network, options: GivenOptions, context: SearchContext) -> Search:
        """Return the networks. Raises `UserError` for a folder without any, `PlanError` where no plan fits."""
        collected = Collector(network, context.estimator)
        for label, plan in _plans(options, context):
            collected.add_plan(plan, label)
        collected.keep_within(context.limits)
        return collected.proposals()
        yield  # a search is a generator, and this one asks for no training


def _plans(options: GivenOptions, context: SearchContext) -> Iterator[tuple[str, ReductionPlan]]:
    if not options.of and not options.plans:
        raise PlanError("method given has no network; give method.of the folder of a run, or method.plans")
    earlier = [network for folder in options.of for network in context.earlier(folder)]
    found = {network.plan.plan_id: (network.label, network.plan) for network in earlier}
    for plan_id in options.ids or ():
        if plan_id not in found:
            raise PlanError(unknown_name("plan_id", plan_id, list(found)))
    for plan_id, labelled in found.items():
        if options.ids is None or plan_id in options.ids:
            yield labelled
    for number, value in enumerate(options.plans, start=1):
        yield f"plan {number}", ReductionPlan.from_json(value)
