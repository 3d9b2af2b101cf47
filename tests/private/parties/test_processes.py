"""Parties that die, hang or can't start end the computation in seconds, and leave no process behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from deepreduce.errors import RunError, UserError
from deepreduce.private import measure
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Lowered, lower
from deepreduce.private.measuring import ask
from deepreduce.private.parties.party import reason_of
from deepreduce.private.parties.processes import HOST, Loopback, choose_ports, running_parties
from deepreduce.private.parties.wire import Message
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.spu import install
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
        found.program, SEMI2K, weights=found.weights, masks=found.masks, place=Loopback(), timeout_s=60
    ) as parties:
        pids = [party.pid for party in parties]
        os.kill(pids[1 - rank], signal.SIGSTOP)  # so that the query can't be over before
        threading.Timer(0.3, os.kill, (pids[rank], signal.SIGKILL)).start()
        begin = time.monotonic()
        with pytest.raises(RunError, match=f"the {('server', 'client')[rank]}'s process was killed"):
            ask(parties, image, timeout_s=60)
        assert time.monotonic() - begin < 10
    assert all_end(pids, seconds=5)


@needs_engine
def test_a_query_that_takes_too_long_is_given_up() -> None:
    found, image = lowered_resnet(), images(1, small_resnet())[0]
    with running_parties(
        found.program, SEMI2K, weights=found.weights, masks=found.masks, place=Loopback(), timeout_s=60
    ) as parties:
        pids = [party.pid for party in parties]
        os.kill(pids[0], signal.SIGSTOP)
        with pytest.raises(RunError, match=r"no answer from .*the server's.* process within 0.5 s"):
            ask(parties, image, timeout_s=0.5)
    assert all_end(pids, seconds=5)


DRIVER = """
import sys, time, torch
torch.set_num_threads(1)
from deepreduce.private.parties.processes import Loopback, running_parties
from tests.private.parties.test_processes import SEMI2K, lowered_resnet
found = lowered_resnet()
with running_parties(
    found.program, SEMI2K, weights=found.weights, masks=found.masks, place=Loopback(), timeout_s=60
) as parties:
    print(*(party.pid for party in parties), flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@needs_engine
def test_parties_end_when_their_starter_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as driver:
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        assert len(pids) == 2
        driver.kill()
    assert all_end(pids, seconds=10)


@needs_engine
def test_a_port_in_use_is_named_before_anything_starts() -> None:
    network = small_resnet()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} can't be used"):
            measure(network, images(1, network), protocol="semi2k", ports=[port, 0])


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


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            "what: \n\t[external/yacl~/yacl/link/transport/brpc_link.cc:106] brpc server failed start\nstacktrace:",
            "port 9002 can't be used (brpc server failed start); give another, or none for free ones",
        ),
        (
            "what: \n\t[external/yacl~/yacl/link/transport/channel.cc:430] Get data timeout, key=root:4:ALLGATHER\n",
            "another party was silent for too long (Get data timeout, key=root:4:ALLGATHER); give a longer timeout",
        ),
        ("what: [libspu/mpc/factory.cc:12] no [such] thing", "no [such] thing"),
        ("an error of [1:2] parts\nand more", "an error of [1:2] parts"),
        ("\n", "RuntimeError"),
    ],
)
def test_the_engines_reason_is_told_without_its_surroundings(raised: str, told: str) -> None:
    order = Message(kind="join", values={"rank": 1, "addresses": [f"{HOST}:9001", f"{HOST}:9002"]})
    assert reason_of(RuntimeError(raised), order) == told


@pytest.mark.parametrize("version", [(3, 12), (3, 13)])
def test_another_python_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    with pytest.raises(UserError, match=rf"SPU, which is built for Python 3.10 and 3.11; this is 3.{version[1]}"):
        install.check_installed()


def test_a_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"needs spu, jax, which are not installed; install it with: pip install 'deepreduce\[private\]'",
    ):
        install.check_installed()


def test_an_unknown_protocol_is_told_before_anything_else() -> None:
    network = small_resnet()
    with pytest.raises(UserError, match=r"unknown protocol 'chetah'; did you mean 'cheetah'\?"):
        measure(network, images(1, network), protocol="chetah")


@needs_engine
def test_images_of_another_shape_are_refused() -> None:
    network = small_resnet()
    with pytest.raises(UserError, match=r"images of shape \(1, 1, 4, 4\)"):
        measure(network, images(1, network)[..., :4, :4])


@needs_engine
@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_without_sense_is_refused(timeout_s: float) -> None:
    network = small_resnet()
    with pytest.raises(UserError, match=r"timeout_s is .*; give seconds, more than 0"):
        measure(network, images(1, network), protocol="semi2k", timeout_s=timeout_s)
