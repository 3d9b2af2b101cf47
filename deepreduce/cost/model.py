"""Cost models: seconds, bytes and messages of a network under a protocol, as a linear function of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from deepreduce.cost.estimate import LARGEST_AMOUNT, OTHER_LAYERS, CostEstimate, Share, kind_of
from deepreduce.cost.features import FEATURES, QUERY, feature
from deepreduce.cost.layers import Layer
from deepreduce.cost.link import Link
from deepreduce.errors import UserError, unknown_name

Rates = Mapping[str, float]
"""The cost of one unit of each feature (`deepreduce.cost.features`)."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """The cost of a layer, or of a query, in the quantities of a `Phase`."""

    seconds: float
    bytes: float
    serial_bytes: float
    messages: float

    def latency(self, link: Link) -> float:
        """Return the seconds over `link`."""
        return link.seconds(compute=self.seconds, sent_bytes=self.serial_bytes, messages=self.messages)


QUANTITIES = tuple(each.name for each in fields(Amounts))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The rates of a protocol's online or offline phase: seconds of computing, and what is sent.

    `bytes` are all that all parties send; `serial_bytes` are the bytes, and `messages` the one-way messages, that go
    over the link one after another.
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
                if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= LARGEST_AMOUNT:
                    shown = str(rate)[:40]
                    raise UserError(f"{quantity} per {name} is {shown}; give a number that is not negative")

    def of_layer(self, layer: Layer) -> Amounts:
        """Return the cost of one layer."""
        return self._sum(lambda rates: _layer_cost(rates, layer))

    @property
    def once(self) -> Amounts:
        """The cost of a query besides its layers."""
        return self._sum(lambda rates: rates.get(QUERY, 0.0))

    def total(self, layers: Sequence[Layer]) -> Amounts:
        """Return the cost of a query to a network with these layers."""
        return self._sum(lambda rates: rates.get(QUERY, 0.0) + sum(_layer_cost(rates, layer) for layer in layers))

    def _sum(self, amount: Callable[[Rates], float]) -> Amounts:
        return Amounts(**{quantity: amount(getattr(self, quantity)) for quantity in QUANTITIES})


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The rates of a protocol on some machines, and their source.

    Offline is what can be done before the image is known.
    """

    name: str
    source: str
    online: Phase
    offline: Phase = field(default_factory=Phase)

    def estimate(self, layers: Sequence[Layer], link: Link, *, batch: int = 1) -> CostEstimate:
        """Return the cost of one image over `link`, for a network with these layers.

        In a query of `batch` images each has an equal part of the query's cost.
        """
        run = [self.as_run(layer.for_images(batch), link) for layer in layers]
        shares = [_share(kind_of(a.kind), self.online.of_layer(a), self.offline.of_layer(a), link) for a in run]
        query = CostEstimate.of([*shares, _share(OTHER_LAYERS, self.online.once, self.offline.once, link)])
        return query.divided(batch)

    def as_run(self, layer: Layer, link: Link) -> Layer:
        """Return the layer as the lowering computes it: whole, where moving the elements of a mask costs more."""

        def latency(a: Layer) -> float:
            return self.online.of_layer(a).latency(link)

        return min((layer, layer.whole), key=latency)

    def latency_of(self, link: Link, *, batch: int = 1) -> Callable[[Layer], float]:
        """Return a function: a layer's part of the latency of a query, in seconds. A cost to collapse by."""
        return lambda layer: self.online.of_layer(layer.for_images(batch)).latency(link)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> CostModel:
        """Return the model that `to_json` described. Raises `UserError` for anything else."""
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


def _share(kind: str, online: Amounts, offline: Amounts, link: Link) -> Share:
    return Share(
        kind=kind,
        compute_seconds=online.seconds,
        sending_seconds=link.sending(online.serial_bytes),
        waiting_seconds=link.waiting(online.messages),
        online_bytes=online.bytes,
        rounds=online.messages / 2,
        offline_seconds=offline.seconds,
        offline_bytes=offline.bytes,
    )


def _layer_cost(rates: Rates, layer: Layer) -> float:
    return sum(rate * feature(name, layer) for name, rate in rates.items() if rate)
