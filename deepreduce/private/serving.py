"""Serve a network's weights to one client after another, in a process that listens on a port.

Server and client first exchange messages over a TCP connection (`deepreduce.private.handshake`); the client then
announces each query over it, and ends the session by closing it. Weights and images are never sent over it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deepreduce.data import Standardisation
from deepreduce.errors import RunError, UserError
from deepreduce.network import Network
from deepreduce.private.handshake import HANDSHAKE_S, ServerInfo, port_message, read_port, two_party_protocol
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Lowered, lower
from deepreduce.private.parties.processes import PartyProcess, choose_ports, receive_answers
from deepreduce.private.parties.wire import ClosedError, Message, MessageError, SilentError, receive, send
from deepreduce.private.protocol import SERVER
from deepreduce.private.spu.install import check_installed
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs

_MAX_MESSAGE_BYTES = 2**12
"""Most bytes of a client's message."""


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open a socket that clients can connect to. Raises `UserError` for an address that can't be used."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"{host}:{port} can't be used ({error}); give another --port") from error
        listener.listen()
        yield listener


def serve(
    network: Network,
    listener: socket.socket,
    *,
    protocol: str,
    standardisation: Standardisation | None,
    timeout_s: float,
    report: Callable[[str], None],
    idle_s: float = 60.0,
    cost: LayerCostFunction = macs,
) -> None:
    """Serve `network` to one client after another, forever; call `report` with a line for every event.

    Linear regions are collapsed where that lowers `cost`, the cost of a layer. A client that fails, disconnects,
    sends anything invalid or sends nothing for `idle_s` seconds ends only its own session. Raises `UserError`, before
    the first client, for a network that can't be lowered and for a protocol of more than two parties.
    """
    chosen = two_party_protocol(protocol)
    check_installed()
    lowered = lower(prepare(network, cost=cost))
    info = ServerInfo(
        protocol=chosen,
        program=lowered.program,
        masks=lowered.masks,
        input_shape=network.input_shape,
        standardisation=standardisation,
    )
    own_host, own_port = listener.getsockname()
    report(f"serving {network.name}, {network.relu_count:,} ReLUs, under {chosen.label} at {own_host}:{own_port}")
    while True:
        try:
            connection, (host, port) = listener.accept()
        except ConnectionAbortedError:  # the client disconnected before it was accepted
            continue
        client = f"client {host}:{port}"
        report(f"{client} connected")
        with connection:
            try:
                count = _serve_client(connection, host, info, lowered, timeout_s=timeout_s, idle_s=idle_s)
                outcome = f" left after {count} queries"
            except (OSError, UserError, RunError, ClosedError) as error:
                outcome = f": {' '.join(str(error).split())}"
        report(client + outcome)


def _serve_client(
    connection: socket.socket, host: str, info: ServerInfo, lowered: Lowered, *, timeout_s: float, idle_s: float
) -> int:
    """Serve one client until it leaves; return the number of its queries."""
    connection.settimeout(HANDSHAKE_S)
    send(connection, info.to_message())
    client_port = read_port(receive(connection, max_bytes=_MAX_MESSAGE_BYTES, within_s=HANDSHAKE_S))
    if client_port is None:
        raise RunError("the client is no 'deepreduce private query' of this version")
    (own_host, _) = connection.getsockname()
    (own_port,) = choose_ports(1, None, host=own_host)
    with PartyProcess(SERVER) as party:
        send(connection, port_message(own_port))
        addresses = [f"{own_host}:{own_port}", f"{host}:{client_port}"]
        arrays = {**lowered.masks, **lowered.weights}
        party.join(info.program, info.protocol, addresses, arrays, timeout_s=timeout_s)
        receive_answers([party], timeout_s=timeout_s, other=connection)
        count = 0
        while _wait_for_query(connection, idle_s=idle_s):
            party.send(Message(kind="query"))
            receive_answers([party], timeout_s=timeout_s, other=connection)
            count += 1
        return count


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
