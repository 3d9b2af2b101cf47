"""A file system that fails at one call, or from one call on: full, read-only or broken."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_BY_PATH = ("mkdir", "unlink", "rmdir", "replace")
_BY_DESCRIPTOR = ("write", "fsync", "ftruncate", "posix_fallocate")


class FailingDisk:
    """Counts the calls that change the folder or what is below it; `number` of them succeed.

    Then one call fails with `error`, or all do from there on (`forever`). `calls` names those that were counted.
    """

    def __init__(self, folder: Path, *, number: float, error: int, forever: bool) -> None:
        self.calls: list[str] = []
        self.failed = False
        self._folder, self._number, self._errno, self._forever = os.path.abspath(folder), number, error, forever
        self._descriptors: set[int] = set()

    def _count(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) > self._number and (self._forever or not self.failed):
            self.failed = True
            raise OSError(self._errno, os.strerror(self._errno))

    def _is_inside(self, path: Any) -> bool:
        return not isinstance(path, int) and os.path.abspath(os.fspath(path)).startswith(self._folder)

    def open(self, real: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
            is_inside = self._is_inside(path)
            if is_inside and flags & _WRITING:
                self._count("open")
            descriptor = real(path, flags, *args, **options)
            if is_inside:
                self._descriptors.add(descriptor)
            return descriptor

        return opened

    def open_file(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if self._is_inside(path) and set(mode) & set("wax+") and options.get("opener") is None:
                self._count("open")
            return real(path, mode, *args, **options)

        return opened

    def by_path(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **options: Any) -> Any:
            if self._is_inside(path):
                self._count(name)
            return real(path, *args, **options)

        return called

    def by_descriptor(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(descriptor: int, *args: Any) -> Any:
            if descriptor in self._descriptors:
                self._count(name)
            return real(descriptor, *args)

        return called

    def close(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def closed(descriptor: int) -> None:
            self._descriptors.discard(descriptor)
            real(descriptor)

        return closed


@contextmanager
def failing_disk(
    folder: Path, *, number: float = float("inf"), error: int = 0, forever: bool = False
) -> Iterator[FailingDisk]:
    """Have the disk below `folder` fail after that many calls; by default it never does, and is only watched."""
    disk = FailingDisk(folder, number=number, error=error, forever=forever)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", disk.open(os.open))
        patched.setattr(os, "close", disk.close(os.close))
        patched.setattr(builtins, "open", disk.open_file(builtins.open))
        for name in _BY_PATH:
            patched.setattr(os, name, disk.by_path(name, getattr(os, name)))
        for name in _BY_DESCRIPTOR:
            patched.setattr(os, name, disk.by_descriptor(name, getattr(os, name)))
        yield disk
