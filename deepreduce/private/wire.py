"""Messages between processes: a JSON header and arrays beside it, over a socket. Nothing is pickled."""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<Q")
_MOST = 2**24
"""Bytes that a header may have; what claims more is no message of ours."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is said (`kind`), plain `values`, and `arrays` by name."""

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class ClosedError(Exception):
    """The other end of a channel is gone."""


def send(channel: socket.socket, message: Message) -> None:
    """Send a message whole. Raises `ClosedError` where nobody reads any more."""
    arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
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


def receive(channel: socket.socket, *, most: int | None = None) -> Message:
    """The next message. Raises `ClosedError` at the end of the channel and for what is no message.

    `most` bounds the bytes of its arrays, for one that comes from a stranger.
    """
    try:
        (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
        if length > _MOST:
            raise ClosedError("what came is no message of deepreduce")
        header = json.loads(_read(channel, length))
        arrays = {}
        for name, kind, shape in header["arrays"]:
            dtype = np.dtype(kind)
            if dtype.hasobject:
                raise ClosedError("what came is no message of deepreduce")
            size = math.prod(int(n) for n in shape) * dtype.itemsize
            if most is not None and not 0 <= size <= most:
                raise ClosedError(f"what came holds {size:,} bytes where at most {most:,} are expected")
            arrays[name] = np.frombuffer(_read(channel, size), dtype).reshape(shape)
        return Message(kind=header["kind"], values=header["values"], arrays=arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClosedError(str(error)) from error


def _read(channel: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view, done = memoryview(content), 0
    while done < size:
        count = channel.recv_into(view[done:])
        if not count:
            raise ClosedError("the other end closed the channel")
        done += count
    return content
