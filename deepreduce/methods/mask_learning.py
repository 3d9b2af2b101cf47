"""Learn which units keep their ReLU inside a training: the network, its units, and the choice within a budget.

A unit is a channel or an element of a site, or the whole of a site that no mask fits. Methods that learn masks score
units in ways of their own; what they have in common is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from deepreduce.network import Network, ReluSite
from deepreduce.network.network import SITE
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, KEEP, ChannelMask, PixelMask, SiteAction, SiteCall, actions_in
from deepreduce.sites.layers import MaskedRectifier, rectify
from deepreduce.training import PlanLearner, PreparedStudent, TrainingState
from deepreduce.transforms import apply_plan

Unit: TypeAlias = Literal["channel", "pixel"]
_MOST_SLOTS = 4096
"""Steps of a sum of costs up to which an exact exchange is looked for."""

Listener: TypeAlias = Callable[[Tensor, Tensor], None]
Gate: TypeAlias = Callable[[Tensor, float | None], Tensor]
"""Computes what a site does to x, with its cap, in the place of the mask."""


class LearnedRelu(nn.Module):
    """A ReLU of some units of a site, the identity of the others, which change while the network is trained.

    `mask` holds a boolean for each unit and broadcasts to (batch, *shape of the site): (1, C, 1, 1) for channels,
    (1, C, H, W) for elements, () for the whole site. `cost` is what a unit counts, in ReLUs of one image.
    """

    mask: Tensor

    def __init__(self, site: ReluSite, mask: Tensor, *, inplace: bool) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)  # the plan holds it
        self.cost = math.prod(site.shape) // mask.numel()
        self.listener: Listener | None = None
        self.gate: Gate | None = None
        self._cap, self._inplace, self._rectify = site.cap, inplace, MaskedRectifier()

    @property
    def relu_count(self) -> int:
        """ReLUs of one image that are left."""
        return int(self.mask.sum()) * self.cost

    def units(self) -> NDArray[np.bool_]:
        """Return which units keep their ReLU: (C, 1, 1), (C, H, W) or ()."""
        mask = self.mask if self.mask.dim() == 0 else self.mask[0]
        return mask.cpu().numpy()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, *shape of the site). A listener gets what the ReLU removes of x, and the output."""
        y = self._rectify(x, self.mask, self._cap) if self.gate is None else self.gate(x, self._cap)
        if self.listener is not None and y.requires_grad:
            removed = x.detach()
            self.listener(removed - rectify(removed, self._cap), y)
        return x.copy_(y) if self._inplace else y


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnableNetwork:
    """A network whose masks are learned: its module, the layer of each site by name, and the plan without masks.

    The module has the weights of the network that `plan()` names, under the same names.
    """

    module: fx.GraphModule
    layers: Mapping[str, LearnedRelu]
    sites: Mapping[str, ReluSite]
    base: ReductionPlan
    fixed: int
    """ReLUs of sites that are not learned."""

    @property
    def relu_count(self) -> int:
        """ReLUs of one image that are left."""
        return self.fixed + sum(layer.relu_count for layer in self.layers.values())

    def plan(self) -> ReductionPlan:
        """Return the plan of the network as its masks are now."""
        learned = {name: _action_of(layer.units(), self.sites[name]) for name, layer in self.layers.items()}
        kept = {name: action for name, action in self.base.sites if name not in learned}
        return replace(self.base, sites=tuple({**kept, **learned}.items()))


def learnable(original: Network, plan: ReductionPlan, *, unit: Unit, seed: int = 0) -> LearnableNetwork:
    """Return the original reduced by `plan`, whose masks can shrink further.

    Sites with an action that is more than a choice between ReLU and identity stay as they are.
    """
    asked = dict(plan.sites)
    left_alone = {name: action for name, action in asked.items() if action.units() is None}
    base = replace(plan, sites=tuple(left_alone.items()))
    reduced = apply_plan(original, base, seed=seed)
    present = actions_in(reduced)
    module, sites = reduced.module, {site.name: site for site in reduced.sites}
    layers: dict[str, LearnedRelu] = {}
    fixed = 0
    for node in list(module.graph.nodes):
        site = sites.get(node.meta[SITE][0]) if SITE in node.meta else None
        if site is None:
            continue
        before = asked.get(site.name, present.get(site.name, KEEP))
        if before.units() is None:
            fixed += site.relu_count
            continue
        call = SiteCall(module=module, node=node, site=site, copies=False)
        layers[site.name] = LearnedRelu(site, _mask_of(before, site, unit), inplace=call.is_inplace)
        call.replace_by(layers[site.name])
    module.delete_all_unused_submodules()
    module.recompile()
    return LearnableNetwork(module=module, layers=layers, sites=sites, base=base, fixed=fixed)


