"""A reduced network that starts from the trained weights of another: its parent on the path of reductions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from deepreduce.errors import PlanError
from deepreduce.network.copying import copy_module
from deepreduce.network.network import Network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import KEEP
from deepreduce.transforms.apply import apply_plan
from deepreduce.transforms.width.cut import narrow


def can_warm_start(plan: ReductionPlan, parent: ReductionPlan) -> bool:
    """Return whether every ReLU, channel and block of `plan` is in `parent` too: its weights then all have a source.

    Channels count as contained at the same alpha, or where the parent has all of the original's; ReLUs of a masked
    site where the plan's mask keeps no unit that the parent's does not keep.
    """
    actions = dict(plan.sites)
    return (
        all(actions.get(name, KEEP).within(before) for name, before in parent.sites)
        and plan.rho <= parent.rho
        and (parent.alpha == 1 or parent.alpha == plan.alpha)
        and (parent.depth is None or parent.depth == plan.depth)
        and (parent.pad_once == plan.pad_once or not parent.pad_once)
    )


def warm_start(
    original: Network,
    plan: ReductionPlan,
    *,
    parent: ReductionPlan,
    weights: Mapping[str, Tensor],
    seed: int = 0,
) -> Network:
    """Return the original reduced by `plan`, with the weights of its reduction by `parent`.

    Where the parent has all channels and the plan fewer, the most important ones are inherited (see
    `deepreduce.transforms.width.cut`). What the parent has no weights for is initialised from `seed`. Raises
    `PlanError` where `can_warm_start` says no, and for weights that are not the parent's.
    """
    if not can_warm_start(plan, parent):
        raise PlanError(f"{plan!r} can't inherit from {parent!r}, which lacks ReLUs or channels of it")
    if parent.alpha == plan.alpha != 1:
        reduced = apply_plan(original, plan, seed=seed)
        _load(reduced, weights)
        return reduced
    source = replace(original, module=copy_module(original.module))
    _load(source, weights)
    if plan.is_empty:
        return source
    reduced = apply_plan(source, plan, seed=seed)
    if plan.alpha != 1:
        _choose_channels(reduced, source, plan.alpha)
    return reduced


def _load(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights; the network may have more (of blocks that the parent dropped) or fewer."""
    own = network.module.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own}
    if not fitting or any(own[name].shape != value.shape for name, value in fitting.items()):
        raise PlanError(f"{network.name}: the weights to inherit are of another network")
    network.module.load_state_dict(fitting, strict=False)


@torch.no_grad()
def _choose_channels(reduced: Network, source: Network, alpha: float) -> None:
    """Copy the weights of the source's most important channels into a network that was rebuilt with fewer.

    Where a layer has other channels than the cut gives it, what `apply_plan` inherited stays: so all layers agree on
    which channels they mean, or none does.
    """
    chosen = narrow(source, alpha)[0].state_dict()
    own = reduced.module.state_dict()
    if all(name in chosen and chosen[name].shape == value.shape for name, value in own.items()):
        reduced.module.load_state_dict({name: chosen[name] for name in own})
