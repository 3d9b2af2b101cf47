"""Search a process's memory for what it should not know."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from deepreduce.private.lowering.lower import Array

_CHUNK = 2**26


_HASH_BITS = 20


class Patterns:
    """Many pieces of memory, of 16 bytes and more, that are searched for at once.

    Wherever a piece lies, each 8 bytes of memory that begin at a multiple of 8 are either in it whole or not: so
    those memory words are looked at that may be in a piece, by a table of their hashes.
    """

    def __init__(self, patterns: set[bytes]) -> None:
        assert all(len(pattern) >= 16 for pattern in patterns)
        self.longest = max(map(len, patterns))
        self._anchors: dict[int, list[tuple[bytes, int]]] = {}
        for pattern in patterns:
            for shift in range(8):  # how the piece may lie
                places = range(shift, len(pattern) - 7, 8)
                place = max(places, key=lambda at: len(set(pattern[at : at + 8])))  # the least common word
                self._anchors.setdefault(int.from_bytes(pattern[place : place + 8], "little"), []).append(
                    (pattern, place)
                )
        self._words = np.array(sorted(self._anchors), np.uint64)
        self._table = np.zeros(2**_HASH_BITS, np.bool_)
        self._table[self._hashes(self._words)] = True

    @staticmethod
    def _hashes(words: Array) -> Array:
        return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _HASH_BITS)

    def found_in(self, content: bytes) -> set[bytes]:
        words = np.frombuffer(content, np.uint64, count=len(content) // 8)
        places = np.flatnonzero(self._table[self._hashes(words)])
        places = places[np.isin(words[places], self._words)]
        return {
            pattern
            for place in places
            for pattern, at in self._anchors[int(words[place])]
            if content[max(8 * place - at, 0) : 8 * place - at + len(pattern)] == pattern
        }


def found_in_memory(pid: int, patterns: Patterns) -> set[bytes]:
    """Those of the patterns that a process holds anywhere in memory that it can write."""
    overlap, found = patterns.longest - 1, set[bytes]()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for place, end in touched(pid):
            tail = b""
            while place < end:
                memory.seek(place)
                try:
                    chunk = memory.read(min(_CHUNK, end - place))
                except OSError:  # a guard page
                    break
                if not chunk:
                    break
                place += len(chunk)
                content = tail + chunk
                found |= patterns.found_in(content)
                tail = content[-overlap:]
    return found


def touched(pid: int) -> Iterator[tuple[int, int]]:
    """Spans of the writable memory that the process has touched: of much that it reserved there is nothing yet."""
    page = os.sysconf("SC_PAGE_SIZE")
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pages:
        for line in maps:
            span, rights = line.split()[:2]
            if "w" not in rights or "[v" in line:
                continue
            begin, end = (int(part, 16) for part in span.split("-"))
            pages.seek(begin // page * 8)
            entries = np.frombuffer(pages.read((end - begin) // page * 8), dtype=np.uint64)
            there = np.flatnonzero(np.diff((entries >> np.uint64(62) != 0).astype(np.int8), prepend=0, append=0))
            for first, last in there.reshape(-1, 2):
                yield begin + int(first) * page, begin + int(last) * page


def held_as(values: Array) -> set[bytes]:
    """How a process that knows values in a row would hold them: as floats, or in the engine's fixed point."""
    scaled = values.astype(np.float64) * 2**18
    forms = (values.astype(np.float32), values.astype(np.float64), np.round(scaled).astype(np.int64),
             np.trunc(scaled).astype(np.int64))  # fmt: skip
    return {form.tobytes() for form in forms}


def windows(array: Array, *, at: int = 5) -> list[Array]:
    """Runs of up to 24 values from all over the array; none where they could be somewhere by chance."""
    row = np.ascontiguousarray(array).reshape(-1)
    length = min(24, len(row))
    starts = sorted({int(start) for start in np.linspace(0, len(row) - length, at)})
    return [run for run in (row[start : start + length] for start in starts) if len(np.unique(run)) >= 8]


def traces(array: Array) -> set[bytes]:
    """What a process holds that knows an image (C, H, W) or a weight as the parties store it, in either's order."""
    order = {4: (3, 2, 0, 1), 3: (1, 2, 0), 2: (1, 0)}.get(array.ndim)
    orders = [array, array.transpose(order)] if order is not None else [array]
    return {held for each in orders for window in windows(each) for held in held_as(window)}


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What gives away the client's image, and each of the server's weights by name."""

    image: set[bytes]
    weights: dict[str, set[bytes]]

    @classmethod
    def of(cls, image: torch.Tensor, weights: Mapping[str, Array]) -> Secrets:
        found = {name: traces(array) for name, array in weights.items()}
        return cls(image=traces(image.numpy()), weights={name: held for name, held in found.items() if held})

    @cached_property
    def patterns(self) -> Patterns:
        return Patterns(self.image.union(*self.weights.values()))

    def known_to(self, pid: int) -> tuple[bool, set[str]]:
        """Whether a process knows the image, and the names of the weights that it knows."""
        found = found_in_memory(pid, self.patterns)
        return bool(found & self.image), {name for name, held in self.weights.items() if found & held}


reads_memory = pytest.mark.skipif(
    os.name != "posix" or not Path("/proc/self/mem").exists(), reason="reads /proc/PID/mem"
)
