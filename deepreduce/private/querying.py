"""Query a server (`deepreduce.private.serving`) with images that it never sees."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deepreduce.cost.batch import check_batch
from deepreduce.errors import RunError, UserError
from deepreduce.private.batches import batches_of, check_query_fits
from deepreduce.private.handshake import (
    HANDSHAKE_S,
    NO_SERVER,
    ServerInfo,
    hello_message,
    lowering_message,
    port_message,
    read_port,
    read_refusal,
    read_wait,
    two_party_protocol,
)
from deepreduce.private.measuring import query_message
from deepreduce.private.parties.processes import PartyProcess, choose_ports, has_hung_up, receive_answers
from deepreduce.private.parties.wire import ClosedError, Message, MessageError, SilentError, receive, send
from deepreduce.private.protocol import CLIENT, MpcProtocol
from deepreduce.private.spu.install import check_installed
from deepreduce.private.tls import Tls, explain

_MAX_MESSAGE_BYTES = 2**28
"""Most bytes of a server's message, which holds the program and the masks of a plan."""
_LOOK = "look at its terminal, then try again"
"""The repair if nothing is known but that the server disconnected."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The logits of one image, which only the client knows, and what its query cost.

    `images` is the number of images that were given in the query, `seconds` its wall seconds, and `sent_bytes` what
    the client's engine sent, for all of them together.
    """

    logits: tuple[float, ...]
    seconds: float
    sent_bytes: int = 0
    images: int = 1

    @property
    def predicted_class(self) -> int:
        """Return the class of the largest logit."""
        return int(np.argmax(self.logits))


@dataclass(frozen=True, kw_only=True)
class Session:
    """A client's connection to a server, ready for queries of as many images as the server's program takes."""

    server: ServerInfo
    connection: socket.socket
    party: PartyProcess
    timeout_s: float

    def query(self, image: Tensor) -> Reply:
        """Return the reply for one standardised image (C, H, W). Raises `UserError` for another shape."""
        return self.query_together([image])[0]

    def query_together(self, images: Sequence[Tensor]) -> list[Reply]:
        """Return the replies for the images (C, H, W) of one query, filled up with zeros to the session's batch.

        Raises `UserError` for no image, for more than the batch, and for another shape.
        """
        batch = self.server.program.batch
        if not 1 <= len(images) <= batch:
            raise UserError(f"{len(images)} images are given for one query; give 1 to {batch}, the session's batch")
        for image in images:
            if tuple(image.shape) != self.server.input_shape:
                raise UserError(
                    f"the image is {tuple(image.shape)}; the server's network takes {self.server.input_shape}"
                )
        if has_hung_up(self.connection):
            raise RunError("the server ended the session, as it does when no query comes for a while; connect again")
        begin = time.perf_counter()
        _send(self.connection, Message(kind="query"))
        self.party.send(query_message(batches_of(images, batch)[0]))
        (answer,) = receive_answers([self.party], timeout_s=self.timeout_s, other=self.connection)
        seconds, logits = time.perf_counter() - begin, answer.arrays["logits"]  # (batch, classes)
        if logits.ndim != 2 or len(logits) != batch:
            raise RunError(f"the server's program gives logits of shape {logits.shape} for {batch} images")
        sent = sum(profile["bytes_sent"] for profile in answer.values["profiles"])
        return [
            Reply(logits=tuple(float(v) for v in row), seconds=seconds, sent_bytes=sent, images=len(images))
            for row in logits[: len(images)]
        ]


