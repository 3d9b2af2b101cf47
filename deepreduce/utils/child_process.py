"""Start a child process with a socket to it that dies with its parent, and describe how it ended.

The parent starts `child_main`, which runs a module; the module's `main` begins with `connect_to_parent`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from deepreduce.utils import child_main

_STOPS = (signal.SIGINT, signal.SIGTERM)


class ChildProcess:
    """A Python process that runs `module` and dies at once when this process ends, for whatever reason.

    It imports from where this process does, and from nowhere else: not from the working directory, where `python -m`
    would look first. It dies also while it still imports.

    `channel` is a socket to the child. Ctrl-C and SIGTERM, which a terminal or a scheduler sends to all processes,
    are blocked in the child: this process decides when the child stops. `launcher` is a command that starts the child
    by `exec`, `environment` is added to this process's environment, and `output` receives the child's stdout and
    stderr (None: those of this process).
    """

    def __init__(
        self,
        module: str,
        *,
        launcher: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        output: IO[Any] | None = None,
    ) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # the child inherits the mask
            try:
                self._process = subprocess.Popen(
                    [*launcher, *_command(module, theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **(environment or {})},
                )
            except BaseException:
                self.channel.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """True if SIGKILL ended the process, as the system does when memory runs out."""
        return self._process.poll() == -signal.SIGKILL

    def describe_end(self, *, within_s: float = 5.0) -> str:
        """Return how the process ended, as words that follow its name; "hangs" if it does not end in time."""
        try:
            code = self._process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            return "hangs"
        if code < 0:
            return f"was {'killed' if self.was_killed else 'ended'} by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def end(self) -> None:
        """Close the channel, kill the process and wait for its end."""
        self.channel.close()
        self._process.kill()
        self._process.wait()


_SAME_FLAGS = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}
"""Python's options that decide where it looks for code; a child is started with those of this process."""


def _command(module: str, descriptor: int) -> list[str]:
    """Return the command that runs `module` as a child with this process's import path."""
    flags = [option for name, option in _SAME_FLAGS.items() if getattr(sys.flags, name)]
    if sys.version_info >= (3, 11):
        flags.append("-P")
    path = json.dumps([entry or os.getcwd() for entry in sys.path])
    return [sys.executable, *flags, str(Path(child_main.__file__)), module, str(descriptor), path]


# -- in the child ---------------------------------------------------------------------------------------------


def connect_to_parent() -> socket.socket:
    """Return the channel to the parent process. Its end kills this process, since `child_main` began."""
    child_main.follow_thread(signal_number=0)  # the thread that started this process may end before the parent does
    return socket.socket(fileno=int(sys.argv[1]))


def hang_up_events() -> int:
    """Return the events of `select.poll` for a socket whose other end is closed; Linux has a separate one."""
    return select.POLLHUP | getattr(select, "POLLRDHUP", 0)
