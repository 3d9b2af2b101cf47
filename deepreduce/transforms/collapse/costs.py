"""Costs of collapsed networks: a network runs privately as its collapse makes it cheapest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.estimate import CostEstimate
from deepreduce.cost.link import Link
from deepreduce.cost.preset import Preset
from deepreduce.network.cost_layers import layers_of
from deepreduce.network.network import Network
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs
from deepreduce.transforms.collapse.collapse import collapse

CostEstimator = Callable[[Network], Mapping[str, CostEstimate]]
"""Returns the cost of one image under secure computation, by the name of a preset."""


def no_estimates(network: Network) -> Mapping[str, CostEstimate]:
    """Return no cost estimates: the estimator where none are asked for."""
    return {}


def cost_estimator(presets: Iterable[Preset]) -> CostEstimator:
    """Return the estimator of costs under each preset."""
    return partial(estimate_costs, presets=tuple(presets))


def estimate_costs(network: Network, presets: Iterable[Preset]) -> dict[str, CostEstimate]:
    """Return the cost of one image under each preset, by its name, collapsed as is cheapest under that preset.

    Needs no weights: the network may be on the meta device.
    """
    estimates = {}
    for preset in presets:
        collapsed = collapse(network, cost=preset.model.latency_of(preset.link, batch=preset.batch)).network
        estimates[preset.name] = preset.model.estimate(layers_of(collapsed), preset.link, batch=preset.batch)
    return estimates


def collapse_cost(protocol: str, link: Link, *, batch: int = 1) -> LayerCostFunction:
    """Return the cost by which a network is collapsed for queries of `batch` images: a layer's latency over `link`.

    It is the latency of the model that comes with deepreduce, so that a network is the same on every machine. A
    protocol without such a model is collapsed by multiply-accumulates.
    """
    return MODELS[protocol].latency_of(link, batch=batch) if protocol in MODELS else macs
