"""Servers for clients to query, real and scripted, and bytes that are no message."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deepreduce.private.handshake import ServerInfo, hello_message
from deepreduce.private.parties.processes import HOST
from deepreduce.private.parties.wire import Message, receive, send
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.serving import listen, serve
from deepreduce.private.tls import Tls
from tests.helpers.plain_engine import lowered
from tests.helpers.private_networks import small_resnet


def with_header(header: str | bytes) -> bytes:
    """Return the bytes of a message with any header."""
    content = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(content)) + content


NO_MESSAGES = {
    "values are a list": with_header('{"kind": "port", "values": [1], "arrays": []}'),
    "brackets": with_header("[" * 200_000),
    "fewer brackets": with_header("[" * 4_000),
    "an endless array": with_header('{"kind": "port", "values": {}, "arrays": [["a", "<f4", [1e999]]]}'),
    "an array of negative size": with_header('{"kind": "port", "values": {}, "arrays": [["a", "<f4", [-1]]]}'),
    "an array of objects": with_header('{"kind": "port", "values": {}, "arrays": [["a", "|O", [1]]]}'),
    "an array of a list of types": with_header('{"kind": "port", "values": {}, "arrays": [["a", ["<f4"], [1]]]}'),
    "an array of 65 dimensions": with_header(
        json.dumps({"kind": "port", "values": {}, "arrays": [["a", "<f4", [1] * 65]]})
    ),
    "arrays are numbers": with_header('{"kind": "port", "values": {}, "arrays": [1]}'),
    "arrays are an object": with_header('{"kind": "port", "values": {}, "arrays": {"a": 1}}'),
    "a list": with_header("[1, 2]"),
    "no kind": with_header('{"values": {}, "arrays": []}'),
    "no text": with_header(b"\xff\xfe\xfd"),
    "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}
"""Bytes that a stranger may send, by what is wrong with them."""


HELLO = with_header(json.dumps({"kind": "hello", "values": dict(hello_message().values), "arrays": []}))
"""The first bytes of a client."""


def server_info(protocol: str, *, batch: int = 1) -> ServerInfo:
    """Return what a server of `small_resnet` sends to its clients."""
    network = small_resnet()
    found = lowered(network, batch=batch)
    return ServerInfo(
        protocol=PROTOCOLS[protocol],
        program=found.program,
        masks=found.masks,
        input_shape=network.input_shape,
        standardisation=None,
    )


@contextmanager
def scripted_server(*messages: bytes | Message) -> Iterator[tuple[int, list[bytes]]]:
    """Run a server that sends these messages to one client; yield its port and what it receives until the end."""
    received: list[bytes] = []

    def talk(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                for message in messages:
                    connection.sendall(message) if isinstance(message, bytes) else send(connection, message)
                while content := connection.recv(2**16):
                    received.append(content)

    with listen(HOST, 0) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A real server in a thread of this process: its port, and the lines that it reports."""

    port: int
    lines: queue.Queue[str]

    def wait_for(self, text: str, *, within_s: float) -> str:
        """Return the next line that contains `text`."""
        deadline = time.monotonic() + within_s
        while True:
            line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            if text in line:
                return line

    def connect(self) -> socket.socket:
        """Connect as a client that has received the server's information."""
        connection = self.connect_silently()
        send(connection, hello_message(1))
        assert receive(connection, within_s=30).kind == "server"
        return connection

    def connect_silently(self) -> socket.socket:
        """Connect, and say nothing."""
        return socket.create_connection((HOST, self.port), timeout=30)


@contextmanager
def running_server(
    *, idle_s: float = 60.0, silent_s: float = 60.0, tls: Tls | None = None, most_images: int = 16
) -> Iterator[RunningServer]:
    """Serve `small_resnet` under Semi2k on a free port."""
    lines: queue.Queue[str] = queue.Queue()
    ended: list[BaseException] = []
    with listen(HOST, 0) as listener:

        def run() -> None:
            try:
                serve(
                    small_resnet(), listener, protocol="semi2k", standardisation=None, timeout_s=60, report=lines.put,
                    idle_s=idle_s, silent_s=silent_s, tls=tls, most_images=most_images,
                )  # fmt: skip
            except OSError as error:
                ended.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        server = RunningServer(port=listener.getsockname()[1], lines=lines)
        line = server.wait_for("serving", within_s=60)
        assert ("over TLS" in line) == (tls is not None)
        # the port that it got, although any was asked for
        assert line.endswith(f"under semi2k (trusted dealer: a cost reference) at {HOST}:{server.port}")
        yield server
        assert ended == []
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        assert not thread.is_alive() and len(ended) == 1  # the sessions' threads have ended with it
