"""DeepReDuce's three edits (ICML 2021, section 3): cull stages, thin what remains, reshape the network.

Each comes twice: `*_plan` says what to do, and the plain verb does it. All raise `PlanError` for an edit that
would change nothing.

What thinning drops, in a stage:

- Blocks (residual basic and bottleneck blocks, inverted residuals, dense layers): of each block's ReLUs one is
  kept, the first or the last in the order of calls, and the others are dropped. In a basic block the first is
  the one between the convolutions and the last the one after the residual addition; the released DeepReDuce
  networks keep the first. In an inverted residual the first follows the expansion, the last the depthwise
  convolution. A block with one ReLU keeps it, and so does a stem.
- Chains (VGG, plain stacks): every other ReLU is dropped; "first" keeps the first, third, ..., "last" keeps the
  last, the third last, .... A stage in which every block has one ReLU, thinned already perhaps, is a chain of them.
- A block that spans two stages (inferred stages change where the resolution does) is thinned in each on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deepreduce.errors import PlanError, unknown_name
from deepreduce.network.network import Network, ReluSite
from deepreduce.plan import ReductionPlan
from deepreduce.transforms.apply import apply_plan

THIN_KEEP = ("first", "last")
"""Which ReLU of a thinned block stays."""


def cull_plan(network: Network, stages: Sequence[str]) -> ReductionPlan:
    """The plan that drops all ReLUs of `stages`."""
    if isinstance(stages, str):
        raise PlanError(f"stages is {stages!r}; give a list, as in [{stages!r}]")
    sites = [site for stage in stages for site in network.sites_of(stage)]
    if not sites:
        raise PlanError(f"culling {', '.join(stages) or 'no stage'} of {network.name} drops no ReLU")
    return _linearizing(sites)


def thin_plan(network: Network, *, stages: Sequence[str] | None = None, keep: str = "first") -> ReductionPlan:
    """The plan that drops alternate ReLUs in `stages` (None: in all that have any), as described above."""
    if keep not in THIN_KEEP:
        raise PlanError(unknown_name("value of keep", keep, THIN_KEEP))
    chosen = network.stages if stages is None else stages
    dropped = [site for stage in chosen for site in _alternate(network.sites_of(stage), keep)]
    if not dropped:
        raise PlanError(f"thinning {', '.join(chosen)} of {network.name} drops no ReLU: no two follow each other")
    return _linearizing(dropped)


def reshape_plan(*, alpha: float = 1.0, rho: float = 1.0, depth: Sequence[int] | None = None) -> ReductionPlan:
    """The plan that scales channels by `alpha`, resolution by `rho` and sets the blocks per stage to `depth`."""
    plan = ReductionPlan(alpha=alpha, rho=rho, depth=None if depth is None else tuple(depth))
    if plan.is_empty:
        raise PlanError("alpha 1, rho 1 and no depth reshape nothing; give one of them")
    return plan


def cull(network: Network, stages: Sequence[str]) -> Network:
    """A new network without the ReLUs of `stages`."""
    return apply_plan(network, cull_plan(network, stages))


def thin(network: Network, *, stages: Sequence[str] | None = None, keep: str = "first") -> Network:
    """A new network with alternate ReLUs of `stages` dropped (None: of all stages)."""
    return apply_plan(network, thin_plan(network, stages=stages, keep=keep))


def reshape(
    network: Network, *, alpha: float = 1.0, rho: float = 1.0, depth: Sequence[int] | None = None, seed: int = 0
) -> Network:
    """A new network with channels times `alpha`, resolution times `rho`, `depth` blocks per stage.

    Weights that no longer have a counterpart to inherit are initialised from `seed`.
    """
    return apply_plan(network, reshape_plan(alpha=alpha, rho=rho, depth=depth), seed=seed)


def _linearizing(sites: Iterable[ReluSite]) -> ReductionPlan:
    return ReductionPlan(sites=tuple((site.name, "identity") for site in sites))


def _alternate(sites: Sequence[ReluSite], keep: str) -> list[ReluSite]:
    """The sites of one stage that thinning drops."""
    blocks: dict[str, list[ReluSite]] = {}
    for site in sites:
        if site.block is not None:
            blocks.setdefault(site.block, []).append(site)
    if any(len(block) > 1 for block in blocks.values()):
        return [site for block in blocks.values() for site in (block[1:] if keep == "first" else block[:-1])]
    return list(sites[1::2] if keep == "first" else sites[-2::-2])