@contextmanager
def open_session(
    host: str,
    port: int,
    *,
    timeout_s: float,
    protocol: str = "cheetah",
    batch: int = 1,
    tls: Tls | None = None,
    check: Callable[[ServerInfo], None] = lambda server: None,
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[Session]:
    """Connect to the server at `host`:`port`, wait for the turn, and start a session, which ends with the context.

    `check` is called with what the server says of its network, before the client asks for its turn; what it raises
    ends the connection. `report` is called with a line if others come first. A query is of at most `batch` images.

    Raises `RunError` if no server answers or it disconnects, and `UserError` if it refuses the batch, if a query does
    not fit into memory, and if it serves under another protocol than `protocol`: the client chooses how its image is
    protected. Before that check the client sends nothing but the version of its messages and the batch.
    """
    chosen, at = two_party_protocol(protocol), f"{host}:{port}"
    check_batch(batch)
    check_installed()
    with _connect(host, port, tls) as connection:
        server = _meet(connection, batch, tls, at=at, timeout_s=timeout_s, report=report)
        _check_protocol(server.protocol, chosen, at=at)
        _check_link(server, tls, at=at)
        check(server)
        check_query_fits(server.program, batch, parties=1)
        with PartyProcess(CLIENT) as party:
            _start(party, connection, server, tls, timeout_s=timeout_s, report=report)
            yield Session(server=server, connection=connection, party=party, timeout_s=timeout_s)


def _connect(host: str, port: int, tls: Tls | None) -> socket.socket:
    try:
        connection = socket.create_connection((host, port), timeout=HANDSHAKE_S)
    except (OSError, OverflowError, ValueError, TypeError) as error:  # the last two: this can't be a host's name
        raise RunError(f"no server answers at {host}:{port} ({error}); start 'deepreduce private serve'") from error
    if tls is None:
        return connection
    try:
        return tls.connect(connection, host)
    except BaseException:
        connection.close()
        raise


def _meet(
    connection: socket.socket,
    batch: int,
    tls: Tls | None,
    *,
    at: str,
    timeout_s: float,
    report: Callable[[str], None],
) -> ServerInfo:
    """Ask for queries of `batch` images; return what the server says of its network."""
    _send(connection, hello_message(batch))
    repair = _LOOK if tls is not None else f"{_LOOK}; if it speaks TLS, give --tls-ca"
    message = _receive(connection, within_s=HANDSHAKE_S, repair=repair)
    if message.kind == lowering_message().kind:
        report(f"the server prepares its network for {batch} images a query")
        message = _receive(connection, within_s=timeout_s)
    reason = read_refusal(message)
    if reason is not None:
        raise UserError(f"the server at {at} refuses a batch of {batch}: {reason}")
    server = ServerInfo.from_message(message)
    if server.program.batch != batch:
        raise RunError(NO_SERVER)
    return server


def _start(
    party: PartyProcess,
    connection: socket.socket,
    server: ServerInfo,
    tls: Tls | None,
    *,
    timeout_s: float,
    report: Callable[[str], None],
) -> None:
    """Start the client's engine, and connect it to the server's when it is the client's turn."""
    party.prepare(server.program, server.protocol, server.masks, timeout_s=timeout_s)  # while others have their turn
    own_host, server_host = _hosts(connection)
    (own_port,) = choose_ports(1, None, host=own_host)
    _send(connection, port_message(own_port))
    server_port = _wait_for_turn(connection, timeout_s=timeout_s, report=report)
    receive_answers([party], timeout_s=timeout_s, other=connection)
    party.connect(
        [f"{server_host}:{server_port}", f"{own_host}:{own_port}"],
        silent_s=timeout_s,
        tls=tls.link if tls is not None else None,
    )
    receive_answers([party], timeout_s=timeout_s, other=connection)


def _wait_for_turn(connection: socket.socket, *, timeout_s: float, report: Callable[[str], None]) -> int:
    """Return the port of the server's engine, which the server sends when it is this client's turn."""
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise RunError(f"the turn did not come within {timeout_s:g} s; try again, or give a longer --timeout")
        message = _receive(connection, within_s=left_s)
        ahead = read_wait(message)
        if ahead is None:
            port = read_port(message)
            if port is None:
                raise RunError(NO_SERVER)
            return port
        report(f"waiting for the server's turn: {ahead} first")


def _check_protocol(served: MpcProtocol, chosen: MpcProtocol, *, at: str) -> None:
    """Raise `UserError` if the server's protocol is not the client's choice."""
    if served == chosen:
        return
    repair = f"give --protocol {served.name}"
    if not served.secure:
        repair += " if you only need a cost reference: the server could see the image"
    raise UserError(f"the server at {at} serves under {served.label}, not {chosen.name}; {repair}")


def _check_link(server: ServerInfo, tls: Tls | None, *, at: str) -> None:
    """Raise `UserError` if only one side has the files for a link of the engines under TLS."""
    link = tls is not None and tls.link is not None
    if link and not server.link_tls:
        raise UserError(
            f"the server at {at} connects the engines over plain TCP; start it with --tls-ca too, or leave out"
            " --tls-cert and --tls-key if only the control connection needs TLS"
        )
    if server.link_tls and not link:
        raise UserError(f"the server at {at} connects the engines under TLS; give --tls-cert and --tls-key")


def _hosts(connection: socket.socket) -> tuple[str, str]:
    """Return the addresses of the client and of the server."""
    try:
        return str(connection.getsockname()[0]), str(connection.getpeername()[0])
    except OSError as error:
        raise RunError(_disconnect_text(error)) from error


def _receive(connection: socket.socket, *, within_s: float, repair: str = _LOOK) -> Message:
    try:
        return receive(connection, max_bytes=_MAX_MESSAGE_BYTES, within_s=within_s)
    except MessageError as error:
        raise RunError(f"{NO_SERVER} ({error})") from error
    except SilentError as error:
        raise RunError(f"the server was silent for {within_s:.0f} s; {repair}") from error
    except ClosedError as error:
        raise RunError(_disconnect_text(error, repair)) from error


def _send(connection: socket.socket, message: Message) -> None:
    try:
        send(connection, message)
    except ClosedError as error:
        raise RunError(_disconnect_text(error)) from error


def _disconnect_text(error: Exception, repair: str = _LOOK) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return explain(cause, other="the server")  # under TLS 1.3 its refusal of a certificate arrives this late
    return f"the server disconnected ({error}); {repair}"
