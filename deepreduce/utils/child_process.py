"""A child process with a socket to it: how it starts, ends with its parent, and says how it ended.

Both sides are here. The parent starts `python -m MODULE`, and MODULE begins with `connect_to_parent`.
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
    """A Python process that runs `module`; it dies at once when this process does, however that ends.

    `channel` is a socket to it. Ctrl-C and SIGTERM, which a terminal or a job scheduler sends to all processes, reach
    it only as this process wishes. `launcher` is a command that starts it by turning into it, `environment` is added
    to this process's, and `output` takes what it prints (None: it prints where this process does).
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
        """Whether SIGKILL ended the process, as the system does when memory runs out."""
        return self._process.poll() == -signal.SIGKILL

    def describe_end(self, *, within_s: float = 5.0) -> str:
        """Return how the process ended, as words that follow its name; "hangs" where it does not end in time."""
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
    """Return the variables that let the child import what this process can, in the same order."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # else python -m puts the working directory first


# -- in the child ---------------------------------------------------------------------------------------------


def connect_to_parent() -> socket.socket:
    """Return the channel to the process that started this one; from now on, its end kills this process."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_die_with, args=(channel.fileno(),), daemon=True).start()
    return channel


def _die_with(descriptor: int) -> None:
    """Kill this process when the other end of the channel closes, whatever else it is doing and has not yet read."""
    poll = select.poll()
    poll.register(descriptor, hang_up_events())
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def hang_up_events() -> int:
    """Return what `select.poll` reports of a socket whose other end is closed; Linux has an event of its own."""
    return select.POLLHUP | getattr(select, "POLLRDHUP", 0)
