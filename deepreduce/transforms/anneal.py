"""ReLUs that go gradually: a network that turns into a reduced one while it is trained.

A ReLU that disappears at once shocks the layers behind it, which were trained on its output (SNL, arXiv 2202.02340,
reports networks at chance after it). Here its slope for negative inputs rises from 0 to 1 instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, fx, nn
from torch.nn import functional as F

from deepreduce.network.inplace import is_inplace
from deepreduce.network.network import SITE, Network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms.apply import apply_plan


class Fading(nn.Module):
    """A ReLU on its way out: negative inputs are multiplied by `slope`, 0 for a ReLU and 1 for the identity."""

    slope = 0.0

    def __init__(self, *, copies: bool) -> None:
        """`copies`: what follows may overwrite its output, so that must be a tensor of its own even at slope 1."""
        super().__init__()
        self._copies = copies

    def forward(self, x: Tensor) -> Tensor:
        """x, of any shape, with its negative elements scaled."""
        return x if self.slope >= 1 and not self._copies else F.leaky_relu(x, self.slope)


@dataclass(frozen=True, kw_only=True)
class AnnealedNetwork:
    """`module` has the weights of the reduced network under the same names; its `relus` are still there."""

    module: fx.GraphModule
    relus: tuple[Fading, ...]

    def fade(self, share: float) -> None:
        """Let so much of every ReLU be gone: from 0 to 1, where the network is the reduced one."""
        for relu in self.relus:
            relu.slope = min(max(share, 0.0), 1.0)


def fading(network: Network, plan: ReductionPlan, *, seed: int = 0) -> AnnealedNetwork | None:
    """The network reduced by `plan`, but for the ReLUs that the plan drops, which are there to fade.

    None where none can fade: the plan drops none, or pads linear regions once, which there are only without ReLUs,
    or a ReLU overwrites what others read besides.
    """
    doomed = set(plan.linearized)
    if not doomed or plan.pad_once:
        return None
    sites = tuple((name, action) for name, action in plan.sites if name not in doomed)
    module = apply_plan(network, replace(plan, sites=sites), seed=seed).module
    nodes = [node for node in module.graph.nodes if SITE in node.meta and node.meta[SITE][0] in doomed]
    if any(is_inplace(node, module) and len(node.all_input_nodes[0].users) > 1 for node in nodes):
        return None
    overwriting = any(is_inplace(node, module) for node in module.graph.nodes if node not in nodes)
    relus = []
    for number, node in enumerate(nodes):
        relus.append(Fading(copies=overwriting))
        name = f"_fading{number}"
        module.add_submodule(name, relus[-1])
        with module.graph.inserting_before(node):
            faded = module.graph.call_module(name, (node.all_input_nodes[0],))
        node.replace_all_uses_with(faded)
        module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
    return AnnealedNetwork(module=module, relus=tuple(relus))
