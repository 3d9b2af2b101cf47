"""What one image costs under a protocol over a link, and which layers and what else it goes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepreduce.cost.layers import BATCH_NORM, MULTIPLYING, RELU, RELU6
from deepreduce.errors import UserError

RELU_LAYERS, LINEAR_LAYERS, OTHER_LAYERS = "ReLU", "linear", "other"
KINDS = (RELU_LAYERS, LINEAR_LAYERS, OTHER_LAYERS)
"""Kinds of layers that costs are told apart by. A max-pool is among the others, and what a query costs by itself."""


def kind_of(layer_kind: str) -> str:
    """The kind, one of `KINDS`, of a layer (its kind is one of `deepreduce.cost.layers`)."""
    if layer_kind in (RELU, RELU6):
        return RELU_LAYERS
    return LINEAR_LAYERS if layer_kind in (*MULTIPLYING, BATCH_NORM) else OTHER_LAYERS


@dataclass(frozen=True, kw_only=True)
class Share:
    """What the layers of one kind cost for one image.

    While the image is being classified: seconds of computing, of sending bytes and of waiting for messages to arrive,
    the bytes that all parties send, and the rounds (there and back). Offline, before the image is known: seconds of
    computing and bytes.
    """

    kind: str
    compute_seconds: float = 0.0
    sending_seconds: float = 0.0
    waiting_seconds: float = 0.0
    online_bytes: float = 0.0
    rounds: float = 0.0
    offline_seconds: float = 0.0
    offline_bytes: float = 0.0

    @property
    def seconds(self) -> float:
        """Of the latency."""
        return self.compute_seconds + self.sending_seconds + self.waiting_seconds

    @property
    def bytes(self) -> float:
        """Online and offline."""
        return self.online_bytes + self.offline_bytes


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What one image costs a network; `shares` say what of it, one of each kind."""

    shares: tuple[Share, ...]

    @classmethod
    def of(cls, parts: Sequence[Share]) -> CostEstimate:
        """The price of layers and whatever else there is, of which several may be of one kind."""
        totals = {kind: dict.fromkeys(_AMOUNTS, 0.0) for kind in KINDS}
        for part in parts:
            for amount in _AMOUNTS:
                totals[part.kind][amount] += getattr(part, amount)
        return cls(shares=tuple(Share(kind=kind, **totals[kind]) for kind in KINDS))

    @property
    def latency(self) -> float:
        """Seconds from the image to its logits."""
        return sum(share.seconds for share in self.shares)

    @property
    def bytes(self) -> float:
        """All that all parties send, offline included."""
        return self.online_bytes + self.offline_bytes

    @property
    def online_bytes(self) -> float:
        """All that all parties send while the image is being classified."""
        return sum(share.online_bytes for share in self.shares)

    @property
    def offline_bytes(self) -> float:
        """All that all parties send before the image is known."""
        return sum(share.offline_bytes for share in self.shares)

    @property
    def offline_seconds(self) -> float:
        """Of computing before the image is known."""
        return sum(share.offline_seconds for share in self.shares)

    @property
    def rounds(self) -> float:
        """There and back, one after another, while the image is being classified."""
        return sum(share.rounds for share in self.shares)

    def to_json(self) -> dict[str, Any]:
        """Plain values: of each kind its share."""
        return {share.kind: {amount: getattr(share, amount) for amount in _AMOUNTS} for share in self.shares}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CostEstimate:
        """The price that `to_json` described. Raises `UserError` for anything else."""
        try:
            return cls.of([Share(kind=kind, **{a: float(value[kind][a]) for a in _AMOUNTS}) for kind in KINDS])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"this is no price of a network: {error!r}") from error


_AMOUNTS = tuple(name for name in asdict(Share(kind=OTHER_LAYERS)) if name != "kind")
