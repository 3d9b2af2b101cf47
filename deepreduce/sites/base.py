"""The base of site actions: values of a plan that rewrite a graph, count, cost and anneal."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from deepreduce.cost.layers import Layer
from deepreduce.errors import PlanError
from deepreduce.network.inplace import is_inplace
from deepreduce.network.network import SITE, Network, ReluSite
from deepreduce.network.site_layer import SiteLayer, site_layer_of

Units = NDArray[np.bool_]


class Annealing(nn.Module):
    """A layer that turns from what stood at a site into what an action makes of it, as `share` goes from 0 to 1."""

    share: float = 0.0


@dataclass(frozen=True)
class SiteAction(ABC):
    """The action of a plan at a ReLU site: an immutable value that equals others of the same content.

    A new action is a frozen dataclass in a file of its own and a line of the registry (`deepreduce.sites.registry`).
    It says what `relu_count` it leaves and what `layer` takes the ReLU's place; the other methods have defaults to
    override: JSON is the action's `kind`, or an object of it and the fields; costs are those of the whole ReLU; there
    is no gradual way; no other action's ReLUs lie `within` it.
    """

    kind: ClassVar[str]
    """The action's name in JSON and in the registry."""

    fixes: ClassVar[tuple[str, ...]] = ("alpha", "rho")
    """Scales that are refused for a network which has the action, since the action fits one shape alone."""

    # -- a value of a plan ----------------------------------------------------------------------------------------

    def to_json(self) -> Any:
        """Return plain values: the kind, or where there are fields an object with them; tensors by their digests."""
        return {"kind": self.kind, **asdict(self)} if fields(self) else self.kind

    @classmethod
    def from_json(cls, value: Mapping[str, Any], tensor: Tensor | None) -> SiteAction:
        """Return the action of a JSON object's fields, and of the `tensor` that lies beside the plan, if any.

        Raises `PlanError` for fields that are not the action's, and for a tensor that is not the one described.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise PlanError(f"{dict(value)!r} does not describe a {cls.kind}: {error}") from error

    def tensor(self) -> Tensor | None:
        """Return what lies beside the plan because JSON is no place for it; None where there is nothing."""
        return None

    @property
    def is_complete(self) -> bool:
        """Return False where the action is known by its digest alone, so that it can be named but not applied."""
        return True

    def units(self) -> Units | None:
        """Return which elements of a site keep their ReLU: (C, H, W), (C, 1, 1) for whole channels, () for all alike.

        None for an action that is more than a choice between the ReLU and the identity.
        """
        return None

    def within(self, other: SiteAction) -> bool:
        """Return whether every ReLU that this action keeps is kept by the other too, at a site of the same shape."""
        if self == other:
            return True
        own, others = self.units(), other.units()
        if (own is not None and not own.any()) or (others is not None and others.all()):
            return True
        if own is None or others is None:
            return False
        areas = (own.shape[1:], others.shape[1:])
        is_same_site = own.shape[:1] == others.shape[:1] and (areas[0] == areas[1] or (1, 1) in areas)
        return is_same_site and bool((own <= others).all())

    # -- at a site of a network -----------------------------------------------------------------------------------

    @abstractmethod
    def relu_count(self, site: ReluSite) -> int:
        """Return the ReLUs of one image that the action leaves at the site."""

    def normalised(self, site: ReluSite) -> SiteAction:
        """Return the simplest action that does the same at this site. Raises `PlanError` where it does not fit."""
        return self

    def layer(self, site: ReluSite, *, inplace: bool) -> SiteLayer:
        """Return what takes the ReLU's place; where `inplace`, it has to overwrite its input, as the ReLU did."""
        raise NotImplementedError(f"{type(self).__name__} defines neither layer nor rewrite")

    def rewrite(self, call: SiteCall) -> None:
        """Change the graph around the ReLU's call: by default, call the action's layer instead."""
        call.replace_by(self.layer(call.site, inplace=call.is_inplace))

    def annealed(self, site: ReluSite, *, before: SiteAction, copies: bool) -> Annealing | None:
        """Return a layer that leads from the action `before` gradually to this one; None where there is no such way.

        It overwrites nothing. `copies`: what follows may overwrite its output, which must be a tensor of its own.
        """
        return None

    def text(self, site: ReluSite) -> str:
        """Return what stands at the site, for a reader."""
        return self.kind.replace("_", " ")

    # -- what it costs --------------------------------------------------------------------------------------------

    def layers(self, relu: Layer) -> Sequence[Layer]:
        """Return the layers that a cost model prices in the place of the whole `relu`, as the engine runs them today.

        The lowering follows the operations of the action's layer one by one (`deepreduce.private.lowering`).
        """
        return (relu,)


