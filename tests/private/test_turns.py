"""Every address gets its turn, one client at a time."""

from __future__ import annotations

import threading
import time

import pytest

from deepreduce.errors import RunError
from deepreduce.private import turns
from deepreduce.private.turns import Turns


def ignore(ahead: int) -> None:
    pass


class Client(threading.Thread):
    """Waits for its turn, and writes its name down when it has it."""

    def __init__(self, queue: Turns, host: str, served: list[str]) -> None:
        super().__init__(daemon=True)
        self._queue, self._host, self._served, self._waits = queue, host, served, threading.Event()
        self.start()
        assert self._waits.wait(5)

    def run(self) -> None:
        with self._queue.turn(self._host, while_waiting=lambda ahead: self._waits.set()):
            self._served.append(self._host)


def test_the_address_whose_turn_was_longest_ago_is_next() -> None:
    queue, served = Turns(most_per_host=9), []  # type: ignore[var-annotated]
    with queue.turn("a", while_waiting=ignore):
        clients = [Client(queue, host, served) for host in ("a", "a", "a", "b", "c", "b")]
    for client in clients:
        client.join(5)
    assert served == ["b", "c", "a", "b", "a", "a"]


def test_a_client_learns_how_many_come_first() -> None:
    queue, served, heard = Turns(most_per_host=9), [], []  # type: ignore[var-annotated]

    class EnoughError(Exception):
        pass

    def hear(ahead: int) -> None:
        heard.append(ahead)
        raise EnoughError

    with queue.turn("a", while_waiting=ignore):
        clients = [Client(queue, "b", served)]
        for host in ("a", "b", "c"):
            with pytest.raises(EnoughError), queue.turn(host, while_waiting=hear):
                raise AssertionError
    clients[0].join(5)
    assert heard == [2, 2, 2] and served == ["b"]
    with queue.turn("a", while_waiting=hear):  # nobody is left in the queue
        pass


def test_one_address_can_not_fill_the_queue() -> None:
    queue, served = Turns(most_per_host=2), []  # type: ignore[var-annotated]
    with queue.turn("a", while_waiting=ignore):
        clients = [Client(queue, host, served) for host in ("a", "a", "b")]
        with pytest.raises(RunError, match="2 clients of this address are waiting already"):
            with queue.turn("a", while_waiting=ignore):
                raise AssertionError
    for client in clients:
        client.join(5)
    assert sorted(served) == ["a", "a", "b"]


def test_a_turn_that_fails_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MOST_REMEMBERED", 2)
    queue = Turns(most_per_host=1)
    begin = time.monotonic()
    for host in "abcd":
        with pytest.raises(KeyError), queue.turn(host, while_waiting=ignore):
            raise KeyError
    assert time.monotonic() - begin < 1 and list(queue._last_turn) == ["c", "d"]
