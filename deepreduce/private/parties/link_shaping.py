"""Shape the link between the parties' processes with the Linux kernel: bandwidth, and delay if it has netem.

Each process runs in a network namespace of its own; a veth pair connects each two of them. The namespaces and veth
pairs end with the processes.
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
_MIN_BURST = 128 * 2**10
"""Smallest burst in bytes: a packet that the kernel has not yet split has 64 kB."""
_PATIENCE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ShapedLink:
    """Connects parties over a `link` shaped by the kernel; if not `delays`, it limits the bandwidth only."""

    link: Link
    delays: bool

    @classmethod
    def on_this_machine(cls, link: Link) -> ShapedLink:
        """Return the link as this machine's kernel can shape it: with delays if it has netem.

        Raises `UserError` for a link without a bandwidth, and if this machine or user can't shape links.
        """
        if link.bits_per_second is None:
            raise UserError(f"{link.name} has no bandwidth limit, so there is nothing to shape; give lan or wan")
        missing = [command for command in _COMMANDS if shutil.which(command) is None]
        if sys.platform != "linux" or missing:
            not_found = f" ({', '.join(missing)} not found)" if missing else ""
            raise UserError(
                f"shaping a link needs Linux with iproute2 and util-linux{not_found}; without --shape, seconds over a"
                " link are computed"
            )
        error = _run_for_error(*_ISOLATE, "true")
        if error is not None:
            raise UserError(
                f"shaping a link needs permission to create network namespaces ({error}): run as root; without"
                " --shape, seconds over a link are computed"
            )
        netem = f"ip link set lo up && tc qdisc add dev lo root {' '.join(_netem(link))}"
        return cls(link=link, delays=_run_for_error(*_ISOLATE, "sh", "-c", netem) is None)

    @property
    def launcher(self) -> Sequence[str]:
        """Return the command that starts a party's process in a network namespace of its own."""
        return _ISOLATE

    def connect(self, pids: Sequence[int]) -> Sequence[str]:
        """Connect every two processes; return all addresses. Raises `RunError` if that fails or one is gone."""
        for pid in pids:
            _wait_for_network(pid)
            _in_network(pid, "ip", "link", "set", "lo", "up")
        for one, other in itertools.combinations(range(len(pids)), 2):
            ends = [(pids[one], one, other), (pids[other], other, one)]
            left, right = (["name", _device(own, peer), "netns", str(pid)] for pid, own, peer in ends)
            _run("ip", "link", "add", *left, "type", "veth", "peer", *right)
            for pid, own, peer in ends:
                _in_network(pid, "ip", "address", "add", f"{_host(own)}/32", "dev", _device(own, peer))
                _in_network(pid, "tc", "qdisc", "add", "dev", _device(own, peer), "root", *self._qdisc)
                _in_network(pid, "ip", "link", "set", _device(own, peer), "up")
            for pid, own, peer in ends:
                _in_network(
                    pid, "ip", "route", "add", f"{_host(peer)}/32", "dev", _device(own, peer), "src", _host(own)
                )
        return [f"{_host(rank)}:{_PORT + rank}" for rank in range(len(pids))]

    @property
    def _qdisc(self) -> Sequence[str]:
        """Return the arguments of tc for the queueing discipline of outgoing packets."""
        if self.delays:
            return _netem(self.link)
        assert self.link.bits_per_second is not None
        burst = max(int(self.link.bits_per_second / 8 * 2e-3), _MIN_BURST)
        return ["tbf", "rate", f"{self.link.bits_per_second:.0f}bit", "burst", str(burst), "latency", "1s"]


def _netem(link: Link) -> Sequence[str]:
    delay, rate = f"{500 * link.round_trip_s:g}ms", f"{link.bits_per_second or 0:.0f}bit"
    # netem drops packets beyond its limit: allow as many as a long delay holds
    return ["netem", "delay", delay, "rate", rate, "limit", "100000"]


def _host(rank: int) -> str:
    return f"{_SUBNET}{rank + 1}"


def _device(own: int, peer: int) -> str:
    return f"party{own}to{peer}"


def _wait_for_network(pid: int) -> None:
    """Wait until the process is in a network namespace of its own."""
    deadline = time.monotonic() + _PATIENCE_S
    own = os.readlink("/proc/self/ns/net")
    try:
        while os.readlink(f"/proc/{pid}/ns/net") == own:
            if time.monotonic() > deadline:
                raise RunError(f"process {pid} did not get a network namespace of its own; repeat the command")
            time.sleep(0.005)
    except OSError as error:
        raise RunError(f"process {pid} is gone ({error}); repeat the command") from error


def _in_network(pid: int, *command: str) -> None:
    _run("nsenter", "--target", str(pid), "--net", *command)


def _run(*command: str) -> None:
    error = _run_for_error(*command)
    if error is not None:
        raise RunError(f"the link can't be shaped ({' '.join(command)}: {error}); leave out --shape")


def _run_for_error(*command: str) -> str | None:
    """Run a command; return its error message, or None if it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return " ".join((done.stderr or done.stdout).split()) or "failed" if done.returncode else None
