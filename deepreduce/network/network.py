"""The values that describe a traced network: its ReLU sites, linear layers and graph."""

from __future__ import annotations

import math
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
"""Key in a graph node's `meta` of (site name, stage, block), set once when the original network is traced."""


@dataclass(frozen=True, kw_only=True)
class ReluSite:
    """One call of a ReLU in the traced graph.

    `name` is the ReLU module's path, or the calling module's path and the function's name; a second call of the same
    name carries "#2". `shape` is the output's shape for one image, without the batch dimension; if the first
    dimension is not the batch (`has_batch` False), the shape of the whole tensor. `relu_count` is the number of
    elements whose ReLU is kept: all of them, unless a site action masks some. `kind` is "relu", or "relu6" if the
    output is also capped, at `cap` (a second comparison per element). `node` is the name of the graph node.
    """

    name: str
    stage: str
    block: str | None
    shape: tuple[int, ...]
    relu_count: int
    kind: str
    node: str
    cap: float | None = None
    has_batch: bool = True

    @property
    def elements(self) -> int:
        """Elements of the output for one image, with and without a ReLU."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """One graph node that multiplies: convolution, linear layer, matrix product. `macs` and `shape` are per image."""

    name: str
    node: str
    macs: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A traced network: a runnable `module` (images -> logits) and its description. Edits return a new one.

    All shapes and counts are for one image of `input_shape` (C, H, W), without the batch dimension. `stages` names
    the stages in network order; a stage whose sites are all linearized stays in it. `unsupported` counts the calls of
    each non-linearity that is not a ReLU, by name, `unsupported_elements` their output elements. `node_shapes` maps a
    graph node's name to its output's shape. `starved_layers` are convolutions whose stride exceeds their input's
    size. `spec` says how deepreduce built the network; None if the user did. `outputs` maps each output's name to its
    shape; `output_shape` is the shape of a single output. `stage_patterns` are the stages that the user gave.
    `untraceable` says why torch.fx can't trace the network: it was analyzed through torch.export and can't be edited.
    `notes` say what an edit could not do. `is_padded_once`: linear regions are zero-padded at their entries
    (`deepreduce.transforms.collapse.pad_once`), in amounts that are right for `input_shape` only.
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
    def compute_cost(self) -> ComputeCost:
        """Estimated time of a forward pass, as multiply-accumulates and operations."""
        calls = (node for node in self.module.graph.nodes if node.op.startswith("call_"))
        return ComputeCost(
            macs=sum(round(layer.macs * self._rounding_factor(layer)) for layer in self.linear_layers),
            operations=sum(1 for _ in calls),
        )

    def _rounding_factor(self, layer: LinearLayer) -> float:
        module = dict(self.module.named_modules()).get(layer.name)
        if not isinstance(module, nn.Conv2d) or module.groups > 1:
            return 1.0
        channels = module.in_channels * module.out_channels
        return _round_channels_up(module.in_channels) * _round_channels_up(module.out_channels) / channels

    @property
    def stage_relu_counts(self) -> dict[str, int]:
        """ReLUs for one image by stage, in network order."""
        counts = dict.fromkeys(self.stages, 0)
        for site in self.sites:
            counts[site.stage] += site.relu_count
        return counts

    @property
    def stage_rule(self) -> str:
        """How the sites got their stages: "given" by the user, "declared" by the zoo, or "inferred"."""
        if self.stage_patterns is not None:
            return "given"
        return "declared" if self.spec is not None and self.spec.is_zoo else "inferred"

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Residual blocks of each stage, for a zoo network built by a spec; else None."""
        return self.spec.blocks if self.spec else None

    def sites_of(self, stage: str) -> tuple[ReluSite, ...]:
        """Return the stage's sites in network order. Raises `PlanError` for an unknown stage."""
        if stage not in self.stages:
            raise PlanError(f"{self.name}: " + unknown_name("stage", stage, self.stages))
        return tuple(site for site in self.sites if site.stage == stage)

    def site(self, name: str) -> ReluSite:
        """Return the site called `name`. Raises `PlanError` if there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise PlanError(f"{self.name}: " + unknown_name("ReLU site", name, [s.name for s in self.sites]))

    @property
    def dag(self) -> nx.DiGraph:
        """Data flow graph, whose nodes carry `op`, `target`, `shape` (for one image), `site` and `macs`."""
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
        # torch.fx pickles a graph as code: loading keeps the nodes' order but loses their names and meta
        nodes = list(state["module"].graph.nodes)
        if len(nodes) != len(state["nodes"]):
            raise pickle.UnpicklingError(
                f"{state['name']} was pickled with {len(state['nodes'])} graph nodes and loads with {len(nodes)};"
                " load it with the version of torch that saved it"
            )
        for node, (name, site) in zip(nodes, state["nodes"], strict=True):
            if node.name != name:
                node._rename(name)
            if site is not None:
                node.meta[SITE] = site
        state["module"].recompile()
        for f in fields(self):
            object.__setattr__(self, f.name, state[f.name])

    def as_module(self) -> nn.Module:
        """Return the network as an ordinary module: images (N, C, H, W) -> logits (N, classes)."""
        return self.module


def _round_channels_up(channels: int) -> int:
    """Round channels up to 16, the numbers in a vector of today's CPUs or a tile of a GPU's tensor cores."""
    return -(-channels // 16) * 16
