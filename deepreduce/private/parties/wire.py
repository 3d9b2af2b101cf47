"""Send and receive messages over a socket: a JSON header, then arrays. Nothing is pickled."""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 2**24
"""Most bytes of a header; a larger length means that the bytes are no message."""
_MAX_DIMS, _MAX_SIZE = 8, 2**32
"""Most dimensions of an array, and the bound of the size of each."""
_CHUNK_BYTES = 2**20
"""Bytes received at a time, so that memory grows with what arrives, not with what a header claims."""

_TLS_RECORDS = (b"\x16\x03", b"\x15\x03")
"""First bytes of a TLS handshake and of an alert."""

_DTYPES = {
    dtype.str: dtype
    for dtype in map(np.dtype, ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"))
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message: its `kind`, JSON `values`, and `arrays` by name."""

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class ClosedError(Exception):
    """Raised when the other end of a channel is gone, or the channel can no longer be used."""


class SilentError(ClosedError):
    """Raised when a message did not arrive completely in time."""


class MessageError(ClosedError):
    """Raised for bytes that are no message; the channel can no longer be used."""


def send(channel: socket.socket, message: Message) -> None:
    """Send a message. Raises `ClosedError` if the other end is gone."""
    arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
    assert all(array.dtype.str in _DTYPES for array in arrays.values())
    header = json.dumps(
        {
            "kind": message.kind,
            "values": dict(message.values),
            "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
        }
    ).encode()
    try:
        channel.sendall(_LENGTH.pack(len(header)) + header)
        for array in arrays.values():
            channel.sendall(array.reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise ClosedError(str(error)) from error


def receive(channel: socket.socket, *, max_bytes: int | None = None, within_s: float | None = None) -> Message:
    """Return the next message. Raises `ClosedError` if the other end is gone, `MessageError` for anything else.

    For an untrusted sender, `max_bytes` limits the message's size and `within_s` the seconds until it is complete
    (None: the channel's timeout applies to each part). Raises `SilentError` when the time is over.
    """
    timeout = channel.gettimeout()
    deadline = None if within_s is None else time.monotonic() + within_s
    incoming = _Incoming(channel, math.inf if max_bytes is None else max_bytes, deadline)
    try:
        (length,) = _LENGTH.unpack(incoming.take(_LENGTH.size, counted=False))
        if length > _MAX_HEADER_BYTES:
            _refuse_tls(_LENGTH.pack(length))
            raise MessageError("the bytes received are no message of deepreduce")
        kind, values, descriptions = _parse_header(incoming.take(length))
        arrays = {}
        for name, dtype, shape in map(_parse_array_header, descriptions):
            content = incoming.take(math.prod(shape) * dtype.itemsize)
            arrays[name] = np.frombuffer(content, dtype).reshape(shape)
        return Message(kind=kind, values=values, arrays=arrays)
    except TimeoutError as error:
        raise SilentError("nothing was received for too long") from error
    except OSError as error:
        raise ClosedError(str(error)) from error
    finally:
        if within_s is not None:
            channel.settimeout(timeout)


@dataclass
class _Incoming:
    """Reads the bytes of one message: `left` is how many it may still have, `deadline` when it must be complete."""

    channel: socket.socket
    left: float
    deadline: float | None

    def take(self, size: int, *, counted: bool = True) -> bytearray:
        self.left -= size if counted else 0
        if self.left < 0:
            raise MessageError(f"the message is {-self.left:,} bytes too long")
        content = bytearray()
        while len(content) < size:
            if self.deadline is not None:
                remaining = self.deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError
                self.channel.settimeout(remaining)
            chunk = self.channel.recv(min(size - len(content), _CHUNK_BYTES))
            if not chunk:
                _refuse_tls(content)
                raise ClosedError("the other end closed the channel")
            content += chunk
        return content


def _refuse_tls(content: bytes | bytearray) -> None:
    """Raise `MessageError` if the bytes are those with which TLS begins or refuses a connection."""
    if content.startswith(_TLS_RECORDS):
        raise MessageError(
            "the bytes received are TLS, not a message of deepreduce: give the --tls options on both sides, or on"
            " neither"
        )


def _parse_header(content: bytearray) -> tuple[str, dict[str, Any], list[Any]]:
    """Parse a header from an untrusted sender: kind, values, and the descriptions of the arrays."""
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise MessageError("the bytes received are no message of deepreduce: the header is no valid JSON") from error
    if isinstance(header, dict):
        kind, values, arrays = (header.get(name) for name in ("kind", "values", "arrays"))
        if isinstance(kind, str) and isinstance(values, dict) and isinstance(arrays, list):
            return kind, values, arrays
    raise MessageError("the bytes received are no message of deepreduce: the header lacks kind, values or arrays")


def _parse_array_header(described: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    """Return name, dtype and shape of one array."""
    if isinstance(described, list) and [type(part) for part in described] == [str, str, list]:
        name, kind, shape = described
        small = all(type(n) is int and 0 <= n < _MAX_SIZE for n in shape)
        if kind in _DTYPES and small and len(shape) <= _MAX_DIMS:
            return name, _DTYPES[kind], tuple(shape)
    raise MessageError("the bytes received are no message of deepreduce: an array has an unknown type or shape")
