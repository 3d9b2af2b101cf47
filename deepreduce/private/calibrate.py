"""Fit a protocol's cost model to layers measured on this machine, and judge it on networks outside the fit."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from deepreduce.cost.fit import (
    FEATURES_OF,
    MeasuredLayer,
    MeasuredNetwork,
    Verdict,
    fit_model,
    judge,
    median_error,
)
from deepreduce.cost.layers import LOCAL, REVEAL
from deepreduce.cost.link import LINKS
from deepreduce.cost.model import Amounts, CostModel
from deepreduce.errors import UserError, unknown_name
from deepreduce.network import Network
from deepreduce.network.cost_layers import layers_of
from deepreduce.private.calibration_networks import calibration_networks, judging_networks
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.measuring import measure
from deepreduce.private.protocol import MpcProtocol, protocol_named
from deepreduce.private.result import LayerCost, PrivateRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A cost model of a protocol fitted on this machine, and its verdicts on networks outside the fit."""

    protocol: MpcProtocol
    model: CostModel
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "protocol": self.protocol.label,
            "model": self.model.to_json(),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }

    def to_text(self) -> str:
        """Return a table for a terminal: estimate, measurement and error of each network, and the median errors."""
        heads = [f"{head:>8} {'measured':>8} {'error':>7}" for head in (*_JUDGED_BY, "MB")]
        lines = [f"{self.model.name}, of {self.protocol.label}", f"{'network':<35} {'  '.join(heads)}"]
        for verdict in self.verdicts:
            cells = [_verdict_cells(verdict, of) for of in (*_JUDGED_BY.values(), _megabytes)]
            lines.append(f"{verdict.network[:35]:<35} {'  '.join(cells)}")
        if self.verdicts:
            errors = [f"{median_error(self.verdicts, of):.1%} {head}" for head, of in _JUDGED_BY.items()]
            lines.append(f"Median errors, on networks outside the fit: {', '.join(errors)}.")
        return "\n".join(lines)


_JUDGED_BY: Mapping[str, Callable[[Amounts], float]] = {
    f"s, {name}": partial(lambda amounts, link: amounts.latency(link), link=link) for name, link in LINKS.items()
}
"""Seconds of a query over each link; all but loopback are computed from the measured seconds, bytes and messages."""


def _megabytes(amounts: Amounts) -> float:
    return amounts.bytes / 1e6


def _verdict_cells(verdict: Verdict, of: Callable[[Amounts], float]) -> str:
    return f"{of(verdict.estimated):>8.2f} {of(verdict.measured):>8.2f} {verdict.error(of):>+7.1%}"


def calibrate(
    protocol: str,
    *,
    name: str,
    repeats: int = 5,
    judged: Sequence[Network] | None = None,
    timeout_s: float = 600.0,
    report: Callable[[str], None] = log.info,
) -> Calibration:
    """Fit the cost model `name` of `protocol` on this machine, and judge it on `judged` (None: six networks).

    Every network is run once to warm up and `repeats` times for its medians. Networks of the fit and judged networks
    alternate, so that load on the machine slows both. `report` is called with a line for every network. Raises what
    `measure` raises, and `UserError` for a protocol without a form of model.
    """
    if protocol not in FEATURES_OF:
        raise UserError(unknown_name("protocol of a cost model", protocol, FEATURES_OF))
    chosen = protocol_named(protocol)
    fitted, held_out = calibration_networks(), list(judging_networks() if judged is None else judged)
    costs: dict[str, MeasuredNetwork] = {}
    for network in _alternate(fitted, held_out):
        report(f"measuring {network.name} under {chosen.label}")
        image = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(0))
        run = measure(network, image, protocol=protocol, repeats=repeats, timeout_s=timeout_s)
        costs[network.name] = measured_network(network, run)
    model = fit_model(
        [costs[network.name] for network in fitted],
        protocol=protocol,
        name=name,
        source=f"'deepreduce private calibrate --protocol {protocol}'",
    )
    return Calibration(
        protocol=chosen, model=model, verdicts=tuple(judge(model, [costs[network.name] for network in held_out]))
    )


def _alternate(first: Sequence[Network], second: Sequence[Network]) -> Iterable[Network]:
    for pair in itertools.zip_longest(first, second):
        yield from (network for network in pair if network is not None)


def measured_network(network: Network, run: PrivateRun) -> MeasuredNetwork:
    """Return a run's costs with the layers of the network that it measured; costs outside layers are the query's."""
    layers = {layer.name: layer for layer in layers_of(prepare(network))}
    unknown = [cost.name for cost in run.layers if cost.kind not in (*LOCAL, REVEAL) and cost.name not in layers]
    assert not unknown, f"{unknown} of {network.name} ran, but are not among its layers"
    return MeasuredNetwork(
        name=network.name,
        layers=tuple(
            MeasuredLayer(layer=layers[cost.name], cost=_amounts(cost, cost.seconds.median))
            for cost in run.layers
            if cost.name in layers
        ),
        query=_amounts(run, run.seconds.median),
    )


def _amounts(cost: LayerCost | PrivateRun, seconds: float) -> Amounts:
    return Amounts(seconds=seconds, bytes=cost.bytes, serial_bytes=cost.serial_bytes, messages=cost.messages)
