"""Parties that die, hang or can't start end the computation in seconds, and leave no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deepreduce.errors import RunError, UserError
from deepreduce.private import measure
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Lowered, lower
from deepreduce.private.measuring import run_query
from deepreduce.private.parties.processes import (
    HOST,
    Loopback,
    PartyProcess,
    choose_ports,
    receive_answers,
    running_parties,
)
from deepreduce.private.protocol import PROTOCOLS, SERVER
from deepreduce.private.serving import listen
from tests.helpers import REPOSITORY
from tests.helpers.private_networks import images, needs_engine, small_resnet
from tests.helpers.processes import all_end

SEMI2K = PROTOCOLS["semi2k"]


def lowered_resnet() -> Lowered:
    return lower(prepare(small_resnet()))


@needs_engine
@pytest.mark.parametrize("rank", [0, 1])
def test_a_party_that_is_killed_ends_the_query_at_once(rank: int) -> None:
    found, image = lowered_resnet(), images(1, small_resnet())[0]
    with running_parties(
        found.program, SEMI2K, weights=found.weights, masks=found.masks, transport=Loopback(), timeout_s=60
    ) as parties:
        pids = [party.pid for party in parties]
        os.kill(pids[1 - rank], signal.SIGSTOP)  # so that the query can't be over before
        threading.Timer(0.3, os.kill, (pids[rank], signal.SIGKILL)).start()
        begin = time.monotonic()
        with pytest.raises(RunError, match=f"the {('server', 'client')[rank]}'s process was killed"):
            run_query(parties, image[None], timeout_s=60)
        assert time.monotonic() - begin < 10
    assert all_end(pids, seconds=5)


@needs_engine
def test_a_query_that_takes_too_long_is_given_up() -> None:
    found, image = lowered_resnet(), images(1, small_resnet())[0]
    with running_parties(
        found.program, SEMI2K, weights=found.weights, masks=found.masks, transport=Loopback(), timeout_s=60
    ) as parties:
        pids = [party.pid for party in parties]
        os.kill(pids[0], signal.SIGSTOP)
        with pytest.raises(RunError, match=r"no answer from .*the server's.* process within 0.5 s"):
            run_query(parties, image[None], timeout_s=0.5)
    assert all_end(pids, seconds=5)


DRIVER = """
import sys, time, torch
torch.set_num_threads(1)
from deepreduce.private.parties.processes import Loopback, running_parties
from tests.private.parties.test_processes import SEMI2K, lowered_resnet
found = lowered_resnet()
with running_parties(
    found.program, SEMI2K, weights=found.weights, masks=found.masks, transport=Loopback(), timeout_s=60
) as parties:
    print(*(party.pid for party in parties), flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@needs_engine
def test_parties_end_when_their_starter_is_killed_and_leave_no_files(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        assert len(pids) == 2
        driver.kill()
    assert all_end(pids, seconds=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_engine
def test_a_port_taken_in_the_last_moment_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_resnet()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        ports = [taken.getsockname()[1], *choose_ports(1, None)]
        monkeypatch.setattr("deepreduce.private.parties.processes.choose_ports", lambda *args: ports)
        begin = time.monotonic()
        said = (
            rf"the server's process failed: port {ports[0]} can't be used \(brpc server failed start\); give another"
        )
        with pytest.raises(RunError, match=said):
            measure(network, images(1, network), protocol="semi2k", timeout_s=30)
        assert time.monotonic() - begin < 20  # it does not wait for the other party, which can't know


def test_ports_are_one_for_each_party() -> None:
    with pytest.raises(UserError, match="1 ports are given for 2 parties"):
        choose_ports(2, [9001])
    assert len(set(choose_ports(3, None))) == 3


def test_a_port_for_two_parties_is_refused() -> None:
    (port, free) = choose_ports(2, None)
    with pytest.raises(UserError, match=f"port {port} is given twice; give each party one of its own"):
        choose_ports(3, [port, free, port])
    assert choose_ports(2, [port, free]) == [port, free]
    assert len(set(choose_ports(2, [0, 0]))) == 2  # any free ones


@pytest.mark.parametrize("port", [-1, 2**16, 2**70])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(UserError, match=f"port {port} can't be used"):
        choose_ports(1, [port])


@pytest.mark.parametrize(("listens", "shared"), [(True, True), (True, False), (False, False)])
def test_a_port_that_another_uses_is_refused(listens: bool, shared: bool) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)
        taken.bind((HOST, 0))
        if listens:
            taken.listen()
        with pytest.raises(UserError, match="can't be used"):
            choose_ports(1, [taken.getsockname()[1]])


def test_a_hang_up_is_noticed_behind_what_lies_unread() -> None:
    with listen(HOST, 0) as listener, PartyProcess(SERVER) as party:
        with socket.create_connection(listener.getsockname()[:2]) as other:
            connection, _ = listener.accept()
            other.sendall(b"-")
        with connection, pytest.raises(RunError, match="the other side closed the connection"):
            receive_answers([party], timeout_s=30, other=connection)


def test_a_message_that_waits_is_no_hang_up() -> None:
    with listen(HOST, 0) as listener, PartyProcess(SERVER) as party:
        with socket.create_connection(listener.getsockname()[:2]) as other:
            connection, _ = listener.accept()
            other.sendall(b"-")
            with connection, pytest.raises(RunError, match=r"no answer from the server's process within 0.5 s"):
                receive_answers([party], timeout_s=0.5, other=connection)
