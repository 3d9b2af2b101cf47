"""A standing server that holds the weights, and clients that come with images: one process each on every side.

They first talk over a TCP connection of their own: the server offers the program, both say where their engines
listen, and the client announces each query. Weights and images never go over it; closing it ends the session.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepreduce.data import Standardisation
from deepreduce.errors import RunError, UserError
from deepreduce.network import Network
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Lowered, lower
from deepreduce.private.lowering.program import Program
from deepreduce.private.measuring import query_of
from deepreduce.private.parties.processes import PartyProcess, answers, choose_ports, hung_up
from deepreduce.private.parties.wire import ClosedError, Message, MessageError, SilentError, receive, send
from deepreduce.private.protocol import CLIENT, SERVER, Protocol, protocol_named
from deepreduce.private.spu.install import check_installed
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs

Array = NDArray[Any]

_GREETING_S = 20.0
"""Seconds that the other side may take to say what it wants, and a connection may take to come about."""
_MOST_SAID, _MOST_OFFERED = 2**12, 2**28
"""Bytes that a client's messages may have, and a server's: the program and the masks of a plan."""


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """What a server tells everybody who connects: all that is public."""

    protocol: Protocol
    program: Program
    masks: Mapping[str, Array]
    input_shape: tuple[int, int, int]
    standardisation: Standardisation | None

    def to_message(self) -> Message:
        """As it goes over the connection."""
        scale = self.standardisation
        values = {
            "protocol": self.protocol.name,
            "program": self.program.to_json(),
            "input_shape": list(self.input_shape),
            "standardisation": None if scale is None else {"mean": list(scale.mean), "std": list(scale.std)},
        }
        return Message(kind="offer", values=values, arrays=self.masks)

    @classmethod
    def from_message(cls, message: Message) -> ServerInfo:
        """Raises `RunError` for anything but an offer."""
        try:
            values = message.values
            if message.kind != "offer":
                raise ValueError(message.kind)
            channels, height, width = (int(n) for n in values["input_shape"])
            scale = values["standardisation"]
            return cls(
                protocol=protocol_named(values["protocol"]),
                program=Program.from_json(values["program"]),
                masks=message.arrays,
                input_shape=(channels, height, width),
                standardisation=None
                if scale is None
                else Standardisation(mean=_floats(scale["mean"], channels), std=_floats(scale["std"], channels)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, UserError) as error:
            raise RunError(_NO_SERVER) from error


_NO_SERVER = "what answers there is no 'deepreduce private serve' of this version"


def _floats(values: Any, count: int) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if len(found) != count:
        raise ValueError(values)
    return found


def protocol_between_two(name: str) -> Protocol:
    """The protocol, for one server and one client. Raises `UserError` for an unknown one and one of more parties."""
    found = protocol_named(name)
    if found.parties != 2:
        raise UserError(f"{name} needs {found.parties} parties; serve and query are two: give cheetah or semi2k")
    return found


def _port_of(message: Message) -> int | None:
    """Where the other side's engine listens; None where that is not what the message says."""
    port = message.values.get("port")
    return port if message.kind == "meet" and type(port) is int and 0 < port < 2**16 else None


# -- the server ---------------------------------------------------------------------------------------------


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that clients can connect to. Raises `UserError` for an address that can't be used."""
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"{host}:{port} can't be used ({error}); give another --port") from error
        door.listen()
        yield door


def serve(
    network: Network,
    door: socket.socket,
    *,
    protocol: str,
    standardisation: Standardisation | None,
    timeout_s: float,
    told: Callable[[str], None],
    idle_s: float = 60.0,
    cost: LayerCostFunction = macs,
) -> None:
    """Serve `network` to one client after another, without end; `told` gets a line for what happens.

    Linear regions are collapsed where that lowers `cost`, which prices one layer. A client that fails, goes away,
    says what it should not or nothing for `idle_s` seconds ends its own session only. Raises `UserError` before the
    first for what can't be expressed, and for a protocol of more than two parties.
    """
    chosen = protocol_between_two(protocol)
    check_installed()
    lowered = lower(prepare(network, cost=cost))
    offer = ServerInfo(
        protocol=chosen,
        program=lowered.program,
        masks=lowered.masks,
        input_shape=network.input_shape,
        standardisation=standardisation,
    )
    own, port = door.getsockname()
    told(f"serving {network.name}, {network.relu_count:,} ReLUs, under {chosen.label} at {own}:{port}")
    while True:
        try:
            connection, (host, port) = door.accept()
        except ConnectionAbortedError:  # by a client that did not wait for its turn
            continue
        client = f"client {host}:{port}"
        told(f"{client} connected")
        with connection:
            try:
                count = _serve_client(connection, host, offer, lowered, timeout_s=timeout_s, idle_s=idle_s)
                ended = f" left after {count} queries"
            except (OSError, UserError, RunError, ClosedError) as error:
                ended = f": {' '.join(str(error).split())}"
        told(client + ended)


