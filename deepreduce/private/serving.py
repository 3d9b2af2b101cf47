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
from deepreduce.private.bridge import Lowered, lower
from deepreduce.private.graph import prepare
from deepreduce.private.install import check_installed
from deepreduce.private.measuring import query_of
from deepreduce.private.processes import PartyProcess, answers, choose_ports
from deepreduce.private.program import Program
from deepreduce.private.protocol import CLIENT, SERVER, Protocol, protocol_named
from deepreduce.private.wire import ClosedError, Message, receive, send
from deepreduce.transforms.merging import LayerCost, macs

Array = NDArray[Any]

_GREETING_S = 20.0
"""Seconds that the other side may take to say what it wants, and a connection may take to come about."""


@dataclass(frozen=True, kw_only=True)
class Offer:
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
    def from_message(cls, message: Message) -> Offer:
        """Raises `RunError` for anything but an offer."""
        try:
            values = message.values
            channels, height, width = (int(n) for n in values["input_shape"])
            scale = values["standardisation"]
            return cls(
                protocol=protocol_named(values["protocol"]),
                program=Program.from_json(values["program"]),
                masks=message.arrays,
                input_shape=(channels, height, width),
                standardisation=None
                if scale is None
                else Standardisation(mean=tuple(scale["mean"]), std=tuple(scale["std"])),
            )
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise RunError("what answers there is no 'deepreduce private serve' of this version") from error


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
    cost: LayerCost = macs,
) -> None:
    """Serve `network` to one client after another, without end; `told` gets a line for what happens.

    Linear regions are collapsed where that lowers `cost`, which prices one layer. A client that fails or goes away
    ends its own session only. Raises `UserError` before the first for what can't be expressed, and for a protocol of
    more than two parties.
    """
    chosen = protocol_named(protocol)
    check_installed()
    if chosen.parties != 2:
        raise UserError(f"{protocol} needs {chosen.parties} parties; serve and query are two: give cheetah or semi2k")
    lowered = lower(prepare(network, cost=cost))
    offer = Offer(
        protocol=chosen,
        program=lowered.program,
        masks=lowered.masks,
        input_shape=network.input_shape,
        standardisation=standardisation,
    )
    while True:
        connection, (host, port, *_) = door.accept()
        with connection:
            told(f"client {host}:{port} connected")
            try:
                count = _serve_client(connection, offer, lowered, timeout_s=timeout_s)
                told(f"client {host}:{port} left after {count} queries")
            except (RunError, ClosedError) as error:
                told(f"client {host}:{port}: {error}")


def _serve_client(connection: socket.socket, offer: Offer, lowered: Lowered, *, timeout_s: float) -> int:
    """The number of queries served until the client left."""
    connection.settimeout(_GREETING_S)
    send(connection, offer.to_message())
    greeting = receive(connection, most=0)
    if greeting.kind != "meet" or not isinstance(greeting.values.get("port"), int):
        raise RunError("it is no 'deepreduce private query' of this version")
    (host, *_), (own, *_) = connection.getpeername(), connection.getsockname()
    (port,) = choose_ports(1, None, host=own)
    with PartyProcess(SERVER) as party:
        send(connection, Message(kind="meet", values={"port": port}))
        addresses = [f"{own}:{port}", f"{host}:{greeting.values['port']}"]
        arrays = {**lowered.masks, **lowered.weights}
        party.join(offer.program, offer.protocol, addresses, arrays, timeout_s=timeout_s)
        answers([party], timeout_s=timeout_s, other=connection)
        connection.settimeout(timeout_s)
        for count in range(2**31):
            try:
                receive(connection, most=0)
            except ClosedError:
                return count
            party.tell(Message(kind="query"))
            answers([party], timeout_s=timeout_s, other=connection)
    raise AssertionError("unreachable")


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

    offer: Offer
    connection: socket.socket
    party: PartyProcess
    timeout_s: float

    def query(self, image: Tensor) -> Reply:
        """The reply for one image (C, H, W), standardised. Raises `UserError` for another shape."""
        if tuple(image.shape) != self.offer.input_shape:
            raise UserError(f"the image is {tuple(image.shape)}; the server's network takes {self.offer.input_shape}")
        begin = time.perf_counter()
        _tell(self.connection, Message(kind="query"))
        self.party.tell(query_of(image))
        (answer,) = answers([self.party], timeout_s=self.timeout_s, other=self.connection)
        logits = answer.arrays["logits"][0]
        return Reply(logits=tuple(float(value) for value in logits), seconds=time.perf_counter() - begin)


@contextmanager
def session(host: str, port: int, *, timeout_s: float) -> Iterator[Session]:
    """A session with the server at `host`:`port`. Raises `RunError` where none answers or it goes away."""
    check_installed()
    try:
        connection = socket.create_connection((host, port), timeout=_GREETING_S)
    except (OSError, OverflowError) as error:
        raise RunError(f"no server answers at {host}:{port} ({error}); start 'deepreduce private serve'") from error
    with connection, PartyProcess(CLIENT) as party:
        offer = Offer.from_message(_hear(connection))
        (own, *_) = connection.getsockname()
        (own_port,) = choose_ports(1, None, host=own)
        _tell(connection, Message(kind="meet", values={"port": own_port}))
        (peer, *_) = connection.getpeername()
        addresses = [f"{peer}:{_hear(connection).values['port']}", f"{own}:{own_port}"]
        party.join(offer.program, offer.protocol, addresses, offer.masks, timeout_s=timeout_s)
        answers([party], timeout_s=timeout_s, other=connection)
        yield Session(offer=offer, connection=connection, party=party, timeout_s=timeout_s)


def _hear(connection: socket.socket) -> Message:
    try:
        return receive(connection)
    except ClosedError as error:
        raise RunError(f"the server went away or is busy with another client ({error}); try again later") from error


def _tell(connection: socket.socket, message: Message) -> None:
    try:
        send(connection, message)
    except ClosedError as error:
        raise RunError(f"the server went away ({error}); look at its terminal, then try again") from error
