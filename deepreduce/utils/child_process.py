"""Start a child process with a socket to it that dies with its parent, and describe how it ended.

The parent starts `python -m MODULE`; MODULE begins with `connect_to_parent`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO

_STOPS = (signal.SIGINT, signal.SIGTERM)


class ChildProcess:
    """A Python process that runs `module` and dies at once when this process ends, for whatever reason.

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
        output: BinaryIO | None = None,
    ) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # the child inherits the mask
            try:
                self._process = subprocess.Popen(
                    [*launcher, sys.executable, "-m", module, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **_import_path(), **(environment or {})},
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


def _import_path() -> dict[str, str]:
    """Return the environment variables that give the child this process's import path."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # else python -m puts the working directory first


# -- in the child ---------------------------------------------------------------------------------------------


def connect_to_parent() -> socket.socket:
    """Return the channel to the parent process, whose end kills this process from now on."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_die_with, args=(channel.fileno(),), daemon=True).start()
    return channel


def _die_with(descriptor: int) -> None:
    """Kill this process when the other end of the channel closes, even with unread data."""
    poll = select.poll()
    poll.register(descriptor, hang_up_events())
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def hang_up_events() -> int:
    """Return the events of `select.poll` for a socket whose other end is closed; Linux has a separate one."""
    return select.POLLHUP | getattr(select, "POLLRDHUP", 0)
