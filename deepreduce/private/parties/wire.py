"""Messages between processes: a JSON header and arrays beside it, over a socket. Nothing is pickled."""

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
_MOST_HEADER = 2**24
"""Bytes that a header may have; what claims more is no message of ours."""
_MOST_DIMS, _MOST_ALONG = 8, 2**32
"""How many dimensions an array may have, and how long it may be along each."""
_PIECE = 2**20
"""Memory is taken for so many bytes at a time, and so for none that are only claimed to come."""

_DTYPES = {
    dtype.str: dtype
    for dtype in map(np.dtype, ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"))
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is said (`kind`), plain `values`, and `arrays` by name."""

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class ClosedError(Exception):
    """The other end of a channel is gone, or no use any more."""


class SilentError(ClosedError):
    """Nothing came, or not all of a message, in the time that there was."""


class MessageError(ClosedError):
    """What came is no message of ours; where the next one would begin is not known."""


def send(channel: socket.socket, message: Message) -> None:
    """Send a message whole. Raises `ClosedError` where nobody reads any more."""
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


def receive(channel: socket.socket, *, most: int | None = None, within_s: float | None = None) -> Message:
    """The next message. Raises `ClosedError` at the end of the channel, `MessageError` for what is no message.

    For one that comes from a stranger, `most` bounds its bytes and `within_s` the seconds until all of it is there;
    `SilentError` tells that they are over (None: each part may take as long as the channel's timeout).
    """
    timeout = channel.gettimeout()
    deadline = None if within_s is None else time.monotonic() + within_s
    incoming = _Incoming(channel, math.inf if most is None else most, deadline)
    try:
        (length,) = _LENGTH.unpack(incoming.take(_LENGTH.size, counted=False))
        if length > _MOST_HEADER:
            raise MessageError("what came is no message of deepreduce")
        kind, values, described = _header(incoming.take(length))
        arrays = {}
        for name, dtype, shape in map(_array_header, described):
            content = incoming.take(math.prod(shape) * dtype.itemsize)
            arrays[name] = np.frombuffer(content, dtype).reshape(shape)
        return Message(kind=kind, values=values, arrays=arrays)
    except TimeoutError as error:
        raise SilentError("it was silent for too long") from error
    except OSError as error:
        raise ClosedError(str(error)) from error
    finally:
        if within_s is not None:
            channel.settimeout(timeout)


@dataclass
class _Incoming:
    """The bytes of one message: where from, how many it may still have, and until when."""

    channel: socket.socket
    left: float
    deadline: float | None

    def take(self, size: int, *, counted: bool = True) -> bytearray:
        self.left -= size if counted else 0
        if self.left < 0:
            raise MessageError(f"what came is longer by {-self.left:,} bytes than what is expected")
        content = bytearray()
        while len(content) < size:
            if self.deadline is not None:
                remaining = self.deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError
                self.channel.settimeout(remaining)
            piece = self.channel.recv(min(size - len(content), _PIECE))
            if not piece:
                raise ClosedError("the other end closed the channel")
            content += piece
        return content


def _header(content: bytearray) -> tuple[str, dict[str, Any], list[Any]]:
    """Kind, values and what is said of the arrays. Nothing about their form is taken for granted."""
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:  # the latter where brackets are nested thousands deep
        raise MessageError("what came is no message of deepreduce: its header is no JSON of ours") from error
    if isinstance(header, dict):
        kind, values, arrays = (header.get(name) for name in ("kind", "values", "arrays"))
        if isinstance(kind, str) and isinstance(values, dict) and isinstance(arrays, list):
            return kind, values, arrays
    raise MessageError("what came is no message of deepreduce: its header lacks kind, values or arrays")


def _array_header(described: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    """Name, dtype and shape of one array."""
    if isinstance(described, list) and [type(part) for part in described] == [str, str, list]:
        name, kind, shape = described
        small = all(type(n) is int and 0 <= n < _MOST_ALONG for n in shape)
        if kind in _DTYPES and small and len(shape) <= _MOST_DIMS:
            return name, _DTYPES[kind], tuple(shape)
    raise MessageError("what came is no message of deepreduce: it has an array of no type or shape that it could be")
