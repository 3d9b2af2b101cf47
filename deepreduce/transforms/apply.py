"""From a network and a plan to the reduced network, with the weights that still fit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from deepreduce.errors import ModelError, PlanError, unknown_name
from deepreduce.models import ModelSpec, build_model
from deepreduce.network.copying import copy_module
from deepreduce.network.network import Network, ReluSite
from deepreduce.network.observe import observe
from deepreduce.network.trace import describe, trace_network, without_weights
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, KEEP, SiteAction, actions_in, rewrite_sites
from deepreduce.transforms.collapse.pad_once import pad_once, regions_to_pad
from deepreduce.transforms.resolution import fit_pools, scale_resolution, stride_factor
from deepreduce.transforms.width.cut import narrow, simplest_alpha


def apply_plan(network: Network, plan: ReductionPlan, *, seed: int = 0) -> Network:
    """Return a new network, reduced by `plan`; `network` stays as it is, and so does the global random state.

    Weights of the same name and shape are inherited; where alpha has made a tensor smaller, its leading
    entries are; the rest is initialised from `seed`. Site and stage names stay those of the original, and a
    stage that has lost all its ReLUs stays listed with a count of 0. Edits add up: a network that is reduced
    already can be reduced further; masks can only shrink. Works on the meta device too, where there are counts but
    no weights.

    Alpha rebuilds a network of the zoo; from any other network it takes the least important channels of each layer,
    and `notes` of the result tell which layers it could not scale (`deepreduce.transforms.width.cut`). Masks are for
    the channels and pixels that are left then.

    `pad_once` comes last: it pads the linear regions of what all else has made
    (`deepreduce.transforms.collapse.pad_once`).

    Raises `PlanError` where the plan names a site that the network does not have, asks for a size it can't have,
    changes nothing, holds a mask of another shape than its site, sets the depth of a network that is not of the zoo,
    or the size of one that is padded once or masked.
    """
    _check_traced(network)
    asked, plan = plan, normalise_plan(network, plan)
    if plan.is_empty and not asked.is_empty:
        raise PlanError(f"{network.name} is already what {asked!r} asks for; give a plan that changes something")
    reduced = _without_padding_once(network, plan, seed=seed)
    return pad_once(reduced) if plan.pad_once else reduced


def _without_padding_once(network: Network, plan: ReductionPlan, *, seed: int) -> Network:
    """Return the network reduced by a plan in normal form, with its padding as it was."""
    notes = network.notes
    rebuilds = is_zoo(network) and (plan.alpha != 1 or plan.depth is not None)
    if rebuilds:
        module = _rebuilt(network, plan, seed=seed)
    elif plan.alpha != 1:
        module, unscaled = narrow(network, plan.alpha)
        notes = tuple(dict.fromkeys((*notes, *unscaled)))
    else:
        module = copy_module(network.module)
    if plan.rho != 1:
        scale_resolution(module, plan.rho)
    spec = _scaled_spec(network, plan) if is_zoo(network) else network.spec
    try:
        if plan.rho != 1 or rebuilds:
            fit_pools(module, network.input_shape, network.node_shapes, name=network.name)
        rewrite_sites(module, dict(plan.sites), sites_to_rewrite(network, plan))
        observed = observe(module, network.input_shape, name=network.name)
    except ModelError as error:
        if plan.rho == 1:
            raise
        raise PlanError(f"rho {plan.rho:g} does not fit {network.name}: {error}") from error
    reduced = describe(module, observed, network.input_shape, name=network.name, spec=spec, stages=network.stages)
    return replace(
        reduced,
        stage_patterns=network.stage_patterns,
        notes=notes,
        is_padded_once=network.is_padded_once,
    )


def normalise_plan(network: Network, plan: ReductionPlan) -> ReductionPlan:
    """Return the plan that means the same for this network in the fewest words.

    A depth that the network has already is left out, and so are what a plan says about sites of blocks that
    its depth drops, and padding once where it would pad nothing; alpha and rho are the ratios of whole channels and
    strides that they come to; a mask that keeps everything is left out, one that keeps nothing is the identity, and
    one of whole channels a channel mask. Raises `PlanError` as `apply_plan` does.
    """
    plan = _normal_size(network, plan)
    if network.is_padded_once and (plan.alpha, plan.rho, plan.depth) != (1, 1, None):
        raise PlanError(
            f"{network.name} is padded once, which fixes its size; give alpha, rho and depth in the same plan as"
            " pad_once, for the network that is not padded yet"
        )
    _check_shapes_stay(network, plan)
    plan = replace(plan, sites=_normal_actions(network, plan))
    if plan.pad_once and not regions_to_pad(_without_padding_once(network, plan, seed=0)):
        return replace(plan, pad_once=False)
    return plan


def _check_shapes_stay(network: Network, plan: ReductionPlan) -> None:
    """Raise `PlanError` where an action that the network has already would no longer fit its site."""
    changed = [name for name in ("alpha", "rho") if getattr(plan, name) != 1]
    for site, action in actions_in(network).items():
        for name in changed:
            if name in action.fixes:
                raise PlanError(
                    f"{network.name}: {name} would change the shape of site {site!r}, to which {action!r} was fitted;"
                    f" give {name} and the masks in one plan, for the network that has neither yet"
                )


def _normal_actions(network: Network, plan: ReductionPlan) -> tuple[tuple[str, SiteAction], ...]:
    """Return the plan's actions in their simplest form, without those that stand in the network already."""
    sites, present = sites_to_rewrite(network, plan), actions_in(network)
    normal = []
    for name, given in plan.sites:
        before, action = present.get(name, KEEP), given.normalised(sites[name])
        if not action.within(before):
            raise PlanError(
                f"{network.name}: site {name!r} is {before!r} already, and {given!r} would bring ReLUs back that are"
                " gone; masks can only shrink"
            )
        if action != before:
            normal.append((name, action))
    return tuple(normal)


