"""The protocols: how many parties each has, whom they trust, and how their messages follow each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deepreduce.errors import UserError, unknown_name

SERVER, CLIENT = 0, 1
"""Ranks of the party that owns the weights and of the one that owns the image."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol of the engine. `trust` is what its security rests on; `secure` is False for a mere cost reference.

    In layers of the kinds in `turns` a party answers what the other has sent, so that their bytes come one after
    another; in all others the parties send at once. `delays` are the one-way delays of a slow link that a layer of
    each kind waits for, where the engine's count of messages does not tell: Cheetah sends the parts of a large layer
    side by side, and all that is ready at once. All of that was measured, see docs/private.md.
    """

    name: str
    parties: int
    trust: str
    secure: bool
    turns: frozenset[str] = frozenset()
    delays: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name with what a reader of its numbers must know."""
        return f"{self.name} ({self.trust})" if self.secure else f"{self.name} ({self.trust}: a cost reference)"

    def sequential_bytes(self, sent: Sequence[int], kind: str) -> int:
        """Of the bytes that each party sent in a layer of this kind, those that follow one after another."""
        return self._sequential(sent, kind)

    def sequential_messages(self, sent: Sequence[int], kind: str) -> int:
        """The one-way messages that follow one after another in a layer of this kind, of which each party sent some.

        Of a kind without `delays` that is at most so many.
        """
        return self.delays.get(kind, self._sequential(sent, kind)) if any(sent) else 0

    def _sequential(self, sent: Sequence[int], kind: str) -> int:
        return sum(sent) if kind in self.turns else max(sent)


_MULTIPLYING = frozenset({"convolution", "linear", "scale", "product", "avg_pool"})
"""Kinds of layers that multiply and round, but compare nothing."""

_CHEETAH_DELAYS = {"convolution": 4, "linear": 4, "avg_pool": 2, "scale": 8, "relu": 22, "relu6": 42}
"""Measured with every byte held back for 0.25 s, in layers of 40 to 16,384 elements: the same whatever their size."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="cheetah",
            parties=2,
            trust="two parties, no dealer",
            secure=True,
            turns=_MULTIPLYING,
            delays=_CHEETAH_DELAYS,
        ),
        Protocol(name="semi2k", parties=2, trust="trusted dealer", secure=False),
        Protocol(name="aby3", parties=3, trust="three parties, honest majority", secure=True),
    )
}


def protocol_named(name: str) -> Protocol:
    """Raises `UserError` for a name that is not one of `PROTOCOLS`."""
    if name not in PROTOCOLS:
        raise UserError(unknown_name("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]
