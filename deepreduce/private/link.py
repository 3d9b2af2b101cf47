"""Links between the parties: what a query takes over one, computed from measured bytes and messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of `bits_per_second` and `round_trip_s` seconds there and back; the loopback interface has None."""

    name: str
    bits_per_second: float | None
    round_trip_s: float

    @property
    def computed(self) -> bool:
        """True where seconds over this link are arithmetic, not a measurement."""
        return self.bits_per_second is not None

    def seconds(self, *, compute: float, sent_bytes: int, messages: int) -> float:
        """`compute` + bytes / bandwidth + messages, one after another, times the one-way delay."""
        transfer = 8 * sent_bytes / self.bits_per_second if self.bits_per_second is not None else 0.0
        return compute + transfer + messages * self.round_trip_s / 2


LINKS = {
    "loopback": Link(name="loopback", bits_per_second=None, round_trip_s=0.0),
    # the settings of Cheetah's evaluation (USENIX Security 2022)
    "lan": Link(name="lan", bits_per_second=3e9, round_trip_s=0.3e-3),
    "wan": Link(name="wan", bits_per_second=400e6, round_trip_s=40e-3),
}
