"""Give clients their turns: one has the engine at a time, the others wait, and no address can crowd out another."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deepreduce.errors import RunError

_LOOK_EVERY_S = 0.5
"""Seconds between two looks at whether a waiting client is still there."""
_MOST_REMEMBERED = 1000
"""Most addresses whose last turn is remembered."""


@dataclass(eq=False)
class _Waiting:
    host: str
    number: int


class Turns:
    """A queue of clients. Of the addresses that wait, the one whose last turn was longest ago is next.

    At most `most_per_host` clients of one address may wait. All methods may be called by several threads.
    """

    def __init__(self, *, most_per_host: int) -> None:
        self._most_per_host = most_per_host
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: list[_Waiting] = []
        self._is_taken = False
        self._last_turn: dict[str, int] = {}

    @contextmanager
    def turn(self, host: str, *, while_waiting: Callable[[int], None]) -> Iterator[None]:
        """Wait for the turn of a client at `host`; the turn lasts as long as the context.

        `while_waiting` is called now and then with the number of clients that come first; whatever it raises leaves
        the queue. Raises `RunError` if too many clients of this address wait.
        """
        entry = self._join(host)
        try:
            self._wait(entry, while_waiting)
        except BaseException:
            self._leave(entry)
            raise
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()

    def _join(self, host: str) -> _Waiting:
        with self._changed:
            if sum(entry.host == host for entry in self._waiting) >= self._most_per_host:
                raise RunError(f"{self._most_per_host} clients of this address are waiting already")
            entry = _Waiting(host, next(self._numbers))
            self._waiting.append(entry)
            return entry

    def _wait(self, entry: _Waiting, while_waiting: Callable[[int], None]) -> None:
        while not self._take(entry):
            while_waiting(self._ahead_of(entry))
            with self._changed:
                if self._is_taken or self._next() is not entry:
                    self._changed.wait(_LOOK_EVERY_S)

    def _take(self, entry: _Waiting) -> bool:
        with self._changed:
            if self._is_taken or self._next() is not entry:
                return False
            self._is_taken = True
            self._waiting.remove(entry)
            self._last_turn.pop(entry.host, None)  # so that it is the youngest of the remembered
            self._last_turn[entry.host] = next(self._numbers)
            while len(self._last_turn) > _MOST_REMEMBERED:
                del self._last_turn[next(iter(self._last_turn))]
            return True

    def _leave(self, entry: _Waiting) -> None:
        with self._changed:
            self._waiting.remove(entry)
            self._changed.notify_all()

    def _next(self) -> _Waiting:
        return min(self._waiting, key=self._rank)

    def _rank(self, entry: _Waiting) -> tuple[int, int]:
        return self._last_turn.get(entry.host, 0), entry.number

    def _ahead_of(self, entry: _Waiting) -> int:
        with self._changed:
            return self._is_taken + sum(self._rank(other) < self._rank(entry) for other in self._waiting)
