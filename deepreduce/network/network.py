"""The values that describe a network: its sites, its linear layers, its graph."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import networkx as nx
from torch import fx, nn

from deepreduce.errors import PlanError, unknown_name
from deepreduce.models.spec import ModelSpec
from deepreduce.network.compute_cost import ComputeCost

SITE = "deepreduce_site"
"""Key of a graph node's meta: (site name, stage, block), set once when the original is traced."""


@dataclass(frozen=True, kw_only=True)
class ReluSite:
    """One call of a ReLU.

    `name` is the module's path, or the calling module's path and the function's name; a second call of the
    same carries "#2". `shape` is its output's for one image, without the batch dimension. `kind` is "relu",
    or "relu6" where the output is capped as well (a second comparison per element).
    """

    name: str
    stage: str
    block: str | None
    shape: tuple[int, ...]
    relu_count: int
    kind: str
    node: str


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """One node of the graph that multiplies: convolution, linear, matrix product. `macs` are for one image."""

    name: str
    node: str
    macs: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A traced network: `module` runs it, the rest describes it. Edits return another one.

    `stages` maps each stage, in network order, to nothing but its name in `site.stage`; stages whose sites
    are all linearized stay listed, with a count of 0. `unsupported` counts the calls of every non-linearity
    that is not a ReLU, by name; `unsupported_elements` their outputs for one image. `spec` is how the network
    was built, where deepreduce built it. `outputs` holds the shape of every tensor that it gives, by name;
    `output_shape` is that of the only one. `stage_patterns` are the stages that the user gave. `untraceable` says
    why torch.fx can't follow a network that was analyzed through torch.export instead, and so can't be edited.
    `notes` tell what an edit could not do. `is_padded_once`: the zero padding of linear regions is done at their
    entries (`deepreduce.transforms.collapse.pad_once`), in amounts that fit `input_shape` alone.
    """

    name: str
    module: fx.GraphModule
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, ...] | None
    stages: tuple[str, ...]
    sites: tuple[ReluSite, ...]
    linear_layers: tuple[LinearLayer, ...]
    unsupported: Mapping[str, int]
    unsupported_elements: Mapping[str, int]
    node_shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    starved_layers: tuple[str, ...] = ()
    spec: ModelSpec | None = None
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stage_patterns: Mapping[str, tuple[str, ...]] | None = None
    untraceable: str | None = None
    notes: tuple[str, ...] = ()
    is_padded_once: bool = False

    @property
    def relu_count(self) -> int:
        """ReLUs evaluated for one image."""
        return sum(site.relu_count for site in self.sites)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(layer.macs for layer in self.linear_layers)

    @property
    def load(self) -> ComputeCost:
        """How long it takes to compute."""
        calls = (node for node in self.module.graph.nodes if node.op.startswith("call_"))
        return ComputeCost(
            macs=sum(round(layer.macs * self._padding(layer)) for layer in self.linear_layers),
            operations=sum(1 for _ in calls),
        )

    def _padding(self, layer: LinearLayer) -> float:
        module = dict(self.module.named_modules()).get(layer.name)
        if not isinstance(module, nn.Conv2d) or module.groups > 1:
            return 1.0
        channels = module.in_channels * module.out_channels
        return _padded(module.in_channels) * _padded(module.out_channels) / channels

    @property
    def stage_relu_counts(self) -> dict[str, int]:
        """ReLUs for one image, per stage in network order."""
        counts = dict.fromkeys(self.stages, 0)
        for site in self.sites:
            counts[site.stage] += site.relu_count
        return counts

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Blocks per stage, for a network of the zoo."""
        return self.spec.blocks if self.spec else None

    def sites_of(self, stage: str) -> tuple[ReluSite, ...]:
        """The stage's sites in network order. Raises `PlanError` for a stage that it has not."""
        if stage not in self.stages:
            raise PlanError(f"{self.name}: " + unknown_name("stage", stage, self.stages))
        return tuple(site for site in self.sites if site.stage == stage)

    def site(self, name: str) -> ReluSite:
        """The site called `name`. Raises `PlanError` where there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise PlanError(f"{self.name}: " + unknown_name("ReLU site", name, [s.name for s in self.sites]))

    @property
    def dag(self) -> nx.DiGraph:
        """The data flow: nodes carry `op`, `target`, `shape` (one image), `site` and `macs`."""
        sites = {site.node: site.name for site in self.sites}
        macs = {layer.node: layer.macs for layer in self.linear_layers}
        graph = nx.DiGraph(name=self.name)
        for node in self.module.graph.nodes:
            graph.add_node(
                node.name,
                op=node.op,
                target=str(node.target),
                shape=self.node_shapes.get(node.name),
                site=sites.get(node.name),
                macs=macs.get(node.name, 0),
            )
            graph.add_edges_from((source.name, node.name) for source in node.all_input_nodes)
        return graph

    def __getstate__(self) -> dict[str, Any]:
        nodes = [(node.name, node.meta.get(SITE)) for node in self.module.graph.nodes]
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"nodes": nodes}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # torch.fx pickles a graph as code: its nodes come back in their order, without what is known of them
        nodes = list(state["module"].graph.nodes)
        if len(nodes) != len(state["nodes"]):
            raise pickle.UnpicklingError(f"{state['name']} comes back with other graph nodes")
        for node, (name, site) in zip(nodes, state["nodes"], strict=True):
            if node.name != name:
                node._rename(name)
            if site is not None:
                node.meta[SITE] = site
        state["module"].recompile()
        for f in fields(self):
            object.__setattr__(self, f.name, state[f.name])

    def as_module(self) -> nn.Module:
        """The network as an ordinary module (images -> logits)."""
        return self.module


def _padded(channels: int) -> int:
    """Vectors of today's CPUs and the tiles of GPUs' tensor cores hold 16 numbers of 16 bits or more."""
    return -(-channels // 16) * 16
