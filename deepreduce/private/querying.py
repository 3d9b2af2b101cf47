"""Query a server (`deepreduce.private.serving`) with images that it never sees."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deepreduce.errors import RunError, UserError
from deepreduce.private.handshake import (
    HANDSHAKE_S,
    NO_SERVER,
    ServerInfo,
    port_message,
    read_port,
    two_party_protocol,
)
from deepreduce.private.measuring import query_message
from deepreduce.private.parties.processes import PartyProcess, choose_ports, has_hung_up, receive_answers
from deepreduce.private.parties.wire import ClosedError, Message, MessageError, receive, send
from deepreduce.private.protocol import CLIENT, MpcProtocol
from deepreduce.private.spu.install import check_installed

_MAX_MESSAGE_BYTES = 2**28
"""Most bytes of a server's message, which holds the program and the masks of a plan."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The logits of one image, which only the client knows, and the wall seconds of the query."""

    logits: tuple[float, ...]
    seconds: float

    @property
    def predicted_class(self) -> int:
        """Return the class of the largest logit."""
        return int(np.argmax(self.logits))


@dataclass(frozen=True, kw_only=True)
class Session:
    """A client's connection to a server, ready for queries."""

    server: ServerInfo
    connection: socket.socket
    party: PartyProcess
    timeout_s: float

    def query(self, image: Tensor) -> Reply:
        """Return the reply for one standardised image (C, H, W). Raises `UserError` for another shape."""
        if tuple(image.shape) != self.server.input_shape:
            raise UserError(
                f"the image is {tuple(image.shape)}; the server's network takes {self.server.input_shape}"
            )
        if has_hung_up(self.connection):
            raise RunError("the server ended the session, as it does when no query comes for a while; connect again")
        begin = time.perf_counter()
        _send(self.connection, Message(kind="query"))
        self.party.send(query_message(image))
        (answer,) = receive_answers([self.party], timeout_s=self.timeout_s, other=self.connection)
        logits = answer.arrays["logits"][0]
        return Reply(logits=tuple(float(value) for value in logits), seconds=time.perf_counter() - begin)


@contextmanager
def open_session(host: str, port: int, *, timeout_s: float, protocol: str = "cheetah") -> Iterator[Session]:
    """Connect to the server at `host`:`port` and start a session; the session ends with the context.

    Raises `RunError` if no server answers or it disconnects, and `UserError` if it serves under another protocol than
    `protocol`: the client chooses how its image is protected. Before that check the client sends nothing.
    """
    chosen = two_party_protocol(protocol)
    check_installed()
    try:
        connection = socket.create_connection((host, port), timeout=HANDSHAKE_S)
    except (OSError, OverflowError) as error:
        raise RunError(f"no server answers at {host}:{port} ({error}); start 'deepreduce private serve'") from error
    with connection:
        server = ServerInfo.from_message(_receive(connection))
        _check_protocol(server.protocol, chosen, at=f"{host}:{port}")
        with PartyProcess(CLIENT) as party:
            own_host, server_host = _hosts(connection)
            (own_port,) = choose_ports(1, None, host=own_host)
            _send(connection, port_message(own_port))
            server_port = read_port(_receive(connection))
            if server_port is None:
                raise RunError(NO_SERVER)
            addresses = [f"{server_host}:{server_port}", f"{own_host}:{own_port}"]
            party.join(server.program, server.protocol, addresses, server.masks, timeout_s=timeout_s)
            receive_answers([party], timeout_s=timeout_s, other=connection)
            yield Session(server=server, connection=connection, party=party, timeout_s=timeout_s)


def _check_protocol(served: MpcProtocol, chosen: MpcProtocol, *, at: str) -> None:
    """Raise `UserError` if the server's protocol is not the client's choice."""
    if served == chosen:
        return
    repair = f"give --protocol {served.name}"
    if not served.secure:
        repair += " if you only need a cost reference: the server could see the image"
    raise UserError(f"the server at {at} serves under {served.label}, not {chosen.name}; {repair}")


def _hosts(connection: socket.socket) -> tuple[str, str]:
    """Return the addresses of the client and of the server."""
    try:
        return str(connection.getsockname()[0]), str(connection.getpeername()[0])
    except OSError as error:
        raise RunError(_disconnect_text(error)) from error


def _receive(connection: socket.socket) -> Message:
    try:
        return receive(connection, max_bytes=_MAX_MESSAGE_BYTES, within_s=HANDSHAKE_S)
    except MessageError as error:
        raise RunError(f"{NO_SERVER} ({error})") from error
    except ClosedError as error:
        raise RunError(
            f"the server disconnected or is busy with another client ({error}); try again later"
        ) from error


def _send(connection: socket.socket, message: Message) -> None:
    try:
        send(connection, message)
    except ClosedError as error:
        raise RunError(_disconnect_text(error)) from error


def _disconnect_text(error: Exception) -> str:
    return f"the server disconnected ({error}); look at its terminal, then try again"
