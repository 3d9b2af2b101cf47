"""Rates of a protocol fitted to measured layers, and how well they tell the cost of whole networks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from deepreduce.cost.features import QUERY, feature
from deepreduce.cost.layers import Layer
from deepreduce.cost.link import Link
from deepreduce.cost.model import QUANTITIES, CostModel, Phase
from deepreduce.errors import UserError

_COMPARISONS = ("comparisons", "comparing_layers")
_POOLS = ("pooled_elements", "pool_layers")
_SCALES = ("scaled_elements", "scaling_layers")
_OTHERS = ("other_elements", "other_layers")

FEATURES_OF = {
    # Beaver triples: both masked matrices are opened; the rest is local arithmetic
    "semi2k": ("panels", "left", "right", "made", "multiplications", "multiplying_layers"),
    # homomorphic encryption: polynomials
    "cheetah": ("sent", "returned", "encoded", "multiplied", "rotated", "made", "multiplying_layers"),
    # replicated sharing: a product sends its result, and reads both matrices
    "aby3": ("panels", "left", "right", "made", "multiplications", "multiplying_layers"),
}
"""By protocol: the features that the cost of a layer that multiplies is fitted to."""

_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """What a layer or a query costs, in the quantities of a `Phase`."""

    seconds: float
    bytes: float
    serial_bytes: float
    messages: float

    def latency(self, link: Link) -> float:
        """Seconds over `link`."""
        return link.seconds(compute=self.seconds, sent_bytes=self.serial_bytes, messages=self.messages)


@dataclass(frozen=True, kw_only=True)
class MeasuredLayer:
    """A layer and what it cost."""

    layer: Layer
    cost: Amounts


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """A network's layers, and what a whole query cost, which may be more than the layers' sum."""

    name: str
    layers: tuple[MeasuredLayer, ...]
    query: Amounts


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An estimate of a network that the fit has not seen, beside its measurement."""

    network: str
    estimated: Amounts
    measured: Amounts

    def error(self, of: Callable[[Amounts], float]) -> float:
        """How far the estimate of some amount is off, as a signed fraction of the measurement."""
        measured = of(self.measured)
        return of(self.estimated) / measured - 1 if measured else 0.0


def fit_model(networks: Sequence[MeasuredNetwork], *, protocol: str, name: str, source: str) -> CostModel:
    """The model whose rates tell the measured layers best: non-negative least squares.

    Raises `UserError` for a protocol without features, or where nothing was measured.
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
            **_fitted(measured, quantity, _OTHERS, "other_layers"),
        }
        for quantity in QUANTITIES
    }
    for quantity, found in rates.items():
        found[QUERY] = _per_query(networks, quantity)
    return CostModel(name=name, source=source, online=Phase(**rates))


def judge(model: CostModel, networks: Sequence[MeasuredNetwork]) -> list[Verdict]:
    """The model's estimate of each network beside its measurement."""
    verdicts = []
    for network in networks:
        estimate = model.estimate([measured.layer for measured in network.layers])
        estimated = Amounts(
            seconds=estimate.online_seconds,
            bytes=estimate.online_bytes,
            serial_bytes=estimate.serial_bytes,
            messages=estimate.messages,
        )
        verdicts.append(Verdict(network=network.name, estimated=estimated, measured=network.query))
    return verdicts


def median_error(verdicts: Sequence[Verdict], of: Callable[[Amounts], float]) -> float:
    """The median of the errors' sizes, as a fraction."""
    return statistics.median(abs(verdict.error(of)) for verdict in verdicts)


def _fitted(
    measured: Sequence[MeasuredLayer], quantity: str, features: Sequence[str], presence: str
) -> dict[str, float]:
    """Rates of the features, from the layers that have the feature `presence`."""
    chosen = [one for one in measured if feature(presence, one.layer) > 0]
    if not chosen:
        return {}
    matrix = np.array([[feature(name, one.layer) for name in features] for one in chosen])  # (layers, features)
    costs = np.array([float(getattr(one.cost, quantity)) for one in chosen])
    return {name: float(rate) for name, rate in zip(features, _rates(matrix, costs), strict=True) if rate > 0}


def _rates(matrix: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative rates by least squares, each error weighed by its estimate.

    Errors of dear layers are larger than those of cheap ones, so that their squares count in units of the estimate;
    the estimates of all layers then add up to what all of them cost. Repeated until the weights settle.
    """
    if not costs.any():
        return np.zeros(matrix.shape[1])
    used = np.abs(matrix).max(axis=0)
    scaled = matrix / np.where(used > 0, used, 1.0)
    estimates = costs
    for _ in range(_ITERATIONS):
        # no network's total hangs on a layer that costs less than a thousandth of the dearest
        weights = 1 / np.sqrt(np.maximum(estimates, costs.max() / 1000))
        solution, _ = nnls(scaled * weights[:, None], costs * weights)
        estimates = scaled @ solution
    rates: NDArray[np.float64] = solution / np.where(used > 0, used, 1.0)
    return rates


def _per_query(networks: Sequence[MeasuredNetwork], quantity: str) -> float:
    """What a query costs beyond its layers."""
    beyond: list[float] = [
        getattr(network.query, quantity) - sum(getattr(layer.cost, quantity) for layer in network.layers)
        for network in networks
    ]
    return max(0.0, statistics.median(beyond))
