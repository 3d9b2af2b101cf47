"""The layer that a site action puts in the place of a ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import fx, nn

from deepreduce.cost.layers import Layer
from deepreduce.network.network import ReluSite


class Action(Protocol):
    """The part of a site action (`deepreduce.sites.SiteAction`) that counts and costs use."""

    def relu_count(self, site: ReluSite) -> int:
        """Return the ReLUs that the action leaves at the site, for one image."""

    def text(self, site: ReluSite) -> str:
        """Describe the ReLUs that the action leaves at the site, for a reader."""

    def layers(self, relu: Layer) -> Sequence[Layer]:
        """Return the layers that a cost model prices instead of the whole `relu`."""


class SiteLayer(nn.Module):
    """The layer by which `action` replaces a ReLU: a ReLU site like any other, which tracing keeps whole.

    `site_name`, `kind` and `cap` are the ReLU's. With `inplace`, the layer overwrites its input, as the ReLU did.
    """

    def __init__(self, action: Action, site: ReluSite, *, inplace: bool = False) -> None:
        super().__init__()
        self.action, self.site_name, self.kind, self.cap = action, site.name, site.kind, site.cap
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"{self.site_name}, {self.action!r}" + (", inplace=True" if self.inplace else "")


def site_layer_of(node: fx.Node, module: nn.Module) -> SiteLayer | None:
    """Return the site layer that a graph node calls; None if the node calls something else."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return layer if isinstance(layer, SiteLayer) else None
