"""Serve a network's weights to clients, one at a time, in a process that listens on a port.

Each connection has a thread, which goes through the phases of `deepreduce.private.serving_session`: clients meet the
server at any time, and then wait for their turn with the engine.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deepreduce.cost.batch import check_batch
from deepreduce.data import Standardisation
from deepreduce.errors import RunError, UserError
from deepreduce.network import Network
from deepreduce.private.handshake import two_party_protocol
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.parties.wire import ClosedError
from deepreduce.private.serving_offers import Offers
from deepreduce.private.serving_session import Limits, Service
from deepreduce.private.spu.install import check_installed
from deepreduce.private.tls import Tls
from deepreduce.private.turns import Turns
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs
from deepreduce.utils.printable import printable

MOST_SERVED = 16
"""Most images of a client's query, unless the server is given another number."""
_MOST_CONNECTIONS = 64
"""Most clients at a time; the oldest one that has not met the server yet makes room for another."""
_MOST_WAITING_PER_HOST = 16
"""Most clients of one address that wait for their turn."""
_EVERYWHERE = "0.0.0.0"


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open a socket that clients can connect to. Raises `UserError` for an address that can't be used.

    All addresses of this machine are given as 0.0.0.0 and in no other way: an empty host, which a script may pass by
    mistake, is refused, and so is 0.
    """
    if not host:
        raise UserError(f"--host is {host!r}; give the address to listen on, as in 127.0.0.1")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError, ValueError, TypeError) as error:  # the last two: this can't be a host's name
            raise UserError(f"{host}:{port} can't be used ({error}); give another --host or --port") from error
        if listener.getsockname()[0] == _EVERYWHERE and host != _EVERYWHERE:
            raise UserError(f"--host {host!r} would listen on every address; give {_EVERYWHERE} if you want that")
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
    silent_s: float = 60.0,
    tls: Tls | None = None,
    cost: LayerCostFunction = macs,
    most_images: int = MOST_SERVED,
) -> None:
    """Serve `network` to one client after another, forever; call `report` with a line for every event.

    Linear regions are collapsed where that lowers `cost`, the cost of a layer. A client that fails, disconnects,
    sends anything invalid, sends no query for `idle_s` seconds or whose engine is silent for `silent_s` seconds ends
    only its own session. A client may ask for queries of up to `most_images` images. Raises `UserError`, before the
    first client, for a network that can't be lowered and for a protocol of more than two parties.
    """
    chosen = two_party_protocol(protocol)
    check_installed()
    check_batch(most_images)
    service = Service(
        offers=Offers(
            prepare(network, cost=cost),
            chosen,
            most_images=most_images,
            standardisation=standardisation,
            link_tls=tls is not None and tls.link is not None,
            cost=cost,
        ),
        limits=Limits(timeout_s=timeout_s, idle_s=idle_s, silent_s=silent_s),
        tls=tls,
        turns=Turns(most_per_host=_MOST_WAITING_PER_HOST),
    )
    clients = _Clients(service, report)
    own_host, own_port = listener.getsockname()
    clients.report(
        f"serving {network.name}, {network.relu_count:,} ReLUs, {_words(tls)}under {chosen.label} at"
        f" {own_host}:{own_port}"
    )
    try:
        while True:
            with contextlib.suppress(ConnectionAbortedError):  # the client disconnected before it was accepted
                clients.admit(*listener.accept())
    finally:
        clients.disconnect()


def _words(tls: Tls | None) -> str:
    if tls is None:
        return ""
    return "over TLS, " if tls.link is not None else "over TLS (the engines' link is plain TCP), "


class _Clients:
    """The connections of a server, each with a thread."""

    def __init__(self, service: Service, report: Callable[[str], None]) -> None:
        self._service, self._report = service, report
        self._lock, self._one_line = threading.Lock(), threading.Lock()
        self._meeting: dict[socket.socket, None] = {}  # oldest first
        self._threads: dict[socket.socket, threading.Thread] = {}

    def report(self, line: str) -> None:
        """Report a line, with the escapes in it shown."""
        with self._one_line:
            self._report(printable(line))

    def admit(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Begin to serve a connection; if there are too many, the oldest that has not met the server is ended."""
        name = f"client {address[0]}:{address[1]}"
        with self._lock:
            is_full = len(self._threads) >= _MOST_CONNECTIONS
            oldest = next(iter(self._meeting), None) if is_full else None
            if oldest is not None:
                del self._meeting[oldest]
                _shut_down(oldest)
            if is_full and oldest is None:
                self.report(f"{name} refused: {_MOST_CONNECTIONS} clients are waiting")
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection, address[0], name), daemon=True)
            self._meeting[connection], self._threads[connection] = None, thread
        thread.start()

    def disconnect(self) -> None:
        """End all sessions, and wait until their engines' processes have ended."""
        with self._lock:
            threads = dict(self._threads)
        for connection in threads:
            _shut_down(connection)
        for thread in threads.values():
            thread.join()

    def _serve(self, connection: socket.socket, host: str, name: str) -> None:
        self.report(f"{name} connected")
        try:
            count = self._service.serve(
                connection,
                host,
                has_met=lambda: self._has_met(connection),
                report=lambda text: self.report(f"{name} {text}"),
            )
            outcome = f" left after {count} queries"
        except (OSError, UserError, RunError, ClosedError) as error:
            outcome = f": {' '.join(str(error).split())}"
        finally:
            with self._lock:
                self._meeting.pop(connection, None)
                del self._threads[connection]
                connection.close()
        self.report(name + outcome)

    def _has_met(self, connection: socket.socket) -> None:
        with self._lock:
            self._meeting.pop(connection, None)


def _shut_down(connection: socket.socket) -> None:
    """End a connection that another thread is using: its next call fails."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
