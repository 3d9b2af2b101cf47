"""Links between the parties, and the seconds that bytes and messages take over them."""

from __future__ import annotations

from dataclasses import dataclass

from deepreduce.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Link:
    """A network link; `bits_per_second` None means unlimited, as on the loopback interface."""

    name: str
    bits_per_second: float | None
    round_trip_s: float

    @property
    def label(self) -> str:
        """The link's name with its bandwidth and round trip."""
        if self.bits_per_second is None:
            return self.name
        return f"{self.name} ({self.bits_per_second / 1e6:g} Mbps, {1000 * self.round_trip_s:g} ms round trip)"

    @property
    def computed(self) -> bool:
        """True if seconds over this link are computed, not measured."""
        return self.bits_per_second is not None

    def seconds(self, *, compute: float, sent_bytes: float, messages: float) -> float:
        """Return compute + sent_bytes / bandwidth + messages * round_trip / 2, in seconds.

        `sent_bytes` and `messages` (one way) are those that go one after another.
        """
        return compute + self.sending(sent_bytes) + self.waiting(messages)

    def sending(self, sent_bytes: float) -> float:
        """Return the seconds in which the link sends the bytes."""
        return 8 * sent_bytes / self.bits_per_second if self.bits_per_second is not None else 0.0

    def waiting(self, messages: float) -> float:
        """Return the one-way delays, in seconds, of messages that go one after another."""
        return messages * self.round_trip_s / 2


LINKS = {
    "loopback": Link(name="loopback", bits_per_second=None, round_trip_s=0.0),
    # the settings of Cheetah's evaluation (USENIX Security 2022)
    "lan": Link(name="lan", bits_per_second=3e9, round_trip_s=0.3e-3),
    "wan": Link(name="wan", bits_per_second=400e6, round_trip_s=40e-3),
}


def link_named(name: str) -> Link:
    """Return the link of that name. Raises `UserError` for a name that is not one of `LINKS`."""
    if name not in LINKS:
        raise UserError(unknown_name("link", name, LINKS))
    return LINKS[name]
