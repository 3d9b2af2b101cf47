"""The layer that a site action puts in the place of a ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import fx, nn

from deepreduce.cost.layers import Layer
from deepreduce.network.network import ReluSite


class Action(Protocol):
    """What counts and costs need of a site action (`deepreduce.sites.SiteAction`)."""

    def relu_count(self, site: ReluSite) -> int:
        """Return the ReLUs that the action leaves at the site, for one image."""

    def text(self, site: ReluSite) -> str:
        """Return what the action leaves at the site, for a reader."""

    def layers(self, relu: Layer) -> Sequence[Layer]:
        """Return what a cost model is to price instead of the whole `relu`."""


class SiteLayer(nn.Module):
    """A layer in the place of a ReLU, by `action`. It is a ReLU site like any other, and tracing keeps it whole.

    `site_name`, `kind` and `cap` are those of the ReLU; an `inplace` one overwrites its input, as the ReLU did.
    """

    def __init__(self, action: Action, site: ReluSite, *, inplace: bool = False) -> None:
        super().__init__()
        self.action, self.site_name, self.kind, self.cap = action, site.name, site.kind, site.cap
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"{self.site_name}, {self.action!r}" + (", inplace=True" if self.inplace else "")


def site_layer_of(node: fx.Node, module: nn.Module) -> SiteLayer | None:
    """Return the site layer that a graph node calls; None where it calls anything else."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return layer if isinstance(layer, SiteLayer) else None
