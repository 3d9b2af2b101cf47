"""Links that the kernel makes slow: what they take away, and that nothing of them stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from deepreduce.cost.link import LINKS, Link
from deepreduce.errors import RunError, UserError
from deepreduce.private import measure
from deepreduce.private.parties import link_shaping as shaping
from deepreduce.private.parties.link_shaping import ShapedLink
from tests.helpers.private_networks import images, needs_engine
from tests.helpers.zoo import TOYS

SLOW = Link(name="slow", bits_per_second=20e6, round_trip_s=30e-3)


def refusal() -> str | None:
    try:
        ShapedLink.on_this_machine(SLOW)
    except UserError as error:
        return str(error)
    return None


REFUSAL = refusal()
shaped = pytest.mark.skipif(REFUSAL is not None, reason=f"this machine does not shape links: {REFUSAL}")

SENDER = """
import socket, sys
door = socket.create_server(("0.0.0.0", int(sys.argv[1])))
sys.stdin.readline()
with socket.create_connection((sys.argv[2], int(sys.argv[3]))) as there:
    there.sendall(bytes(int(sys.argv[4])))
    there.shutdown(socket.SHUT_WR)
    there.recv(1)
"""
RECEIVER = """
import socket, sys
door = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
connection, (host, _) = door.accept()
count = 0
while piece := connection.recv(2**20):
    count += len(piece)
connection.sendall(b".")
print(count, host, flush=True)
"""


@contextmanager
def python(launcher: tuple[str, ...], source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [*launcher, sys.executable, "-c", source, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@shaped
def test_bytes_between_two_processes_take_as_long_as_the_bandwidth_says() -> None:
    link, sent = ShapedLink.on_this_machine(SLOW), 3_000_000
    launcher = tuple(link.launcher)
    with (
        python(launcher, RECEIVER, 9001) as receiver,
        python(launcher, SENDER, 9000, "10.213.0.2", 9001, sent) as sender,
    ):
        before = networks()
        addresses = link.connect([sender.pid, receiver.pid])
        assert [address.rpartition(":")[0] for address in addresses] == ["10.213.0.1", "10.213.0.2"]
        assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n" and sender.stdin is not None
        begin = time.monotonic()
        sender.stdin.write("\n")
        sender.stdin.flush()
        assert receiver.stdout.readline() == f"{sent} 10.213.0.1\n"
        seconds = time.monotonic() - begin
        assert networks() == before  # none of its cables lies in our own network
    assert 0.9 * 8 * sent / SLOW.bits_per_second < seconds < 2 * 8 * sent / SLOW.bits_per_second + 1


def networks() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


@shaped
def test_a_process_that_is_gone_can_not_be_connected() -> None:
    link = ShapedLink.on_this_machine(SLOW)
    with python(tuple(link.launcher), "") as process:
        process.wait()
    with pytest.raises(RunError, match=f"process {process.pid} is gone"):
        link.connect([process.pid, process.pid])


@shaped
def test_a_process_in_our_own_network_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "_PATIENCE_S", 0.1)
    with (
        python((), "input()") as process,
        pytest.raises(RunError, match="did not get a network namespace of its own"),
    ):
        ShapedLink.on_this_machine(SLOW).connect([process.pid])


@shaped
@needs_engine
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["semi2k", "aby3"])
def test_queries_over_a_slow_link_take_what_was_computed(protocol: str) -> None:
    network = TOYS["chain"].network()
    link = replace(SLOW, bits_per_second=2e6)  # over which bytes take longer than anything else
    found = measure(network, images(1, network), protocol=protocol, repeats=2, shaped=link, timeout_s=120)
    assert found.over_link is not None and found.over_link.link == link
    measured, computed = found.over_link.total(found.messages), found.seconds_over(link)
    # the computed seconds add up what partly happens at the same time
    assert 0.6 * computed < measured < 1.3 * computed + 0.2, (measured, computed)
    assert found.over_link.seconds.low > 0.6 * link.sending(found.serial_bytes) > found.seconds.median / 2
    assert "over the shaped link" in found.to_text(link)
    assert found.to_json()["over_link"]["total_seconds"] == measured


@pytest.mark.parametrize(
    ("link", "commands", "message"),
    [
        (LINKS["loopback"], {}, "there is nothing to shape; give lan or wan"),
        (
            SLOW,
            {"_COMMANDS": ("ip", "no-such-command")},
            "no-such-command not found.*seconds over a link",
        ),
        (SLOW, {"_ISOLATE": ("false",)}, r"permission to create network namespaces \(failed\): run as root"),
    ],
)
def test_what_can_not_be_shaped_is_refused_with_the_reason(
    link: Link, commands: dict[str, tuple[str, ...]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if REFUSAL is not None and link is SLOW:
        pytest.skip("this machine refuses for a reason of its own")
    for name, value in commands.items():
        monkeypatch.setattr(shaping, name, value)
    with pytest.raises(UserError, match=message):
        ShapedLink.on_this_machine(link)
