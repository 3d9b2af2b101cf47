"""ReLUs that go gradually: a network that turns into a reduced one while it is trained.

A ReLU that disappears at once shocks the layers behind it, which were trained on its output (SNL, arXiv 2202.02340,
reports networks at chance after it). How it goes instead is up to the site's action (`SiteAction.annealed`): the
slope for negative inputs rises from 0 to 1, of all elements or of those that a mask removes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from deepreduce.network.inplace import is_inplace
from deepreduce.network.network import SITE, Network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import KEEP, Annealing, SiteCall, actions_in
from deepreduce.transforms.apply import apply_plan, normalise_plan, sites_to_rewrite


@dataclass(frozen=True, kw_only=True)
class AnnealedNetwork:
    """`module` has the weights of the reduced network under the same names; in `layers` the plan's actions begin."""

    module: fx.GraphModule
    layers: tuple[Annealing, ...]

    def advance(self, share: float) -> None:
        """Let every action be carried out to a share from 0 to 1, where the module is the reduced network."""
        for layer in self.layers:
            layer.share = min(max(share, 0.0), 1.0)


def anneal(
    network: Network, plan: ReductionPlan, *, start: ReductionPlan | None = None, seed: int = 0
) -> AnnealedNetwork | None:
    """Return the network reduced by `plan`, but for its actions at ReLU sites, which wait to be carried out.

    They lead there from what `start` does at the sites (None: from the network as it is). What it does already does
    not wait, nor does anything at its sites where it is of another size: its masks fit no more. None where there is
    no gradual way: no action waits, or one that can't be gradual; the plan pads linear regions once, which there are
    only without ReLUs; or a ReLU overwrites what others read as well.
    """
    if plan.pad_once:
        return None
    plan = normalise_plan(network, plan)
    done = {} if start is None else dict(start.sites)
    sites, present = sites_to_rewrite(network, plan), actions_in(network) | done
    is_resized = start is not None and (start.alpha, start.rho, start.depth) != (plan.alpha, plan.rho, plan.depth)
    settled = tuple((name, a) for name, a in plan.sites if name in done and (is_resized or a == done[name]))
    actions = {name: action for name, action in plan.sites if (name, action) not in settled}
    if not actions or any(present.get(name, KEEP).units() is None for name in actions):
        return None
    module = apply_plan(network, replace(plan, sites=settled), seed=seed).module
    nodes = [node for node in module.graph.nodes if SITE in node.meta and node.meta[SITE][0] in actions]
    if any(is_inplace(node, module) and len(node.all_input_nodes[0].users) > 1 for node in nodes):
        return None
    copies = any(is_inplace(node, module) for node in module.graph.nodes if node not in nodes)
    layers = []
    for node in nodes:
        call = SiteCall(module=module, node=node, site=sites[node.meta[SITE][0]], copies=copies)
        before = present.get(call.site.name, KEEP)
        layer = actions[call.site.name].annealed(call.site, before=before, copies=copies)
        if layer is None:
            return None
        call.replace_by(layer)
        layers.append(layer)
    module.delete_all_unused_submodules()
    module.recompile()
    return AnnealedNetwork(module=module, layers=tuple(layers))
