"""Hold what a run under secure computation measured: cost per layer and per query, and agreement with PyTorch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deepreduce.cost.estimate import LARGEST_AMOUNT, OTHER_LAYERS, CostEstimate, Share, kind_of
from deepreduce.cost.link import LINKS, Link
from deepreduce.errors import UserError
from deepreduce.private.approximations import ERRORS
from deepreduce.private.protocol import MpcProtocol
from deepreduce.private.tables import csv_of, text_of


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A quantity measured `count` times: its median, smallest and largest value."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one or more values."""
        return cls(median=statistics.median(values), low=min(values), high=max(values), count=len(values))


@dataclass(frozen=True, kw_only=True)
class Query:
    """The cost of one query, from its images to their logits, with all parties on one machine.

    `seconds` is wall time. `bytes` and `sent_messages` are the sums over all parties, from the engine's profile.
    `serial_bytes` and `messages` count only what is sent one after another (`MpcProtocol`): a link's bandwidth and
    delay apply to these.
    """

    seconds: float
    bytes: int
    serial_bytes: int
    sent_messages: int
    messages: int


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The cost of one layer for the images of a query, in the quantities of `Query`: medians over the timed queries.

    `name` is the site or layer of the network that ran, `kind` one of `KINDS` in
    `deepreduce.cost.layers`.
    """

    name: str
    kind: str
    seconds: Spread
    bytes: int
    serial_bytes: int
    sent_messages: int
    messages: int


@dataclass(frozen=True, kw_only=True)
class KindCost:
    """The number of layers of one kind and the sums of their costs; `seconds` is a sum of medians."""

    kind: str
    layers: int
    seconds: float
    bytes: int
    messages: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Logits under secure computation compared with PyTorch's, over `images` different images."""

    images: int
    same_argmax: int
    max_abs_error: float
    max_abs_logit: float


@dataclass(frozen=True, kw_only=True)
class OverLink:
    """Queries timed over a `link` that the kernel shapes; if not `delays`, it limits the bandwidth only."""

    link: Link
    delays: bool
    seconds: Spread

    def total(self, messages: int) -> float:
        """Return the median seconds, plus the computed delay of `messages` messages if the kernel adds none."""
        return self.seconds.median + (0.0 if self.delays else self.link.waiting(messages))


