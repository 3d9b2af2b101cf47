"""A server that says what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deepreduce.private.parties.processes import HOST
from deepreduce.private.parties.wire import Message, send
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.serving import ServerInfo, listening
from tests.helpers.plain_engine import lowered
from tests.helpers.private_networks import small_resnet


def raw(header: str | bytes) -> bytes:
    """A message with any header."""
    content = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(content)) + content


BAD = {
    "values are a list": raw('{"kind": "meet", "values": [1], "arrays": []}'),
    "brackets": raw("[" * 200_000),
    "fewer brackets": raw("[" * 4_000),
    "an endless array": raw('{"kind": "meet", "values": {}, "arrays": [["a", "<f4", [1e999]]]}'),
    "an array of less than nothing": raw('{"kind": "meet", "values": {}, "arrays": [["a", "<f4", [-1]]]}'),
    "an array of objects": raw('{"kind": "meet", "values": {}, "arrays": [["a", "|O", [1]]]}'),
    "an array of anything": raw('{"kind": "meet", "values": {}, "arrays": [["a", ["<f4"], [1]]]}'),
    "an array of 65 dimensions": raw(json.dumps({"kind": "meet", "values": {}, "arrays": [["a", "<f4", [1] * 65]]})),
    "arrays are numbers": raw('{"kind": "meet", "values": {}, "arrays": [1]}'),
    "arrays are an object": raw('{"kind": "meet", "values": {}, "arrays": {"a": 1}}'),
    "a list": raw("[1, 2]"),
    "no kind": raw('{"values": {}, "arrays": []}'),
    "no text": raw(b"\xff\xfe\xfd"),
    "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


def offer_of(protocol: str) -> ServerInfo:
    network = small_resnet()
    found = lowered(network)
    return ServerInfo(
        protocol=PROTOCOLS[protocol],
        program=found.program,
        masks=found.masks,
        input_shape=network.input_shape,
        standardisation=None,
    )


@contextmanager
def saying(*messages: bytes | Message) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server that says just this, and what it has heard by the end."""
    heard: list[bytes] = []

    def say(door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = door.accept()
            with connection:
                connection.settimeout(20)
                for message in messages:
                    connection.sendall(message) if isinstance(message, bytes) else send(connection, message)
                while content := connection.recv(2**16):
                    heard.append(content)

    with listening(HOST, 0) as door:
        thread = threading.Thread(target=say, args=(door,))
        thread.start()
        try:
            yield door.getsockname()[1], heard
        finally:
            with contextlib.suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)
            thread.join()
