"""Describe the protocols: the number of parties, the trust assumption, and which messages wait for each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deepreduce.errors import UserError, unknown_name

SERVER, CLIENT = 0, 1
"""Ranks of the party that owns the weights and of the party that owns the image."""


@dataclass(frozen=True, kw_only=True)
class MpcProtocol:
    """A protocol of the engine.

    `trust` is the assumption that its security rests on; `secure` is False for a protocol that serves as a cost
    reference only. In layers whose kind is in `alternating` each party answers the other, so that the bytes of both
    are sequential; in all other layers the parties send at the same time. `delays` maps a kind of layer to the
    one-way delays that such a layer waits for on a slow link, where the engine's message count does not say: Cheetah
    sends the parts of a large layer in parallel. docs/private.md describes the measurements.
    """

    name: str
    parties: int
    trust: str
    secure: bool
    alternating: frozenset[str] = frozenset()
    delays: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return the name and the trust assumption, for a reader of the protocol's figures."""
        return f"{self.name} ({self.trust})" if self.secure else f"{self.name} ({self.trust}: a cost reference)"

    def sequential_bytes(self, sent: Sequence[int], kind: str) -> int:
        """Return how many bytes of a layer are sent one after another; `sent` holds the bytes of each party."""
        return self._sequential(sent, kind)

    def sequential_messages(self, sent: Sequence[int], kind: str) -> int:
        """Return how many one-way messages of a layer follow one after another; `sent` holds those of each party.

        For a kind without an entry in `delays` the count is an upper bound.
        """
        return self.delays.get(kind, self._sequential(sent, kind)) if any(sent) else 0

    def _sequential(self, sent: Sequence[int], kind: str) -> int:
        return sum(sent) if kind in self.alternating else max(sent)


_MULTIPLYING = frozenset({"convolution", "linear", "scale", "product", "square", "avg_pool"})
"""Kinds of layers that multiply and truncate, but compare nothing."""

_CHEETAH_DELAYS = {"convolution": 4, "linear": 4, "avg_pool": 2, "scale": 8, "relu": 22, "relu6": 42}
"""Measured with every byte held back for 0.25 s, in layers of 40 to 16,384 elements: independent of their size."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        MpcProtocol(
            name="cheetah",
            parties=2,
            trust="two parties, no dealer",
            secure=True,
            alternating=_MULTIPLYING,
            delays=_CHEETAH_DELAYS,
        ),
        MpcProtocol(name="semi2k", parties=2, trust="trusted dealer", secure=False),
        MpcProtocol(name="aby3", parties=3, trust="three parties, honest majority", secure=True),
    )
}


def protocol_named(name: str) -> MpcProtocol:
    """Return the protocol of that name. Raises `UserError` for a name that is not in `PROTOCOLS`."""
    if name not in PROTOCOLS:
        raise UserError(unknown_name("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]
