"""The protocols: how many parties each has, whom they trust, and how their messages follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepreduce.errors import UserError, unknown_name

SERVER, CLIENT = 0, 1
"""Ranks of the party that owns the weights and of the one that owns the image."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol of the engine. `trust` is what its security rests on; `secure` is False for a mere cost reference.

    `takes_turns`: a party answers what the other has sent, so that their messages come one after another; without it
    all parties send at once, and a round is one message of each.
    """

    name: str
    parties: int
    trust: str
    secure: bool
    takes_turns: bool

    @property
    def label(self) -> str:
        """The name with what a reader of its numbers must know."""
        return f"{self.name} ({self.trust})" if self.secure else f"{self.name} ({self.trust}: a cost reference)"

    def sequential(self, sent: Sequence[int]) -> int:
        """Of what each party sent (bytes or messages), that which follows one after another."""
        return sum(sent) if self.takes_turns else max(sent)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="cheetah", parties=2, trust="two parties, no dealer", secure=True, takes_turns=True),
        Protocol(name="semi2k", parties=2, trust="trusted dealer", secure=False, takes_turns=False),
        Protocol(name="aby3", parties=3, trust="three parties, honest majority", secure=True, takes_turns=False),
    )
}


def protocol_named(name: str) -> Protocol:
    """Raises `UserError` for a name that is not one of `PROTOCOLS`."""
    if name not in PROTOCOLS:
        raise UserError(unknown_name("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]
