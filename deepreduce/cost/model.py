"""Seconds, bytes and rounds of a network under a protocol, from its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deepreduce.cost.features import FEATURES, QUERY, feature
from deepreduce.cost.layers import Layer
from deepreduce.cost.link import Link
from deepreduce.cost.price import OTHER_LAYERS, CostEstimate, Share, kind_of
from deepreduce.errors import UserError, unknown_name

Rates = Mapping[str, float]
"""What one unit of each feature (`deepreduce.cost.features`) costs."""

QUANTITIES = ("seconds", "bytes", "serial_bytes", "messages")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a phase of a protocol costs: seconds of computing, and what is sent.

    `bytes` are all that all parties send; `serial_bytes` those that wait for each other on the link, and `messages`
    the one-way messages that do.
    """

    seconds: Rates = field(default_factory=dict)
    bytes: Rates = field(default_factory=dict)
    serial_bytes: Rates = field(default_factory=dict)
    messages: Rates = field(default_factory=dict)

    def __post_init__(self) -> None:
        for quantity in QUANTITIES:
            rates = getattr(self, quantity)
            if not isinstance(rates, Mapping):
                raise UserError(f"{quantity} of a cost model is {rates!r}; give rates by feature")
            for name, rate in rates.items():
                if name not in FEATURES:
                    raise UserError(unknown_name("feature of a cost model", name, FEATURES))
                if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < math.inf:
                    raise UserError(f"{quantity} per {name} is {rate!r}; give a number that is not negative")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one image costs. Offline is what can be done before the image is known.

    `online_seconds` and `offline_seconds` are computing alone. Bytes are all that all parties send; `serial_bytes`
    and `messages` are those that go one after another, one way, while the image is being classified.
    """

    offline_seconds: float
    online_seconds: float
    offline_bytes: float
    online_bytes: float
    serial_bytes: float
    messages: float

    @property
    def rounds(self) -> float:
        """There and back, while the image is being classified."""
        return self.messages / 2

    def latency(self, link: Link) -> float:
        """Seconds from the image to its logits over `link`."""
        return link.seconds(compute=self.online_seconds, sent_bytes=self.serial_bytes, messages=self.messages)


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """A protocol on some machines: its rates, and where they are from."""

    name: str
    source: str
    online: Phase
    offline: Phase = field(default_factory=Phase)

    def estimate(self, layers: Sequence[Layer]) -> Estimate:
        """The cost of a network with these layers."""
        return Estimate(
            offline_seconds=_total(self.offline.seconds, layers),
            online_seconds=_total(self.online.seconds, layers),
            offline_bytes=_total(self.offline.bytes, layers),
            online_bytes=_total(self.online.bytes, layers),
            serial_bytes=_total(self.online.serial_bytes, layers),
            messages=_total(self.online.messages, layers),
        )

    def price(self, layers: Sequence[Layer], link: Link) -> CostEstimate:
        """The same, told apart by the kinds of layers, with what `link` adds; its latency is that of the estimate."""
        return CostEstimate.of([self._share(layer, link) for layer in layers] + [self._share(None, link)])

    def _share(self, layer: Layer | None, link: Link) -> Share:
        """What a layer costs; None: what a query does besides."""

        def of(rates: Rates) -> float:
            return rates.get(QUERY, 0.0) if layer is None else _of_layer(rates, layer)

        online, offline = self.online, self.offline
        messages = of(online.messages)
        return Share(
            kind=OTHER_LAYERS if layer is None else kind_of(layer.kind),
            compute_seconds=of(online.seconds),
            sending_seconds=link.sending(of(online.serial_bytes)),
            waiting_seconds=link.waiting(messages),
            online_bytes=of(online.bytes),
            rounds=messages / 2,
            offline_seconds=of(offline.seconds),
            offline_bytes=of(offline.bytes),
        )

    def latency_of(self, link: Link) -> Callable[[Layer], float]:
        """What one layer adds to the latency over `link`, in seconds: a cost to collapse by."""

        def latency(layer: Layer) -> float:
            seconds, sent, messages = (
                _of_layer(rates, layer)
                for rates in (self.online.seconds, self.online.serial_bytes, self.online.messages)
            )
            return link.seconds(compute=seconds, sent_bytes=sent, messages=messages)

        return latency

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> CostModel:
        """The model that `to_json` described. Raises `UserError` for anything else."""
        try:
            return cls(
                name=str(value["name"]),
                source=str(value["source"]),
                online=Phase(**value["online"]),
                offline=Phase(**value["offline"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"this is no cost model ({error}); write one with 'deepreduce private calibrate'"
            ) from error


def _of_layer(rates: Rates, layer: Layer) -> float:
    return sum(rate * feature(name, layer) for name, rate in rates.items() if rate)


def _total(rates: Rates, layers: Sequence[Layer]) -> float:
    return rates.get(QUERY, 0.0) + sum(_of_layer(rates, layer) for layer in layers)
