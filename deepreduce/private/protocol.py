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

    In layers of the kinds in `turns` a party answers what the other has sent, so that their messages come one after
    another; in all others the parties send at once. That this holds was measured, see docs/private.md.
    """

    name: str
    parties: int
    trust: str
    secure: bool
    turns: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """The name with what a reader of its numbers must know."""
        return f"{self.name} ({self.trust})" if self.secure else f"{self.name} ({self.trust}: a cost reference)"

    def sequential(self, sent: Sequence[int], kind: str) -> int:
        """Of what each party sent (bytes or messages) in a layer of this kind, what follows one after another."""
        return sum(sent) if kind in self.turns else max(sent)


_MULTIPLYING = frozenset({"convolution", "linear", "scale", "product", "avg_pool"})
"""Kinds of layers that multiply and round, but compare nothing."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="cheetah", parties=2, trust="two parties, no dealer", secure=True, turns=_MULTIPLYING),
        Protocol(name="semi2k", parties=2, trust="trusted dealer", secure=False),
        Protocol(name="aby3", parties=3, trust="three parties, honest majority", secure=True),
    )
}


def protocol_named(name: str) -> Protocol:
    """Raises `UserError` for a name that is not one of `PROTOCOLS`."""
    if name not in PROTOCOLS:
        raise UserError(unknown_name("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]
