"""Messages arrive as they were sent, and anything else is refused without harm."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import numpy as np
import pytest

from deepreduce.private.parties.wire import ClosedError, Message, MessageError, SilentError, receive, send
from tests.helpers.private_servers import NO_MESSAGES, with_header


@pytest.mark.parametrize("content", NO_MESSAGES.values(), ids=NO_MESSAGES)
@pytest.mark.parametrize("max_bytes", [None, 2**12])
def test_bytes_that_are_no_message_raise_an_error_that_says_so(content: bytes, max_bytes: int | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=theirs.sendall, args=(content,), daemon=True).start()
        with pytest.raises(MessageError, match=r"bytes received are|too long"):
            receive(ours, max_bytes=max_bytes)


def test_messages_arrive_as_they_were_sent() -> None:
    arrays = {
        "floats": np.arange(6, dtype=np.float32).reshape(2, 3), "mask": np.array([True, False]),
        "none": np.zeros((0, 3), np.int64), "number": np.array(2.5),
    }  # fmt: skip
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs, Message(kind="query", values={"a": [1, {"b": None}]}, arrays=arrays))
        found = receive(ours, within_s=5)
        assert (found.kind, found.values, list(found.arrays)) == ("query", {"a": [1, {"b": None}]}, list(arrays))
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.arrays[name], array)
            assert found.arrays[name].dtype == array.dtype
        assert ours.gettimeout() is None  # as it was


def test_no_memory_is_allocated_for_what_a_header_only_claims() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(
                with_header(f'{{"kind": "server", "values": {{}}, "arrays": [["a", "<f8", [{2**31}, {2**20}]]]}}')
            )
        with pytest.raises(ClosedError, match="the other end closed"):
            receive(ours)


def test_the_size_limit_of_a_message_covers_all_of_its_arrays() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs, Message(kind="port", arrays={name: np.zeros(250) for name in "ab"}))
        with pytest.raises(MessageError, match="too long"):
            receive(ours, max_bytes=3000)


def test_a_message_that_arrives_byte_by_byte_runs_out_of_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def trickle() -> None:
            with contextlib.suppress(OSError):
                for byte in with_header(json.dumps({"kind": "port", "values": {}, "arrays": []})):
                    theirs.sendall(bytes([byte]))
                    time.sleep(0.1)

        thread = threading.Thread(target=trickle)
        thread.start()
        begin = time.monotonic()
        with pytest.raises(SilentError):
            receive(ours, within_s=0.5)
        assert time.monotonic() - begin < 2
        ours.close()
        thread.join()
