"""Fit a protocol's cost model to measured layers, and compare its estimates with measurements of whole networks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from deepreduce.cost.features import QUERY, feature
from deepreduce.cost.layers import Layer
from deepreduce.cost.model import QUANTITIES, Amounts, CostModel, Phase
from deepreduce.errors import UserError

_COMPARISONS = ("comparisons", "comparing_layers")
_POOLS = ("pooled_elements", "pool_layers")
_SCALES = ("scaled_elements", "scaled_polynomials", "scaling_layers")
_SQUARES = ("squared_elements", "squaring_layers")
_OTHERS = ("other_elements", "other_layers")

FEATURES_OF = {
    # Beaver triples: both masked matrices are opened; the rest is local arithmetic
    "semi2k": ("panels", "left", "right", "made", "multiplications", "multiplying_layers"),
    # homomorphic encryption: polynomials
    "cheetah": ("sent", "returned", "encoded", "multiplied", "rotated", "made", "multiplying_layers"),
    # replicated sharing: a product sends its result, and reads both matrices
    "aby3": ("panels", "left", "right", "made", "multiplications", "multiplying_layers"),
}
"""By protocol: the features that explain the cost of a convolution, linear layer or product."""

_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class MeasuredLayer:
    """A layer with its measured cost."""

    layer: Layer
    cost: Amounts


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """A network's measured layers, and the cost of a whole query, which may exceed the sum of the layers."""

    name: str
    layers: tuple[MeasuredLayer, ...]
    query: Amounts


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The estimate of a network that the model was not fitted to, and its measurement."""

    network: str
    estimated: Amounts
    measured: Amounts

    def error(self, of: Callable[[Amounts], float]) -> float:
        """Return the signed error of the estimate of an amount, as a fraction of the measurement."""
        measured = of(self.measured)
        return of(self.estimated) / measured - 1 if measured else 0.0


def fit_model(networks: Sequence[MeasuredNetwork], *, protocol: str, name: str, source: str) -> CostModel:
    """Return the model whose rates fit the measured layers best, by non-negative least squares.

    Raises `UserError` for a protocol that is not in `FEATURES_OF`, and for no measurements.
    """
    if protocol not in FEATURES_OF:
        raise UserError(f"there is no cost model for protocol {protocol!r}; there is for {', '.join(FEATURES_OF)}")
    if not networks:
        raise UserError("there are no measurements to fit a cost model to; measure at least one network")
    measured = [layer for network in networks for layer in network.layers]
    rates = {
        quantity: {
            **_fitted(measured, quantity, FEATURES_OF[protocol], "multiplying_layers"),
            **_fitted(measured, quantity, _COMPARISONS, "comparing_layers"),
            **_fitted(measured, quantity, _POOLS, "pool_layers"),
            **_fitted(measured, quantity, _SCALES, "scaling_layers"),
            **_fitted(measured, quantity, _SQUARES, "squaring_layers"),
            **_fitted(measured, quantity, _OTHERS, "other_layers"),
        }
        for quantity in QUANTITIES
    }
    for quantity, found in rates.items():
        found[QUERY] = _per_query(networks, quantity)
    return CostModel(name=name, source=source, online=Phase(**rates))


def judge(model: CostModel, networks: Sequence[MeasuredNetwork]) -> list[Verdict]:
    """Return the model's estimate of each network together with its measurement."""
    return [
        Verdict(
            network=network.name,
            estimated=model.online.total([measured.layer for measured in network.layers]),
            measured=network.query,
        )
        for network in networks
    ]


def median_error(verdicts: Sequence[Verdict], of: Callable[[Amounts], float]) -> float:
    """Return the median of the absolute errors, as a fraction."""
    return statistics.median(abs(verdict.error(of)) for verdict in verdicts)


def _fitted(
    measured: Sequence[MeasuredLayer], quantity: str, features: Sequence[str], presence: str
) -> dict[str, float]:
    """Return the rates of the features, fitted to the layers that have the feature `presence`."""
    chosen = [one for one in measured if feature(presence, one.layer) > 0]
    if not chosen:
        return {}
    matrix = np.array([[feature(name, one.layer) for name in features] for one in chosen])  # (layers, features)
    costs = np.array([float(getattr(one.cost, quantity)) for one in chosen])
    return {name: float(rate) for name, rate in zip(features, _rates(matrix, costs), strict=True) if rate > 0}


def _rates(matrix: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return non-negative rates by least squares in which a layer's squared error is divided by its estimate.

    Errors grow with the cost of a layer; weighted like this, the estimates of all layers add up to their measured
    cost. Solved again with the new estimates until the weights settle.
    """
    if not costs.any():
        return np.zeros(matrix.shape[1])
    used = np.abs(matrix).max(axis=0)
    scaled = matrix / np.where(used > 0, used, 1.0)
    estimates = costs
    for _ in range(_ITERATIONS):
        # a layer of less than a thousandth of the largest cost must not get a huge weight
        weights = 1 / np.sqrt(np.maximum(estimates, costs.max() / 1000))
        solution, _ = nnls(scaled * weights[:, None], costs * weights)
        estimates = scaled @ solution
    rates: NDArray[np.float64] = solution / np.where(used > 0, used, 1.0)
    return rates


def _per_query(networks: Sequence[MeasuredNetwork], quantity: str) -> float:
    """Return the median cost of a query besides its layers."""
    beyond: list[float] = [
        getattr(network.query, quantity) - sum(getattr(layer.cost, quantity) for layer in network.layers)
        for network in networks
    ]
    return max(0.0, statistics.median(beyond))