class MaskLearner(PlanLearner):
    """A learner whose student is trained as a `LearnableNetwork`; its weights return to the student in the end."""

    def __init__(self, student: PreparedStudent, *, unit: Unit) -> None:
        """Set the module that is trained for the student."""
        self.network = learnable(student.original, student.plan, unit=unit, seed=student.seed)
        self._replaced, student.module = student.module, self.network.module
        self.network.module.load_state_dict(self._replaced.state_dict())

    def on_end(self, state: TrainingState) -> None:
        """Copy the weights to the module that this one has replaced."""
        self._replaced.load_state_dict(self.network.module.state_dict())

    def learned_plan(self) -> ReductionPlan:
        """Return the plan with the masks as they are now."""
        return self.network.plan()

    def state_dict(self) -> dict[str, Any]:
        """Return the masks."""
        return {f"mask.{name}": layer.mask for name, layer in self.network.layers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the masks."""
        for name, layer in self.network.layers.items():
            layer.mask.copy_(state[f"mask.{name}"])


def state_of_adam(optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return tensors by name that an Adam trains, and what it keeps of each, for a callback's state."""
    state = {f"value.{name}": value.detach() for name, value in values.items()}
    for name, value in values.items():
        state |= {f"{kept}.{name}": moment for kept, moment in optimizer.state.get(value, {}).items()}
    return state


def load_adam(optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Take over what `state_of_adam` returned."""
    optimizer.state.clear()
    for name, value in values.items():
        with torch.no_grad():
            value.copy_(state[f"value.{name}"])
        for kept in ("step", "exp_avg", "exp_avg_sq"):
            moment = state.get(f"{kept}.{name}")
            if moment is not None:
                optimizer.state[value][kept] = moment.to("cpu" if kept == "step" else value.device)


def unit_shape(site: ReluSite, unit: Unit) -> tuple[int, ...]:
    """Return the shape of a site's units, which broadcasts to that of the site; () where it is a unit as a whole."""
    fits = PixelMask.ranks if unit == "pixel" else ChannelMask.ranks
    if not site.has_batch or len(site.shape) not in fits:
        return ()
    return site.shape if unit == "pixel" else (site.shape[0], *(1,) * (len(site.shape) - 1))


def _mask_of(action: SiteAction, site: ReluSite, unit: Unit) -> Tensor:
    """Return a boolean for each unit: true where all of its elements keep their ReLU."""
    shape, kept = unit_shape(site, unit), action.units()
    assert kept is not None
    if shape == ():
        return torch.tensor(bool(kept.all()))
    elements = np.broadcast_to(kept.reshape(kept.shape[: len(site.shape)]), site.shape)
    if unit == "channel":
        elements = elements.all(axis=tuple(range(1, len(site.shape))), keepdims=True)
    return torch.from_numpy(elements.copy())[None]


def _action_of(kept: NDArray[np.bool_], site: ReluSite) -> SiteAction:
    """Return the action of a boolean for each unit of a site."""
    if kept.ndim == 0:
        return KEEP if bool(kept) else IDENTITY
    action = ChannelMask.of(kept.ravel()) if kept.size == site.shape[0] else PixelMask.of(kept)
    return action.normalised(site)


def expected_plan(network: Network, base: ReductionPlan, *, unit: Unit, budget: int) -> ReductionPlan:
    """Return a plan of at most `budget` ReLUs, chosen without training: the last sites of the network are kept.

    It stands for what a training will choose: with as many ReLUs, but other units.
    """
    sites = [site for site in apply_plan(network, replace(base, sites=())).sites if site.relu_count == site.elements]
    shapes = [unit_shape(site, unit) for site in sites]
    costs = [
        np.full(shape, site.elements // max(math.prod(shape), 1)) for site, shape in zip(sites, shapes, strict=True)
    ]
    place = [np.full(shape, float(number)) for number, shape in enumerate(shapes)]
    flat_costs = np.concatenate([c.ravel() for c in costs])
    kept = choose(np.concatenate([p.ravel() for p in place]), flat_costs, np.ones(len(flat_costs), np.bool_), budget)
    actions, begin = {}, 0
    for site, shape in zip(sites, shapes, strict=True):
        end = begin + math.prod(shape)
        actions[site.name] = _action_of(kept[begin:end].reshape(shape), site)
        begin = end
    return replace(base, sites=tuple(actions.items()))


def keep_best(
    network: LearnableNetwork,
    scores: Mapping[str, Tensor],
    budget: int,
    *,
    alive: Mapping[str, Tensor] | None = None,
) -> None:
    """Remove the ReLUs of units until at most `budget` are left in the network.

    `scores` are of the masks' shapes, by site. Kept are the units of the highest score per ReLU; a unit that no
    longer fits is left out, and smaller ones after it may be kept. Units are chosen among those that are true in
    `alive`, masks by site; None: among those that have their ReLU now, so that masks only shrink.
    """
    if alive is not None or network.relu_count > budget:
        now = {name: layer.mask for name, layer in network.layers.items()}
        _keep(network, scores, budget, among=now if alive is None else alive)


def choose_anew(
    network: LearnableNetwork,
    scores: Mapping[str, Tensor],
    budget: int,
    *,
    among: Mapping[str, Tensor] | None = None,
) -> None:
    """Keep the ReLUs of the best units as `keep_best` does, among all units, with or without ReLU until now.

    `among` are masks by site of the units that may have a ReLU (None: all), such as those of the original network.
    """
    everything = {name: torch.ones_like(layer.mask) for name, layer in network.layers.items()}
    _keep(network, scores, budget, among=everything if among is None else among)


def _keep(
    network: LearnableNetwork, scores: Mapping[str, Tensor], budget: int, *, among: Mapping[str, Tensor]
) -> None:
    layers = network.layers
    if not layers:
        return
    costs = np.concatenate([np.full(layer.mask.numel(), layer.cost) for layer in layers.values()])
    worth = np.concatenate([scores[name].detach().float().cpu().numpy().ravel() for name in layers]) / costs
    alive = np.concatenate([among[name].cpu().numpy().ravel() for name in layers])
    kept = choose(worth, costs, alive, budget - network.fixed)
    begin = 0
    for layer in layers.values():
        end = begin + layer.mask.numel()
        layer.mask.copy_(torch.from_numpy(kept[begin:end]).view_as(layer.mask))
        begin = end


def choose(
    worth: NDArray[np.float64], costs: NDArray[np.int64], alive: NDArray[np.bool_], budget: int
) -> NDArray[np.bool_]:
    """Return which of the units that are alive are kept: the best by `worth` per ReLU that fit into the budget.

    The budget is met exactly wherever one unit that did not fit can be kept instead of smaller ones.
    """
    kept = np.zeros(len(worth), dtype=np.bool_)
    order = np.flatnonzero(alive)
    order = order[np.argsort(-worth[order], kind="stable")]
    spent = np.cumsum(costs[order])
    whole = int(np.searchsorted(spent, budget, side="right"))
    kept[order[:whole]] = True
    left = budget - (int(spent[whole - 1]) if whole else 0)
    least = int(costs[order].min()) if len(order) else 0
    for unit in order[whole:]:
        if left < least:
            break
        if costs[unit] <= left:
            kept[unit] = True
            left -= int(costs[unit])
    if left and not kept[order].all():
        _spend_exactly(kept, worth, costs, order, left)
    return kept


def _spend_exactly(
    kept: NDArray[np.bool_],
    worth: NDArray[np.float64],
    costs: NDArray[np.int64],
    order: NDArray[np.intp],
    left: int,
) -> None:
    """Keep one more unit, and give up smaller ones, so that the `left` ReLUs are spent, at the best worth.

    `order` are the units that are alive, the best first. Changes nothing where no such exchange is exact.
    """
    best: tuple[float, int, list[int]] | None = None
    for cost in np.unique(costs[order[~kept[order]]]):
        unit = next(int(u) for u in order if not kept[u] and costs[u] == cost)
        given_up = _cheapest_of_sum(kept, worth, costs, order, int(cost) - left)
        if given_up is not None:
            gain = worth[unit] * cost - float((worth[given_up] * costs[given_up]).sum())
            if best is None or gain > best[0]:
                best = (gain, unit, given_up)
    if best is not None:
        kept[best[1]] = True
        kept[best[2]] = False


def _cheapest_of_sum(
    kept: NDArray[np.bool_],
    worth: NDArray[np.float64],
    costs: NDArray[np.int64],
    order: NDArray[np.intp],
    total: int,
) -> list[int] | None:
    """Return the kept units of least worth whose costs come to `total`; None where there are none."""
    step = int(np.gcd.reduce(costs[order]))
    if total % step or total // step > _MOST_SLOTS:
        return None
    slots = total // step
    least: list[tuple[float, list[int]] | None] = [(0.0, []), *[None] * slots]
    for unit in _worst_of_each_cost(kept, costs, order, total):
        size, loss = int(costs[unit]) // step, float(worth[unit] * costs[unit])
        for slot in range(slots, size - 1, -1):
            before = least[slot - size]
            now = least[slot]
            if before is not None and (now is None or before[0] + loss < now[0]):
                least[slot] = (before[0] + loss, [*before[1], unit])
    found = least[slots]
    return None if found is None else found[1]


def _worst_of_each_cost(
    kept: NDArray[np.bool_], costs: NDArray[np.int64], order: NDArray[np.intp], total: int
) -> Iterator[int]:
    """Yield the kept units of least worth, as many of each cost as a sum of `total` can have."""
    counts: dict[int, int] = {}
    for unit in order[::-1]:
        cost = int(costs[unit])
        if kept[unit] and cost <= total and counts.get(cost, 0) < total // cost:
            counts[cost] = counts.get(cost, 0) + 1
            yield int(unit)