@dataclass(frozen=True, kw_only=True)
class SiteCall:
    """The call of a ReLU in a graph that is being rewritten. `site` is what it is in that graph, with its new shape.

    `copies`: some call of the graph overwrites a tensor, so that whatever was a tensor of its own has to stay one.
    """

    module: fx.GraphModule
    node: fx.Node
    site: ReluSite
    copies: bool

    @property
    def is_inplace(self) -> bool:
        """Return whether the ReLU overwrites its input."""
        return is_inplace(self.node, self.module)

    def bypass(self) -> None:
        """Take the call out of the graph: its input takes the place of its output."""
        source = self.node.all_input_nodes[0]
        if self.copies and not self.is_inplace:
            with self.module.graph.inserting_before(self.node):
                source = self.module.graph.call_function(torch.clone, (source,))
        self.node.replace_all_uses_with(source)
        self.module.graph.erase_node(self.node)

    def replace_by(self, layer: nn.Module) -> None:
        """Call the layer instead, which stays a site of the same name where it is a `SiteLayer`."""
        path = self._free_path()
        like = next((p for p in self.module.parameters() if p.is_floating_point()), torch.empty(0))
        self.module.add_submodule(path, layer.to(device=like.device, dtype=like.dtype).train(self.module.training))
        with self.module.graph.inserting_before(self.node):
            call = self.module.graph.call_module(path, (self.node.all_input_nodes[0],))
        call.meta = copy.copy(self.node.meta)
        self.node.replace_all_uses_with(call)
        self.module.graph.erase_node(self.node)

    def _free_path(self) -> str:
        """Return a path for the site's layer: the same in every network, since weights go by their paths."""
        stem = "site_" + re.sub(r"\W", "_", self.site.name)
        path, number = stem, 2
        while hasattr(self.module, path) and not self._is_of_this_site(getattr(self.module, path)):
            path, number = f"{stem}_{number}", number + 1
        return path

    def _is_of_this_site(self, layer: object) -> bool:
        return isinstance(layer, SiteLayer) and layer.site_name == self.site.name


def rewrite_sites(module: fx.GraphModule, actions: Mapping[str, SiteAction], sites: Mapping[str, ReluSite]) -> None:
    """Carry out actions in a graph, by the names of its sites; `sites` are those of the graph, with their shapes."""
    if not actions:
        return
    copies = any(is_inplace(node, module) for node in module.graph.nodes)
    for node in list(module.graph.nodes):
        name = node.meta[SITE][0] if SITE in node.meta else ""
        if name in actions:
            actions[name].rewrite(SiteCall(module=module, node=node, site=sites[name], copies=copies))
    module.delete_all_unused_submodules()
    module.recompile()


def select_of(action: SiteAction, site: ReluSite) -> Tensor | None:
    """Return which elements of the site keep their ReLU, as booleans that broadcast to (batch, *shape of the site).

    None where all do. Raises `PlanError` for an action that is more than a choice between ReLU and identity.
    """
    units = action.units()
    if units is None:
        raise PlanError(f"site {site.name!r}: {action!r} is no mask; there is no gradual way from it")
    if units.all():
        return None
    units = units.reshape(units.shape[: len(site.shape)])
    return torch.from_numpy(units.copy()).reshape(1, *units.shape)


def actions_in(network: Network) -> dict[str, SiteAction]:
    """Return the actions that stand in a network already, by the names of their sites."""
    nodes = {node.name: node for node in network.module.graph.nodes}
    layers = {site.name: site_layer_of(nodes[site.node], network.module) for site in network.sites}
    return {name: layer.action for name, layer in layers.items() if layer is not None}  # type: ignore[misc]
