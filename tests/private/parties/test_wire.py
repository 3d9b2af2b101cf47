"""Messages arrive whole, and whatever is none is refused without harm."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import numpy as np
import pytest

from deepreduce.private.parties.wire import ClosedError, Message, MessageError, SilentError, receive, send
from tests.helpers.private_sessions import BAD, raw


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
@pytest.mark.parametrize("most", [None, 2**12])
def test_what_is_no_message_is_told_as_such(content: bytes, most: int | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=theirs.sendall, args=(content,), daemon=True).start()
        with pytest.raises(MessageError, match="what came is"):
            receive(ours, most=most)


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


def test_no_memory_is_taken_for_what_is_only_announced() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(raw(f'{{"kind": "offer", "values": {{}}, "arrays": [["a", "<f8", [{2**31}, {2**20}]]]}}'))
        with pytest.raises(ClosedError, match="the other end closed"):
            receive(ours)


def test_all_arrays_of_a_strangers_message_count_together() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs, Message(kind="meet", arrays={name: np.zeros(250) for name in "ab"}))
        with pytest.raises(MessageError, match="longer by"):
            receive(ours, most=3000)


def test_a_message_that_trickles_in_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def trickle() -> None:
            with contextlib.suppress(OSError):
                for byte in raw(json.dumps({"kind": "meet", "values": {}, "arrays": []})):
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