@dataclass(frozen=True, kw_only=True)
class PrivateRun:
    """The measurement of a network under secure computation, over loopback (except `over_link`).

    `layers` are in execution order. Their medians need not add up to a query's cost, so `queries` are kept too: from
    time to time Cheetah refills its oblivious transfers, each time in another layer. `setup_seconds` covers what
    happens once: starting the parties, compiling, and the first query, which no other figure includes. `batch` is the
    number of images of a query, and of a layer's cost. `logits` holds one row per image. `approximations` lists the
    layers of each operation that the engine approximates (`deepreduce.private.approximations`).
    """

    network: str
    relu_count: int
    protocol: MpcProtocol
    layers: tuple[LayerCost, ...]
    queries: tuple[Query, ...]
    setup_seconds: float
    agreement: Agreement
    logits: tuple[tuple[float, ...], ...]
    over_link: OverLink | None = None
    approximations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batch: int = 1

    @property
    def seconds(self) -> Spread:
        """Return the wall seconds of a query."""
        return Spread.of([query.seconds for query in self.queries])

    @property
    def bytes(self) -> int:
        """Return the bytes that all parties send for a query: the median of the queries."""
        return statistics.median_low(query.bytes for query in self.queries)

    @property
    def serial_bytes(self) -> int:
        """Return the bytes that are sent one after another for a query: the median of the queries."""
        return statistics.median_low(query.serial_bytes for query in self.queries)

    @property
    def messages(self) -> int:
        """Return the one-way messages that follow one after another for a query: the median of the queries."""
        return statistics.median_low(query.messages for query in self.queries)

    @property
    def kinds(self) -> tuple[KindCost, ...]:
        """Return the costs of the layers summed by kind, the slowest kind first."""
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
        """Return the seconds of a query over `link`, computed from the measured queries (`Link.seconds`)."""
        return statistics.median(
            link.seconds(compute=query.seconds, sent_bytes=query.serial_bytes, messages=query.messages)
            for query in self.queries
        )

    def to_text(self, link: Link) -> str:
        """Return tables for a terminal: agreement, cost over `link`, cost per kind and per layer."""
        return text_of(self, link)

    def to_csv(self) -> str:
        """Return a CSV table with one row per layer."""
        return csv_of(self)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "network": self.network,
            "relu_count": self.relu_count,
            "protocol": {
                "name": self.protocol.name,
                "label": self.protocol.label,
                "parties": self.protocol.parties,
                "trust": self.protocol.trust,
                "secure": self.protocol.secure,
            },
            "agreement": asdict(self.agreement),
            "approximations": {
                name: {"layers": list(layers), "largest_error": ERRORS[name]}
                for name, layers in self.approximations.items()
            },
            "seconds": asdict(self.seconds),
            "setup_seconds": self.setup_seconds,
            "batch": self.batch,
            "per_image": {"seconds": self.seconds.median / self.batch, "bytes": self.bytes / self.batch},
            "bytes": self.bytes,
            "serial_bytes": self.serial_bytes,
            "messages": self.messages,
            "queries": [asdict(query) for query in self.queries],
            "links": {
                name: {**asdict(link), "seconds": self.seconds_over(link), "computed": link.computed}
                for name, link in LINKS.items()
            },
            "over_link": None
            if self.over_link is None
            else {**asdict(self.over_link), "total_seconds": self.over_link.total(self.messages)},
            "kinds": [asdict(cost) for cost in self.kinds],
            "layers": [asdict(layer) for layer in self.layers],
            "logits": [list(row) for row in self.logits],
        }


def cost_of_run(value: Mapping[str, Any], link: Link) -> CostEstimate:
    """Return the measured cost of one image over `link`; `value` is what `PrivateRun.to_json` returned.

    Each image of a query has an equal part of the query's cost.
    The sum is the cost of a whole query: what a query costs beyond its layers is counted as other layers, and if the
    layers' medians add up to more than a query, they are scaled down. Raises `UserError` for any other value.
    """
    try:
        layers = value["layers"]
        kinds = [kind_of(layer["kind"]) for layer in layers] + [OTHER_LAYERS]
        batch = batch_of_run(value)
        parts = _fit_to_total([layer["seconds"]["median"] for layer in layers], value["seconds"]["median"])
        seconds = [part / batch for part in parts]
        sent, serial, messages = (
            [part / batch for part in _fit_to_total([layer[name] for layer in layers], value[name])]
            for name in ("bytes", "serial_bytes", "messages")
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"this is no result of 'deepreduce private run': {error!r}"[:200]) from error
    return CostEstimate.of(
        [
            Share(
                kind=kind,
                compute_seconds=seconds[i],
                sending_seconds=link.sending(serial[i]),
                waiting_seconds=link.waiting(messages[i]),
                online_bytes=sent[i],
                rounds=messages[i] / 2,
            )
            for i, kind in enumerate(kinds)
        ]
    )


def batch_of_run(value: Mapping[str, Any]) -> int:
    """Return the number of images of a query in what `PrivateRun.to_json` returned. Raises `UserError` for none."""
    batch = value.get("batch", 1)  # an earlier version had no other
    if type(batch) is not int or batch < 1:
        raise UserError(f"its batch is {str(batch)[:40]!r}, which is no number of images")
    return batch


def _fit_to_total(parts: Sequence[float], total: float) -> list[float]:
    """Return the parts and the rest of the total; parts that exceed the total are scaled down, and the rest is 0."""
    parts, total = [float(part) for part in parts], float(total)
    if not all(0 <= number <= LARGEST_AMOUNT for number in (*parts, total)):
        raise ValueError("a cost is negative or no number")
    scale = min(1.0, total / sum(parts)) if sum(parts) > 0 else 1.0
    return [*(scale * part for part in parts), max(0.0, total - sum(parts))]
