"""DeepReDuce's three edits (ICML 2021, section 3): cull stages, thin the remaining ones, reshape the network.

Each edit has two functions: `*_plan` returns the plan, and the verb alone returns the edited network. All raise
`PlanError` for an edit that would change nothing.

Thinning drops these ReLUs of a stage:

- Blocks (residual basic and bottleneck blocks, inverted residuals, dense layers) keep one ReLU each, the first or the
  last in the order of calls. In a basic block the first is the ReLU between the convolutions, the last the one after
  the residual addition; the released DeepReDuce networks keep the first. In an inverted residual the first follows
  the expansion, the last the depthwise convolution. A block with one ReLU keeps it, and so does a stem.
- Chains (VGG, plain stacks) drop every other ReLU; "first" keeps the first, third, ..., "last" keeps the last, the
  third last, .... A stage whose blocks have one ReLU each, perhaps because it was thinned before, is a chain.
- A block that spans two stages (inferred stages change with the resolution) is thinned in each stage separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deepreduce.errors import PlanError, unknown_name
from deepreduce.network.network import Network, ReluSite
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY
from deepreduce.transforms.apply import apply_plan

THIN_KEEP = ("first", "last")
"""The choices of the ReLU that a thinned block keeps."""


def cull_plan(network: Network, stages: Sequence[str]) -> ReductionPlan:
    """Return the plan that drops all ReLUs of `stages`.

    Raises `PlanError` for an unknown stage, and if the stages have no ReLU.
    """
    if isinstance(stages, str):
        raise PlanError(f"stages is {stages!r}; give a list, as in [{stages!r}]")
    sites = [site for stage in stages for site in network.sites_of(stage)]
    if not sites:
        raise PlanError(
            f"culling {', '.join(stages) or 'no stage'} of {network.name} drops no ReLU; name a stage that has ReLUs"
        )
    return _identity_plan(sites)


def thin_plan(network: Network, *, stages: Sequence[str] | None = None, keep: str = "first") -> ReductionPlan:
    """Return the plan that drops alternate ReLUs in `stages` (None: in all stages), as the module's docstring says.

    `keep` is the ReLU of each block that stays, "first" or "last". Raises `PlanError` for an unknown stage or `keep`,
    and if no ReLU would be dropped.
    """
    if keep not in THIN_KEEP:
        raise PlanError(unknown_name("value of keep", keep, THIN_KEEP))
    chosen = network.stages if stages is None else stages
    dropped = [site for stage in chosen for site in _alternate(network.sites_of(stage), keep)]
    if not dropped:
        raise PlanError(f"thinning {', '.join(chosen)} of {network.name} drops no ReLU: no two follow each other")
    return _identity_plan(dropped)


def reshape_plan(*, alpha: float = 1.0, rho: float = 1.0, depth: Sequence[int] | None = None) -> ReductionPlan:
    """Return the plan that scales channels by `alpha` and resolution by `rho`, with `depth` blocks per stage.

    Raises `PlanError` if nothing is given, and for values that `ReductionPlan` refuses.
    """
    plan = ReductionPlan(alpha=alpha, rho=rho, depth=None if depth is None else tuple(depth))
    if plan.is_empty:
        raise PlanError("alpha 1, rho 1 and no depth reshape nothing; give one of them")
    return plan


def cull(network: Network, stages: Sequence[str]) -> Network:
    """Return a new network without the ReLUs of `stages` (DeepReDuce, section 3)."""
    return apply_plan(network, cull_plan(network, stages))


def thin(network: Network, *, stages: Sequence[str] | None = None, keep: str = "first") -> Network:
    """Return a new network without alternate ReLUs of `stages` (None: of all stages); see `thin_plan`."""
    return apply_plan(network, thin_plan(network, stages=stages, keep=keep))


def reshape(
    network: Network, *, alpha: float = 1.0, rho: float = 1.0, depth: Sequence[int] | None = None, seed: int = 0
) -> Network:
    """Return a new network with channels times `alpha`, resolution times `rho` and `depth` blocks per stage.

    Weights without a counterpart to inherit from are initialised from `seed`.
    """
    return apply_plan(network, reshape_plan(alpha=alpha, rho=rho, depth=depth), seed=seed)


def _identity_plan(sites: Iterable[ReluSite]) -> ReductionPlan:
    return ReductionPlan(sites=tuple((site.name, IDENTITY) for site in sites))


def _alternate(sites: Sequence[ReluSite], keep: str) -> list[ReluSite]:
    """Return the sites of one stage that thinning drops."""
    blocks: dict[str, list[ReluSite]] = {}
    for site in sites:
        if site.block is not None:
            blocks.setdefault(site.block, []).append(site)
    if any(len(block) > 1 for block in blocks.values()):
        return [site for block in blocks.values() for site in (block[1:] if keep == "first" else block[:-1])]
    return list(sites[1::2] if keep == "first" else sites[-2::-2])
