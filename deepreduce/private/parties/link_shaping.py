"""A slow link between the parties' processes, made by the Linux kernel: bandwidth, and delay where it has netem.

Each process has a network of its own (a network namespace), with a cable (a veth pair) to each other party's. These
belong to the processes, and are gone when they end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deepreduce.cost.link import Link
from deepreduce.errors import RunError, UserError

_PORT = 9000
_SUBNET = "10.213.0."
_ISOLATE = ("unshare", "--net")
_COMMANDS = ("ip", "tc", "nsenter", "unshare")
_LEAST_BURST = 128 * 2**10
"""Bytes that may go out at once: a packet that the kernel has not yet split is 64 kB."""
_PATIENCE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ShapedLink:
    """Where parties meet over a `link` that the kernel makes slow. Without `delays` it limits the bandwidth alone."""

    link: Link
    delays: bool

    @classmethod
    def made_here(cls, link: Link) -> ShapedLink:
        """The link as this machine can make it.

        Raises `UserError` where there is nothing to shape, and where this machine or user can't.
        """
        if link.bits_per_second is None:
            raise UserError(f"{link.name} is as fast as this machine, which leaves nothing to shape; give lan or wan")
        missing = [command for command in _COMMANDS if shutil.which(command) is None]
        if sys.platform != "linux" or missing:
            lacking = f" ({', '.join(missing)} not found)" if missing else ""
            raise UserError(
                f"shaping a link takes Linux with iproute2 and util-linux{lacking}; without it, seconds over a link"
                " are computed"
            )
        tried = _tried(*_ISOLATE, "true")
        if tried is not None:
            raise UserError(
                f"shaping a link takes the right to make networks ({tried}): run as root; without it, seconds over a"
                " link are computed"
            )
        netem = f"ip link set lo up && tc qdisc add dev lo root {' '.join(_netem(link))}"
        return cls(link=link, delays=_tried(*_ISOLATE, "sh", "-c", netem) is None)

    @property
    def launcher(self) -> Sequence[str]:
        """Starts a party's process in a network of its own."""
        return _ISOLATE

    def connect(self, pids: Sequence[int]) -> Sequence[str]:
        """Connect each process with each other. Raises `RunError` where the kernel refuses, or one is gone."""
        for pid in pids:
            _wait_for_network(pid)
            _in_network(pid, "ip", "link", "set", "lo", "up")
        for one, other in itertools.combinations(range(len(pids)), 2):
            ends = [(pids[one], one, other), (pids[other], other, one)]
            left, right = (["name", _cable(own, far), "netns", str(pid)] for pid, own, far in ends)
            _run("ip", "link", "add", *left, "type", "veth", "peer", *right)
            for pid, own, far in ends:
                _in_network(pid, "ip", "address", "add", f"{_host(own)}/32", "dev", _cable(own, far))
                _in_network(pid, "tc", "qdisc", "add", "dev", _cable(own, far), "root", *self._qdisc)
                _in_network(pid, "ip", "link", "set", _cable(own, far), "up")
            for pid, own, far in ends:
                _in_network(pid, "ip", "route", "add", f"{_host(far)}/32", "dev", _cable(own, far), "src", _host(own))
        return [f"{_host(rank)}:{_PORT + rank}" for rank in range(len(pids))]

    @property
    def _qdisc(self) -> Sequence[str]:
        """What slows down all that goes out."""
        if self.delays:
            return _netem(self.link)
        assert self.link.bits_per_second is not None
        burst = max(int(self.link.bits_per_second / 8 * 2e-3), _LEAST_BURST)
        return ["tbf", "rate", f"{self.link.bits_per_second:.0f}bit", "burst", str(burst), "latency", "1s"]


def _netem(link: Link) -> Sequence[str]:
    delay, rate = f"{500 * link.round_trip_s:g}ms", f"{link.bits_per_second or 0:.0f}bit"
    # as many packets as a long delay holds: past its limit netem drops them
    return ["netem", "delay", delay, "rate", rate, "limit", "100000"]


def _host(rank: int) -> str:
    return f"{_SUBNET}{rank + 1}"


def _cable(own: int, far: int) -> str:
    return f"party{own}to{far}"


def _wait_for_network(pid: int) -> None:
    """Return when the process has left the network that it was started in."""
    deadline = time.monotonic() + _PATIENCE_S
    own = os.readlink("/proc/self/ns/net")
    try:
        while os.readlink(f"/proc/{pid}/ns/net") == own:
            if time.monotonic() > deadline:
                raise RunError(f"process {pid} did not get a network of its own; give the command again")
            time.sleep(0.005)
    except OSError as error:
        raise RunError(f"process {pid} is gone ({error}); give the command again") from error


def _in_network(pid: int, *command: str) -> None:
    _run("nsenter", "--target", str(pid), "--net", *command)


def _run(*command: str) -> None:
    tried = _tried(*command)
    if tried is not None:
        raise RunError(f"the kernel does not make the link ({' '.join(command)}: {tried}); leave --shape out")


def _tried(*command: str) -> str | None:
    """Why a command failed; None: it did not."""
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return " ".join((tried.stderr or tried.stdout).split()) or "failed" if tried.returncode else None
