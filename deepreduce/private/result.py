"""What a run under secure computation gives: cost per layer, and how well it agrees with PyTorch."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepreduce.private.link import Link
from deepreduce.private.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A quantity measured `count` times: its median, smallest and largest value."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(median=statistics.median(values), low=min(values), high=max(values), count=len(values))


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer of the network costs for one image.

    `name` is that of the site or layer in the traced network, `kind` one of `deepreduce.private.program.KINDS`.
    `seconds` are wall time with the parties on one machine. `bytes` and `messages` are what the parties send, in the
    median query, as the protocol counts them one after another (`Protocol.sequential`).
    """

    name: str
    kind: str
    seconds: Spread
    bytes: int
    messages: int


@dataclass(frozen=True, kw_only=True)
class KindCost:
    """All layers of one kind: how many they are and the sums of what they cost; seconds are medians."""

    kind: str
    layers: int
    seconds: float
    bytes: int
    messages: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Logits under secure computation against those of PyTorch, over `images` different images."""

    images: int
    same_argmax: int
    max_abs_error: float
    max_abs_logit: float


@dataclass(frozen=True, kw_only=True)
class PrivateRun:
    """A network under secure computation, measured.

    `layers` are in the order in which they run; `seconds` is a whole query, `setup_seconds` what comes once: starting
    the parties, compiling, and the first query, which is counted nowhere else. `logits` are one row for each image.
    """

    network: str
    relu_count: int
    protocol: Protocol
    layers: tuple[LayerCost, ...]
    seconds: Spread
    setup_seconds: float
    agreement: Agreement
    logits: tuple[tuple[float, ...], ...]

    @property
    def bytes(self) -> int:
        """Sent for one image, by all parties or by the busiest one: see `Protocol.sequential`."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def messages(self) -> int:
        """One-way messages, one after another, for one image."""
        return sum(layer.messages for layer in self.layers)

    @property
    def kinds(self) -> tuple[KindCost, ...]:
        """The layers summed by kind, the slowest kind first."""
        found: dict[str, list[LayerCost]] = {}
        for layer in self.layers:
            found.setdefault(layer.kind, []).append(layer)
        costs = [
            KindCost(
                kind=kind,
                layers=len(layers),
                seconds=sum(layer.seconds.median for layer in layers),
                bytes=sum(layer.bytes for layer in layers),
                messages=sum(layer.messages for layer in layers),
            )
            for kind, layers in found.items()
        ]
        return tuple(sorted(costs, key=lambda cost: -cost.seconds))

    def seconds_over(self, link: Link) -> float:
        """Seconds of one query over `link`, computed from what was measured: compute + bytes + messages."""
        return link.seconds(compute=self.seconds.median, sent_bytes=self.bytes, messages=self.messages)

    def to_json(self) -> dict[str, Any]:
        """Plain values, all of them."""
        from deepreduce.private.link import LINKS

        return {
            "network": self.network,
            "relu_count": self.relu_count,
            "protocol": {**asdict(self.protocol), "label": self.protocol.label},
            "agreement": asdict(self.agreement),
            "seconds": asdict(self.seconds),
            "setup_seconds": self.setup_seconds,
            "bytes": self.bytes,
            "messages": self.messages,
            "links": {
                name: {**asdict(link), "seconds": self.seconds_over(link), "computed": link.computed}
                for name, link in LINKS.items()
            },
            "kinds": [asdict(cost) for cost in self.kinds],
            "layers": [asdict(layer) for layer in self.layers],
            "logits": [list(row) for row in self.logits],
        }

    def to_csv(self) -> str:
        """One row for each layer."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "kind", "seconds", "seconds_low", "seconds_high", "repeats", "bytes", "messages"])
        for layer in self.layers:
            spread = layer.seconds
            seconds = [f"{value:.6f}" for value in (spread.median, spread.low, spread.high)]
            writer.writerow([layer.name, layer.kind, *seconds, spread.count, layer.bytes, layer.messages])
        return text.getvalue()