def sites_to_rewrite(network: Network, plan: ReductionPlan) -> dict[str, ReluSite]:
    """Return the sites by name, with the shapes that alpha, rho and depth leave; identities look at none."""
    is_reshaped = (plan.alpha, plan.rho, plan.depth) != (1, 1, None)
    if is_reshaped and len(plan.linearized) < len(plan.sites):
        network = _without_padding_once(without_weights(network), replace(plan, sites=()), seed=0)
    return {site.name: site for site in network.sites}


def _normal_size(network: Network, plan: ReductionPlan) -> ReductionPlan:
    known = {site.name for site in network.sites}
    for name, _ in plan.sites:
        if name not in known:
            raise PlanError(f"{network.name}: " + unknown_name("ReLU site", name, sorted(known)))
    plan = replace(plan, rho=1 / stride_factor(plan.rho))
    if plan.depth is not None and plan.depth == network.blocks:
        plan = replace(plan, depth=None)
    if plan.alpha == 1 and plan.depth is None:
        return plan
    if not is_zoo(network):
        if plan.depth is not None:
            raise PlanError(
                f"{network.name} was not built from a spec with blocks per stage; depth works for the zoo's"
                " networks (see 'deepreduce models'), all other edits for any"
            )
        return replace(plan, alpha=simplest_alpha(network, plan.alpha))
    scaled = _scaled_spec(network, plan)
    assert network.spec is not None and scaled.width is not None and network.spec.width is not None
    plan = replace(plan, alpha=scaled.width / network.spec.width)
    if plan.depth is None:
        return plan
    left = {s.name for s in trace_network(build_model(scaled, device="meta"), network.input_shape, spec=scaled).sites}
    return replace(plan, sites=tuple(pair for pair in plan.sites if pair[0] in left))


def is_zoo(network: Network) -> bool:
    """Return True where another width or depth means to build the network again."""
    return network.spec is not None and network.spec.is_zoo


def _check_traced(network: Network) -> None:
    if network.untraceable is not None:
        raise PlanError(
            f"{network.name} can be analyzed but not reduced: for that torch.fx must follow it, and"
            f" {network.untraceable}"
        )


def _scaled_spec(network: Network, plan: ReductionPlan) -> ModelSpec:
    assert network.spec is not None
    try:
        return network.spec.scaled(alpha=plan.alpha, depth=plan.depth)
    except ModelError as error:
        raise PlanError(str(error)) from error


def _rebuilt(network: Network, plan: ReductionPlan, *, seed: int) -> fx.GraphModule:
    """Return the network built again at another width or depth, with earlier edits and the weights that fit."""
    parameter = next(network.module.parameters())
    spec = _scaled_spec(network, plan)
    fresh = build_model(spec, seed=seed, device=parameter.device).to(parameter.dtype)
    traced = trace_network(fresh, network.input_shape, spec=spec)
    module = traced.module
    sites = {site.name: site for site in traced.sites}
    gone = dict.fromkeys(sites.keys() - {site.name for site in network.sites}, IDENTITY)
    rewrite_sites(module, {**actions_in(network), **gone}, sites)
    _carry_strides(module, network.module)
    _inherit(module, network.module)
    module.train(network.module.training)
    return module


def _carry_strides(module: nn.Module, source: nn.Module) -> None:
    """Copy the strides of convolutions, in which an earlier rho lives."""
    strides = {name: m.stride for name, m in source.named_modules() if isinstance(m, nn.Conv2d)}
    for name, m in module.named_modules():
        if isinstance(m, nn.Conv2d):
            m.stride = strides.get(name, m.stride)


@torch.no_grad()
def _inherit(module: nn.Module, source: nn.Module) -> None:
    weights = source.state_dict()
    for name, value in module.state_dict().items():
        inherited = weights.get(name)
        if inherited is None or value.device.type == "meta" or inherited.dim() != value.dim():
            continue
        if all(new <= old for new, old in zip(value.shape, inherited.shape, strict=True)):
            leading: Tensor = inherited[tuple(slice(0, n) for n in value.shape)] if value.dim() else inherited
            value.copy_(leading)
