"""Fit a protocol's cost model to layers measured on this machine, and judge it on networks it has not seen."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
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
from deepreduce.cost.model import CostModel
from deepreduce.errors import UserError, unknown_name
from deepreduce.network import Network
from deepreduce.network.layers import layers_of
from deepreduce.private.calibration_networks import calibration_networks, judging_networks
from deepreduce.private.graph import prepare
from deepreduce.private.measuring import measure
from deepreduce.private.result import PrivateRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A model fitted on this machine, and its estimates of networks that it did not see."""

    model: CostModel
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"model": self.model.to_json(), "verdicts": [asdict(verdict) for verdict in self.verdicts]}

    def to_text(self) -> str:
        """A table for a terminal: estimate and measurement of each network, and the median error."""
        lines = [
            f"{'network':<34} {'seconds':>9} {'measured':>9} {'error':>7} {'MB':>8} {'measured':>9} {'error':>7}"
        ]
        for verdict in self.verdicts:
            seconds = verdict.estimated_seconds / verdict.measured_seconds - 1
            sent = verdict.estimated_bytes / verdict.measured_bytes - 1
            lines.append(
                f"{verdict.network[:34]:<34} {verdict.estimated_seconds:>9.2f} {verdict.measured_seconds:>9.2f}"
                f" {seconds:>+7.1%} {verdict.estimated_bytes / 1e6:>8.1f} {verdict.measured_bytes / 1e6:>9.1f}"
                f" {sent:>+7.1%}"
            )
        if self.verdicts:
            error = median_error(self.verdicts)
            lines.append(f"Median error of the seconds, on networks that the fit has not seen: {error:.1%}.")
        return "\n".join(lines)


def calibrate(
    protocol: str,
    *,
    name: str,
    repeats: int = 5,
    judged: Sequence[Network] | None = None,
    timeout_s: float = 600.0,
    told: Callable[[str], None] = log.info,
) -> Calibration:
    """The model called `name` of `protocol` on this machine, and how it does on `judged` (None: six networks).

    Every network is run once to warm up and `repeats` times for its medians; those to fit to and those to judge on
    take turns, so that a machine that grows busy slows both. Raises as `measure` does, and `UserError` for a protocol
    that no model is known for. `told` hears of every network that is begun.
    """
    if protocol not in FEATURES_OF:
        raise UserError(unknown_name("protocol of a cost model", protocol, FEATURES_OF))
    fitted, seen = calibration_networks(), list(judging_networks() if judged is None else judged)
    costs: dict[str, MeasuredNetwork] = {}
    for network in _in_turns(fitted, seen):
        told(f"measuring {network.name} under {protocol}")
        image = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(0))
        run = measure(network, image, protocol=protocol, repeats=repeats, timeout_s=timeout_s)
        costs[network.name] = measured_network(network, run)
    model = fit_model(
        [costs[network.name] for network in fitted],
        protocol=protocol,
        name=name,
        source=f"'deepreduce private calibrate --protocol {protocol}'",
    )
    return Calibration(model=model, verdicts=tuple(judge(model, [costs[network.name] for network in seen])))


def _in_turns(first: Sequence[Network], second: Sequence[Network]) -> Iterable[Network]:
    for pair in itertools.zip_longest(first, second):
        yield from (network for network in pair if network is not None)


def measured_network(network: Network, run: PrivateRun) -> MeasuredNetwork:
    """A run's costs beside the layers of the network that it measured; what is no layer's is the query's."""
    layers = {layer.name: layer for layer in layers_of(prepare(network))}
    return MeasuredNetwork(
        name=network.name,
        layers=tuple(
            MeasuredLayer(
                layer=layers[cost.name],
                seconds=cost.seconds.median,
                bytes=cost.bytes,
                serial_bytes=cost.serial_bytes,
                messages=cost.messages,
            )
            for cost in run.layers
            if cost.name in layers
        ),
        seconds=run.seconds.median,
        bytes=run.bytes,
        serial_bytes=sum(cost.serial_bytes for cost in run.layers),
        messages=run.messages,
    )
