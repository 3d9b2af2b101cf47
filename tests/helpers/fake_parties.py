"""A party without an engine, to test what happens around it in milliseconds."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from deepreduce.private.parties.link_tls import LinkTls
from deepreduce.private.parties.processes import ROLES
from deepreduce.private.parties.wire import Message, receive, send


class FakeParty:
    """Stands for a `PartyProcess`: prepared at once, connected at once if `connects`, and all logits are 7."""

    connects = True
    links: list[LinkTls | None]
    """The TLS files of each link, of all parties."""

    def __init__(self, rank: int) -> None:
        self.rank, self.role = rank, ROLES[rank]

    def __enter__(self) -> FakeParty:
        self.channel, self._inside = socket.socketpair()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self._inside.close()

    def prepare(self, *args: Any, timeout_s: float) -> None:
        self._answer("prepared")

    def connect(
        self, addresses: Sequence[str], weights: object = None, *, silent_s: float, tls: LinkTls | None = None
    ) -> None:
        assert len(addresses) == 2 and (weights is not None) == (self.role == "server")
        self.links.append(tls)
        if self.connects:
            self._answer("ready")

    def send(self, message: Message) -> None:
        assert message.kind == "query"
        images = message.arrays.get("image", ())  # (N, H, W, C)
        logits = {"logits": np.full((len(images), 10), 7.0, np.float32)} if self.role == "client" else {}
        self._answer("answer", logits, profiles=[{"bytes_sent": 1_000}, {"bytes_sent": 24}])

    def receive(self) -> Message:
        return receive(self.channel)

    def _answer(self, kind: str, arrays: Mapping[str, np.ndarray[Any, Any]] | None = None, **values: Any) -> None:
        send(self._inside, Message(kind=kind, values=values, arrays=arrays or {}))