def _serve_client(
    connection: socket.socket, host: str, offer: ServerInfo, lowered: Lowered, *, timeout_s: float, idle_s: float
) -> int:
    """The number of queries served until the client left."""
    connection.settimeout(_GREETING_S)
    send(connection, offer.to_message())
    theirs = _port_of(receive(connection, most=_MOST_SAID, within_s=_GREETING_S))
    if theirs is None:
        raise RunError("it is no 'deepreduce private query' of this version")
    (own, _) = connection.getsockname()
    (port,) = choose_ports(1, None, host=own)
    with PartyProcess(SERVER) as party:
        send(connection, Message(kind="meet", values={"port": port}))
        arrays = {**lowered.masks, **lowered.weights}
        party.join(offer.program, offer.protocol, [f"{own}:{port}", f"{host}:{theirs}"], arrays, timeout_s=timeout_s)
        answers([party], timeout_s=timeout_s, other=connection)
        count = 0
        while _asked(connection, idle_s=idle_s):
            party.tell(Message(kind="query"))
            answers([party], timeout_s=timeout_s, other=connection)
            count += 1
        return count


def _asked(connection: socket.socket, *, idle_s: float) -> bool:
    """Whether the client announces another query; False: it has left."""
    try:
        asked = receive(connection, most=_MOST_SAID, within_s=idle_s)
    except SilentError as error:
        raise RunError(f"asked nothing for {idle_s:g} s, the next client's turn") from error
    except MessageError:
        raise
    except ClosedError:
        return False
    if asked.kind != "query":
        raise RunError("it asks for what is no query")
    return True


# -- the client ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The logits of one image, which nobody but the client knows, and the wall seconds that they took."""

    logits: tuple[float, ...]
    seconds: float

    @property
    def predicted(self) -> int:
        """The class of the largest logit."""
        return int(np.argmax(self.logits))


@dataclass(frozen=True, kw_only=True)
class Session:
    """A client's connection to a server, ready for queries."""

    offer: ServerInfo
    connection: socket.socket
    party: PartyProcess
    timeout_s: float

    def query(self, image: Tensor) -> Reply:
        """The reply for one image (C, H, W), standardised. Raises `UserError` for another shape."""
        if tuple(image.shape) != self.offer.input_shape:
            raise UserError(f"the image is {tuple(image.shape)}; the server's network takes {self.offer.input_shape}")
        if hung_up(self.connection):
            raise RunError("the server ended the session, as it does when no query comes for a while; connect again")
        begin = time.perf_counter()
        _tell(self.connection, Message(kind="query"))
        self.party.tell(query_of(image))
        (answer,) = answers([self.party], timeout_s=self.timeout_s, other=self.connection)
        logits = answer.arrays["logits"][0]
        return Reply(logits=tuple(float(value) for value in logits), seconds=time.perf_counter() - begin)


@contextmanager
def session(host: str, port: int, *, timeout_s: float, protocol: str = "cheetah") -> Iterator[Session]:
    """A session with the server at `host`:`port`.

    Raises `RunError` where none answers or it goes away, and `UserError` where it offers another protocol: what hides
    the image is the client's choice. Nothing of the client's is shared before.
    """
    chosen = protocol_between_two(protocol)
    check_installed()
    try:
        connection = socket.create_connection((host, port), timeout=_GREETING_S)
    except (OSError, OverflowError) as error:
        raise RunError(f"no server answers at {host}:{port} ({error}); start 'deepreduce private serve'") from error
    with connection:
        offer = ServerInfo.from_message(_hear(connection))
        _check_offered(offer.protocol, chosen, at=f"{host}:{port}")
        with PartyProcess(CLIENT) as party:
            own, peer = _ends(connection)
            (own_port,) = choose_ports(1, None, host=own)
            _tell(connection, Message(kind="meet", values={"port": own_port}))
            theirs = _port_of(_hear(connection))
            if theirs is None:
                raise RunError(_NO_SERVER)
            addresses = [f"{peer}:{theirs}", f"{own}:{own_port}"]
            party.join(offer.program, offer.protocol, addresses, offer.masks, timeout_s=timeout_s)
            answers([party], timeout_s=timeout_s, other=connection)
            yield Session(offer=offer, connection=connection, party=party, timeout_s=timeout_s)


def _check_offered(offered: Protocol, chosen: Protocol, *, at: str) -> None:
    """Raises `UserError` for another protocol than the client's choice."""
    if offered == chosen:
        return
    repair = f"give --protocol {offered.name}"
    if not offered.secure:
        repair += " if all you want is a cost reference: the server could see the image"
    raise UserError(f"the server at {at} offers {offered.label}, not {chosen.name}; {repair}")


def _ends(connection: socket.socket) -> tuple[str, str]:
    """Our address and the server's."""
    try:
        return str(connection.getsockname()[0]), str(connection.getpeername()[0])
    except OSError as error:
        raise RunError(f"the server went away ({error}); look at its terminal, then try again") from error


def _hear(connection: socket.socket) -> Message:
    try:
        return receive(connection, most=_MOST_OFFERED, within_s=_GREETING_S)
    except MessageError as error:
        raise RunError(f"{_NO_SERVER} ({error})") from error
    except ClosedError as error:
        raise RunError(f"the server went away or is busy with another client ({error}); try again later") from error


def _tell(connection: socket.socket, message: Message) -> None:
    try:
        send(connection, message)
    except ClosedError as error:
        raise RunError(f"the server went away ({error}); look at its terminal, then try again") from error
