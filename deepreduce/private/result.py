"""What a run under secure computation gives: cost per layer, and how well it agrees with PyTorch."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepreduce.cost.estimate import OTHER_LAYERS, CostEstimate, Share, kind_of
from deepreduce.cost.layers import ADD, BATCH_NORM, CONV, LINEAR, MATMUL, MAX_POOL, OTHER, POOL, RELU, RELU6
from deepreduce.cost.link import LINKS, Link
from deepreduce.errors import UserError
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
class Query:
    """What one query cost, from the image to its logits: wall seconds with the parties on one machine.

    `bytes` and `sent_messages` are all that all parties sent, as the engine's profile counts them. `serial_bytes` and
    `messages` leave out what was on its way at the same time (`Protocol`): they are what a link's bandwidth and delay
    are multiplied with.
    """

    seconds: float
    bytes: int
    serial_bytes: int
    sent_messages: int
    messages: int


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer of the network costs for one image, in the quantities of a `Query`; of several, the median.

    `name` is that of the site or layer in the network that ran, `kind` one of `KINDS` in
    `deepreduce.private.lowering.program`.
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
class OverLink:
    """Whole queries over a `link` that the kernel made. Without `delays` it limited the bandwidth alone."""

    link: Link
    delays: bool
    seconds: Spread

    def total(self, messages: int) -> float:
        """The median seconds, with the delay of so many messages added where the kernel had none."""
        return self.seconds.median + (0.0 if self.delays else self.link.waiting(messages))

    def to_text(self, messages: int) -> str:
        """A line for a terminal."""
        spread = f"{self.seconds.low:.3f} to {self.seconds.high:.3f} in {self.seconds.count} queries"
        if self.delays:
            return f"over it as the kernel makes it: {self.seconds.median:.3f} s, {spread}"
        return (
            f"over its bandwidth as the kernel makes it: {self.seconds.median:.3f} s, {spread}; with the delay,"
            f" computed because the kernel has no netem: {self.total(messages):.3f} s"
        )


@dataclass(frozen=True, kw_only=True)
class PrivateRun:
    """A network under secure computation, measured.

    `layers` are in the order in which they run; they need not add up to a query, which is why `queries` are kept: now
    and then cheetah refills its oblivious transfers, each time in another layer. `setup_seconds` is what comes once:
    starting the parties, compiling, and the first query, which is counted nowhere else. `logits` are one row for each
    image. All is on loopback, but for `over_link`.
    """

    network: str
    relu_count: int
    protocol: Protocol
    layers: tuple[LayerCost, ...]
    queries: tuple[Query, ...]
    setup_seconds: float
    agreement: Agreement
    logits: tuple[tuple[float, ...], ...]
    over_link: OverLink | None = None

    @property
    def seconds(self) -> Spread:
        """Of a query."""
        return Spread.of([query.seconds for query in self.queries])

    @property
    def bytes(self) -> int:
        """Sent by all parties for one image: the median of the queries."""
        return statistics.median_low(query.bytes for query in self.queries)

    @property
    def serial_bytes(self) -> int:
        """Those that wait for each other: the median of the queries."""
        return statistics.median_low(query.serial_bytes for query in self.queries)

    @property
    def messages(self) -> int:
        """One-way messages, one after another, for one image: the median of the queries."""
        return statistics.median_low(query.messages for query in self.queries)

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
        """Seconds of one query over `link`, computed from each that was measured: compute + bytes + messages."""
        return statistics.median(
            link.seconds(compute=query.seconds, sent_bytes=query.serial_bytes, messages=query.messages)
            for query in self.queries
        )

    def to_text(self, link: Link) -> str:
        """Tables for a terminal: does it agree, what does it cost over `link`, per kind and per layer."""
        found, seconds = self.agreement, self.seconds
        lines = [
            f"{self.network}: {self.relu_count:,} ReLUs under {self.protocol.label}",
            f"same prediction as PyTorch on {found.same_argmax} of {found.images} images; logits differ by at most"
            f" {found.max_abs_error:.3g} (largest: {found.max_abs_logit:.3g})",
            f"a query on loopback: {seconds.median:.3f} s, {seconds.low:.3f} to {seconds.high:.3f} in {seconds.count}"
            f" queries; {self._told('bytes')}, {self._told('messages')} one after another",
            f"once, ahead of the first: {self.setup_seconds:.1f} s",
        ]
        if link.computed:
            lines.append(
                f"a query over {link.label}: {self.seconds_over(link):.3f} s, computed from that, not measured"
            )
        if self.over_link is not None:
            lines.append(self.over_link.to_text(self.messages))
        lines += ["", _row("kind", "layers", "seconds", "", "", "bytes", "messages")]
        lines += [_row(c.kind, c.layers, f"{c.seconds:.4f}", "", "", c.bytes, c.messages) for c in self.kinds]
        lines += ["", _row("layer", "kind", "seconds", "low", "high", "bytes", "messages")]
        for layer in self.layers:
            median, low, high = (
                f"{value:.4f}" for value in (layer.seconds.median, layer.seconds.low, layer.seconds.high)
            )
            lines.append(_row(layer.name, layer.kind, median, low, high, layer.bytes, layer.messages))
        return "\n".join(lines)

    def _told(self, amount: str) -> str:
        """The median of an amount of a query, and its range where it varies."""
        spread = Spread.of([getattr(query, amount) for query in self.queries])
        varies = f" ({spread.low:,} to {spread.high:,})" if spread.low != spread.high else ""
        return f"{getattr(self, amount):,}{varies} {amount}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, all of them."""
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
            "seconds": asdict(self.seconds),
            "setup_seconds": self.setup_seconds,
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

    def to_csv(self) -> str:
        """One row for each layer."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        spread_of = ["seconds", "seconds_low", "seconds_high", "repeats"]
        writer.writerow(["name", "kind", *spread_of, *_COUNTS, "protocol"])
        for layer in self.layers:
            spread = layer.seconds
            seconds = [f"{value:.6f}" for value in (spread.median, spread.low, spread.high)]
            counts = [getattr(layer, count) for count in _COUNTS]
            writer.writerow([layer.name, layer.kind, *seconds, spread.count, *counts, self.protocol.label])
        return text.getvalue()


_COUNTS = ("bytes", "serial_bytes", "sent_messages", "messages")
"""Of a `Query`, all but its seconds."""

_LAYER_KINDS = {
    "convolution": CONV, "linear": LINEAR, "product": MATMUL, "scale": BATCH_NORM, "relu": RELU, "relu6": RELU6,
    "clamp": RELU6, "max_pool": MAX_POOL, "avg_pool": POOL, "add": ADD, "move": OTHER, "reveal": OTHER,
}  # fmt: skip
"""Of `deepreduce.private.lowering.program.KINDS`, and of revealing the logits, as a cost names them."""


def cost_of_run(value: Mapping[str, Any], link: Link) -> CostEstimate:
    """Return the measured cost of one image over `link`, from what `PrivateRun.to_json` says of a run.

    It is the whole query's; what that took beyond its layers is among the other layers' costs, and where the layers'
    medians come to more than a query, each counts for as much less. Raises `UserError` for anything else.
    """
    try:
        layers = value["layers"]
        kinds = [kind_of(_LAYER_KINDS[layer["kind"]]) for layer in layers] + [OTHER_LAYERS]
        seconds = _adding_up([layer["seconds"]["median"] for layer in layers], value["seconds"]["median"])
        sent, serial, messages = (
            _adding_up([layer[name] for layer in layers], value[name])
            for name in ("bytes", "serial_bytes", "messages")
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"this is no result of 'deepreduce private run': {error!r}") from error
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


def _adding_up(parts: Sequence[float], total: float) -> list[float]:
    """The parts and what the total is beyond them; parts that come to more are each scaled down, and that is 0."""
    parts, total = [float(part) for part in parts], float(total)
    scale = min(1.0, total / sum(parts)) if sum(parts) > 0 else 1.0
    return [*(scale * part for part in parts), max(0.0, total - sum(parts))]


def _row(name: str, kind: str | int, seconds: str, low: str, high: str, sent: str | int, messages: str | int) -> str:
    counts = [f"{value:,}" if isinstance(value, int) else value for value in (sent, messages)]
    return f"{name[-40:]:<40} {kind:<12} {seconds:>9} {low:>9} {high:>9} {counts[0]:>14} {counts[1]:>8}"
