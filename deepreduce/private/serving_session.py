"""Take one client through the phases of a session, each with a limit of its own.

1. Meeting: TLS, the client's hello with its batch, the server's facts, the port of the client's engine:
   `HANDSHAKE_S` each. The server lowers its network first if no client has asked for this batch before.
2. Waiting for the turn, as long as the client stays; many clients meet and wait at the same time.
3. Starting: the server's engine compiles (`timeout_s`), then the two engines connect (`silent_s`).
4. Queries: at most `idle_s` between two, at most `timeout_s` for one, in which the client's engine is never silent
   for more than `silent_s`.

Weights and images are never sent over the connection, which serves to agree on when and where the engines connect.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from deepreduce.errors import RunError
from deepreduce.private.handshake import (
    HANDSHAKE_S,
    lowering_message,
    port_message,
    read_hello,
    read_port,
    refusal_message,
    wait_message,
)
from deepreduce.private.parties.processes import PartyProcess, choose_ports, has_hung_up, receive_answers
from deepreduce.private.parties.wire import ClosedError, Message, MessageError, SilentError, receive, send
from deepreduce.private.protocol import SERVER
from deepreduce.private.serving_offers import Offer, Offers, RefusedError
from deepreduce.private.tls import Tls
from deepreduce.private.turns import Turns

_MAX_MESSAGE_BYTES = 2**12
"""Most bytes of a client's message."""
_STRANGER = "the client is no 'deepreduce private query' of this version"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds: of a query, between two queries, and of silence of a client's engine."""

    timeout_s: float
    idle_s: float
    silent_s: float


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a server offers to every client, and the turns in which it does."""

    offers: Offers
    limits: Limits
    tls: Tls | None
    turns: Turns

    def serve(
        self, plain: socket.socket, host: str, *, has_met: Callable[[], None], report: Callable[[str], None]
    ) -> int:
        """Serve the client of a connection until it leaves; return the number of its queries.

        Calls `has_met` when the client has met the server. Raises `ClosedError`, `OSError`, `RunError` or `UserError`
        for whatever else ends the session.
        """
        plain.settimeout(HANDSHAKE_S)
        if self.tls is None:
            return self._serve(plain, host, has_met, report)
        # a copy: wrapping takes the socket's descriptor away, through which another thread may end the connection
        with self.tls.accept(plain.dup()) as connection:
            return self._serve(connection, host, has_met, report)

    def _serve(
        self, connection: socket.socket, host: str, has_met: Callable[[], None], report: Callable[[str], None]
    ) -> int:
        offer, port = self._meet(connection)
        has_met()
        with self.turns.turn(host, while_waiting=_WhileWaiting(connection, report)), PartyProcess(SERVER) as party:
            self._start(party, offer, connection, host, port)
            count = 0
            while _wait_for_query(connection, idle_s=self.limits.idle_s):
                party.send(Message(kind="query"))
                receive_answers([party], timeout_s=self.limits.timeout_s, other=connection)
                count += 1
            return count

    def _meet(self, connection: socket.socket) -> tuple[Offer, int]:
        """Tell the client what is served; return that and the port of its engine, which it has begun to start."""
        batch = read_hello(receive(connection, max_bytes=_MAX_MESSAGE_BYTES, within_s=HANDSHAKE_S))
        if batch is None:
            raise RunError(_STRANGER)
        offer = self._offer(connection, batch)
        send(connection, offer.info.to_message())
        port = read_port(receive(connection, max_bytes=_MAX_MESSAGE_BYTES, within_s=HANDSHAKE_S))
        if port is None:
            raise RunError(_STRANGER)
        return offer, port

    def _offer(self, connection: socket.socket, batch: int) -> Offer:
        """Return what is offered for a batch; tell the client if that takes time, or why there is none."""
        if not self.offers.has(batch):
            send(connection, lowering_message())
        try:
            return self.offers.get(batch)
        except RefusedError as error:
            send(connection, refusal_message(error.reason))
            raise

    def _start(self, party: PartyProcess, offer: Offer, connection: socket.socket, host: str, port: int) -> None:
        """Start the engine and connect it to the client's at `host`:`port`."""
        info, limits = offer.info, self.limits
        party.prepare(info.program, info.protocol, info.masks, timeout_s=limits.timeout_s)
        receive_answers([party], timeout_s=limits.timeout_s, other=connection)
        (own_host, _) = connection.getsockname()
        (own_port,) = choose_ports(1, None, host=own_host)
        send(connection, port_message(own_port))
        party.connect(
            [f"{own_host}:{own_port}", f"{host}:{port}"],
            offer.weights,
            silent_s=limits.silent_s,
            tls=self.tls.link if self.tls is not None else None,
        )
        receive_answers(
            [party],
            timeout_s=limits.silent_s,
            other=connection,
            late=f"the client's engine did not connect within {limits.silent_s:g} s; the next client gets its turn",
        )


class _WhileWaiting:
    """Tells a waiting client and the server's report how many come first, and sees it leave."""

    def __init__(self, connection: socket.socket, report: Callable[[str], None]) -> None:
        self._connection, self._report, self._ahead = connection, report, 0

    def __call__(self, ahead: int) -> None:
        if has_hung_up(self._connection):
            raise ClosedError("the client left before its turn")
        if ahead != self._ahead:
            if self._ahead == 0:
                self._report(f"waits; {ahead} first")
            send(self._connection, wait_message(ahead))
            self._ahead = ahead


def _wait_for_query(connection: socket.socket, *, idle_s: float) -> bool:
    """Wait for the client to announce a query; return False if it has left."""
    try:
        message = receive(connection, max_bytes=_MAX_MESSAGE_BYTES, within_s=idle_s)
    except SilentError as error:
        raise RunError(f"no query for {idle_s:g} s; the session ended to let the next client connect") from error
    except MessageError:
        raise
    except ClosedError:
        return False
    if message.kind != "query":
        raise RunError(f"the client sent {message.kind[:20]!r} where only queries are accepted")
    return True
