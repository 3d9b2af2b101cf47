"""The cost of one image under a protocol over a link, split by kind of layer and by cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from deepreduce.cost.layers import CLAMP, MULTIPLYING, RELU, RELU6, SCALE
from deepreduce.cost.layers import KINDS as LAYER_KINDS
from deepreduce.errors import UserError

RELU_LAYERS, LINEAR_LAYERS, OTHER_LAYERS = "ReLU", "linear", "other"
KINDS = (RELU_LAYERS, LINEAR_LAYERS, OTHER_LAYERS)
"""The kinds of layers by which costs are split. Max-pools, and what a query costs besides layers, are `other`."""

LARGEST_AMOUNT = 1e100
"""More than any cost or rate that is read from a file, and small enough to be added and multiplied."""

_KIND_OF = {
    **dict.fromkeys(LAYER_KINDS, OTHER_LAYERS),
    **dict.fromkeys((RELU, RELU6, CLAMP), RELU_LAYERS),
    **dict.fromkeys((*MULTIPLYING, SCALE), LINEAR_LAYERS),
}


def kind_of(layer_kind: str) -> str:
    """Return the kind (of `KINDS`) of a layer whose own kind is one of `deepreduce.cost.layers.KINDS`.

    Raises `KeyError` for another one.
    """
    return _KIND_OF[layer_kind]


@dataclass(frozen=True, kw_only=True)
class Share:
    """The cost of all layers of one kind for one image.

    Online, while the image is classified: seconds of computing, of sending bytes and of waiting for messages, the
    bytes that all parties send, and the rounds (there and back). Offline, before the image is known: seconds of
    computing, and bytes.
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
        """The kind's part of the latency."""
        return self.compute_seconds + self.sending_seconds + self.waiting_seconds

    @property
    def bytes(self) -> float:
        """Bytes sent, online and offline."""
        return self.online_bytes + self.offline_bytes


_AMOUNTS = tuple(field.name for field in fields(Share) if field.name != "kind")


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """The cost of one image, with one `Share` for each of `KINDS`."""

    shares: tuple[Share, ...]

    @classmethod
    def of(cls, parts: Sequence[Share]) -> CostEstimate:
        """Return the sum of the parts, several of which may be of one kind."""
        totals = {kind: dict.fromkeys(_AMOUNTS, 0.0) for kind in KINDS}
        for part in parts:
            for amount in _AMOUNTS:
                totals[part.kind][amount] += getattr(part, amount)
        return cls(shares=tuple(Share(kind=kind, **totals[kind]) for kind in KINDS))

    def divided(self, images: int) -> CostEstimate:
        """Return an image's part of this cost, which is that of a query of `images` images."""
        parts = ({amount: getattr(share, amount) / images for amount in _AMOUNTS} for share in self.shares)
        return CostEstimate(
            shares=tuple(Share(kind=share.kind, **part) for share, part in zip(self.shares, parts, strict=True))
        )

    @property
    def latency(self) -> float:
        """Seconds from the image to its logits; in a query of several, its part of the query's seconds."""
        return sum(share.seconds for share in self.shares)

    @property
    def bytes(self) -> float:
        """Bytes that all parties send, online and offline."""
        return self.online_bytes + self.offline_bytes

    @property
    def online_bytes(self) -> float:
        """Bytes that all parties send while the image is classified."""
        return sum(share.online_bytes for share in self.shares)

    @property
    def offline_bytes(self) -> float:
        """Bytes that all parties send before the image is known."""
        return sum(share.offline_bytes for share in self.shares)

    @property
    def offline_seconds(self) -> float:
        """Seconds of computing before the image is known."""
        return sum(share.offline_seconds for share in self.shares)

    @property
    def rounds(self) -> float:
        """Rounds (there and back), one after another, while the image is classified."""
        return sum(share.rounds for share in self.shares)

    def to_json(self) -> dict[str, Any]:
        """Return the shares as plain values, by kind."""
        return {share.kind: {amount: getattr(share, amount) for amount in _AMOUNTS} for share in self.shares}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CostEstimate:
        """Return the estimate that `to_json` described. Raises `UserError` for anything else."""
        try:
            return cls.of([Share(kind=kind, **{a: _amount(value[kind][a]) for a in _AMOUNTS}) for kind in KINDS])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"this is no cost estimate of a network ({error!r}); delete it and estimate again"
            ) from error


def _amount(value: Any) -> float:
    """Return the number. Raises `ValueError` for what is no amount of seconds, bytes or rounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LARGEST_AMOUNT:
        raise ValueError(f"{str(value)[:40]} is no amount")
    return float(value)
