"""A server outlives whatever its clients do, and holds nothing of theirs."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepreduce.cost.link import LINKS
from deepreduce.errors import UserError
from deepreduce.private import querying, serving, serving_session
from deepreduce.private.handshake import VERSION, port_message, read_port, read_wait
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import lower
from deepreduce.private.parties.link_tls import LinkTls
from deepreduce.private.parties.processes import HOST
from deepreduce.private.parties.wire import Message, receive, send
from deepreduce.private.querying import open_session
from deepreduce.private.serving import listen
from deepreduce.store.checkpoint import SavedNetwork
from deepreduce.transforms.collapse.costs import collapse_cost
from deepreduce.utils import memory
from tests.helpers import REPOSITORY
from tests.helpers.fake_parties import FakeParty
from tests.helpers.memory import Secrets, reads_memory
from tests.helpers.private_networks import images, needs_engine, parties_left, saved_network, small_resnet
from tests.helpers.private_servers import NO_MESSAGES, RunningServer, running_server
from tests.helpers.runs import plain_environment


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as found:
        yield found


def sends(content: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(content)


def names_a_port_and_resets(connection: socket.socket) -> None:
    send(connection, port_message(9))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


CLIENTS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "values are a list": (sends(NO_MESSAGES["values are a list"]), "header lacks"),
    "brackets": (sends(NO_MESSAGES["brackets"]), "bytes too long"),
    "fewer brackets": (sends(NO_MESSAGES["fewer brackets"]), "no valid JSON"),
    "an endless array": (sends(NO_MESSAGES["an endless array"]), "unknown type or shape"),
    "a reset": (names_a_port_and_resets, ""),
    "a port that is none": (lambda connection: send(connection, port_message(99999)), "the client is no"),
}
"""What a client does, and what the server reports of it."""


def misbehave(server: RunningServer, name: str) -> None:
    act, reason = CLIENTS[name]

    def receive_late(*args: Any, **options: Any) -> Message:
        message = receive(*args, **options)
        time.sleep(0.3)  # so that the client is gone before the server continues
        return message

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(serving_session, "receive", receive_late)
        with server.connect() as connection:
            act(connection)
        server.wait_for("connected", within_s=20)
        line = server.lines.get(timeout=20)
    assert line.startswith(f"client {HOST}:") and reason in line and "\n" not in line


@needs_engine
def test_clients_that_misbehave_end_their_own_sessions_only(server: RunningServer) -> None:
    for name in CLIENTS:
        misbehave(server, name)
        with server.connect():
            server.wait_for("connected", within_s=20)
        server.wait_for("closed the channel", within_s=20)
    network = small_resnet()
    image = images(1, network)[0]
    with torch.no_grad():
        expected = network.module(image[None])[0].numpy()
    with open_session(HOST, server.port, timeout_s=60, protocol="semi2k") as session:
        np.testing.assert_allclose(session.query(image).logits, expected, atol=0.01)
    server.wait_for("left after 1 queries", within_s=20)


@needs_engine
def test_a_port_that_the_server_can_not_get_ends_one_session(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> list[int]:
        raise UserError("port 0 can't be used")

    with monkeypatch.context() as changed:
        changed.setattr(serving_session, "choose_ports", refuse)
        with server.connect() as connection:
            send(connection, port_message(9))
            server.wait_for("port 0 can't be used", within_s=20)
    with server.connect():
        server.wait_for("connected", within_s=20)


@needs_engine
def test_a_client_that_dies_with_a_message_waiting_ends_its_session_in_seconds(server: RunningServer) -> None:
    with server.connect() as connection:
        send(connection, port_message(9))
        assert receive(connection, within_s=30).kind == "port"
        connection.sendall(b"-")  # a message begins
        time.sleep(1)  # the server waits for its party, which waits for an engine that never comes
    begin = time.monotonic()
    server.wait_for("the other side closed the connection", within_s=20)
    assert time.monotonic() - begin < 10


@needs_engine
def test_a_client_that_never_completes_the_handshake_makes_room_for_the_next(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_session, "HANDSHAKE_S", 0.5)
    with server.connect() as connection:
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begin < 10:  # a byte now and then
                connection.sendall(b"\1")
                time.sleep(0.2)
    assert time.monotonic() - begin < 5
    server.wait_for("nothing was received for too long", within_s=5)


# -- addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0", "0.0", "0x0", "00000000"])
def test_every_address_is_listened_on_only_where_that_is_said(host: str) -> None:
    with (
        pytest.raises(UserError, match=f"--host '{host}' would listen on every address; give 0.0.0.0"),
        listen(host, 0),
    ):
        raise AssertionError
    with listen("0.0.0.0", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("host", ["", "a..b", "\udcff", "a\0b", "x" * 70, "no such host", " "])
def test_a_host_that_is_none_is_the_users_mistake(host: str) -> None:
    with pytest.raises(UserError, match="--host"), listen(host, 0):
        raise AssertionError


# -- clients and their turns, without an engine -----------------------------------------------------------------


@pytest.fixture
def parties(monkeypatch: pytest.MonkeyPatch) -> type[FakeParty]:
    """Parties that answer at once, on both sides."""

    class Party(FakeParty):
        links: list[LinkTls | None] = []  # noqa: RUF012

    monkeypatch.setattr(serving_session, "PartyProcess", Party)
    monkeypatch.setattr(querying, "PartyProcess", Party)
    for module in (serving, querying):
        monkeypatch.setattr(module, "check_installed", lambda: None)
    return Party


def ask_for_turn(server: RunningServer) -> socket.socket:
    connection = server.connect()
    send(connection, port_message(9))
    return connection


def test_clients_that_only_connect_hold_up_nobody(parties: type[FakeParty], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_MOST_CONNECTIONS", 3)
    with running_server() as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect_silently()) for _ in range(3)]
        idle.append(stack.enter_context(server.connect()))  # for which the oldest makes room
        assert idle[0].recv(1) == b""
        image = images(1, small_resnet())[0]
        with open_session(HOST, server.port, timeout_s=20, protocol="semi2k") as session:
            assert session.query(image).logits == (7.0,) * 10
        server.wait_for("left after 1 queries", within_s=5)


def test_a_client_that_never_starts_its_engine_loses_its_turn(parties: type[FakeParty]) -> None:
    parties.connects = False
    with running_server(silent_s=0.2) as server:
        with ask_for_turn(server) as first, ask_for_turn(server) as second:
            assert read_port(receive(first, within_s=5))
            assert read_wait(receive(second, within_s=5)) == 1
            server.wait_for("the client's engine did not connect within 0.2 s", within_s=5)
            assert read_port(receive(second, within_s=5))
            server.wait_for("the client's engine did not connect within 0.2 s", within_s=5)


def test_a_client_in_session_lets_the_next_wait_and_those_that_leave_are_forgotten(
    parties: type[FakeParty], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_MOST_WAITING_PER_HOST", 2)
    lines: list[str] = []
    with running_server() as server:
        with ask_for_turn(server) as first:
            assert read_port(receive(first, within_s=5))
            with ask_for_turn(server) as gone:
                assert read_wait(receive(gone, within_s=5)) == 1
                with ask_for_turn(server) as another:
                    assert read_wait(receive(another, within_s=5)) == 2
                    with ask_for_turn(server):
                        server.wait_for("2 clients of this address are waiting already", within_s=5)
            server.wait_for("the client left before its turn", within_s=5)
            threading.Timer(0.2, first.shutdown, [socket.SHUT_RDWR]).start()
            with open_session(HOST, server.port, timeout_s=20, protocol="semi2k", report=lines.append):
                pass  # when the first has left
    assert lines[0].startswith("waiting for the server's turn: ")


def test_a_server_full_of_waiting_clients_refuses_more(
    parties: type[FakeParty], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_MOST_CONNECTIONS", 1)
    with running_server() as server, ask_for_turn(server) as first:
        assert read_port(receive(first, within_s=5))
        with server.connect_silently() as refused:
            assert refused.recv(1) == b""
        server.wait_for("refused: 1 clients are waiting", within_s=5)


def test_a_client_asks_for_a_batch_and_gets_the_logits_of_each_image(parties: type[FakeParty]) -> None:
    lines: list[str] = []
    given = list(images(3, small_resnet()))
    with running_server(most_images=3) as server:
        for again in (False, True):
            with open_session(
                HOST, server.port, timeout_s=60, protocol="semi2k", batch=3, report=lines.append
            ) as session:
                assert session.server.program.batch == 3
                whole, part = session.query_together(given), session.query_together(given[:2])
                for wrong in ([], [*given, given[0]]):
                    with pytest.raises(UserError, match=r"\d images are given for one query; give 1 to 3"):
                        session.query_together(wrong)
            assert [reply.logits for reply in whole + part] == [(7.0,) * 10] * 5
            assert {(reply.images, reply.sent_bytes) for reply in whole + part} == {(3, 1024), (2, 1024)}
            server.wait_for("left after 2 queries", within_s=20)
            # lowered for the first client that asked; a client with another batch changes nothing
            assert lines == ["the server prepares its network for 3 images a query"], again
            with open_session(HOST, server.port, timeout_s=60, protocol="semi2k") as session:
                assert session.server.program.batch == 1
            server.wait_for("left after 0 queries", within_s=20)


def test_a_batch_that_a_server_does_not_take_is_one_line_on_both_sides(
    parties: type[FakeParty], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(batch: int) -> None:
        with open_session(HOST, server.port, timeout_s=20, protocol="semi2k", batch=batch):
            raise AssertionError("the batch was accepted")

    with running_server(most_images=4) as server:
        with pytest.raises(
            UserError, match=r"refuses a batch of 5: it takes at most 4 images a query; give a smaller"
        ):
            ask(5)
        server.wait_for("refused: it asked for 5 images a query, 4 are the most", within_s=5)
        for wrong in (0, 257, 1.0):
            with pytest.raises(UserError, match=r"the batch is .*; give a whole number"):
                ask(wrong)  # type: ignore[arg-type]
        with monkeypatch.context() as changed:
            changed.setattr(memory, "free_memory", lambda: 10**6)
            with pytest.raises(UserError, match="refuses a batch of 4: the network or the server's memory does not"):
                ask(4)
            line = server.wait_for("refused: a query of 4 images to resnet20 needs about", within_s=5)
            assert "give a smaller batch" in line
        for batch in (0, -1, 2**16, True, "3", None, 1.5):
            with server.connect_silently() as connection:
                send(connection, Message(kind="hello", values={"version": VERSION, "batch": batch}))
                server.wait_for("the client is no 'deepreduce private query' of this version", within_s=5)


def test_what_a_client_sends_is_reported_without_its_escapes(parties: type[FakeParty]) -> None:
    with running_server() as server, ask_for_turn(server) as connection:
        assert read_port(receive(connection, within_s=5))
        send(connection, Message(kind="\x1b[2J\n"))
        assert "the client sent '\\x1b[2J\\n'" in server.wait_for("sent", within_s=5)


# -- who holds what -----------------------------------------------------------------------------------------


CLIENT = """
import sys, numpy, torch
torch.set_num_threads(1)
from deepreduce.private.querying import open_session
from deepreduce.private.serving import listen
image = torch.from_numpy(numpy.load(sys.argv[3]))
with open_session("127.0.0.1", int(sys.argv[1]), timeout_s=120, protocol=sys.argv[2]) as session:
    print(*session.query(image).logits, flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(*words: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process; yield it and the first line that it prints."""
    with subprocess.Popen(
        [*words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain_environment(),
        cwd=REPOSITORY,
    ) as found:  # fmt: skip
        try:
            assert found.stdout is not None
            yield found, found.stdout.readline()
        finally:
            found.kill()


@reads_memory
@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("protocol", ["semi2k", "cheetah"])
def test_neither_side_of_a_session_holds_the_input_of_the_other(protocol: str, tmp_path: Path) -> None:
    folder = saved_network(tmp_path)
    network = SavedNetwork.read(folder).load()
    generator = torch.Generator().manual_seed(13)
    image = torch.randint(-1024, 1024, network.input_shape, generator=generator) / 512  # exact in fixed point
    np.save(tmp_path / "image.npy", image.numpy())
    # as they were trained, and as the parties compute with them
    served = lower(prepare(network, cost=collapse_cost(protocol, LINKS["lan"]))).weights
    trained = {name: value.detach().numpy() for name, value in network.module.state_dict().items() if value.ndim}
    secrets = Secrets.of(image, {**trained, **served})
    deepreduce = Path(sys.executable).with_name("deepreduce")
    with process(deepreduce, "private", "serve", folder, "--port", "0", "--protocol", protocol) as (server, line):
        port = line.split()[-1].rpartition(":")[2]
        with process(sys.executable, "-c", CLIENT, port, protocol, tmp_path / "image.npy") as (client, logits):
            with torch.no_grad():
                expected = network.module(image[None])[0].numpy()
            np.testing.assert_allclose([float(word) for word in logits.split()], expected, atol=0.05)
            (serving_party,), (asking_party,) = (parties_left(each.pid) for each in (server, client))
            for pid in (server.pid, int(serving_party)):
                knows_image, weights = secrets.known_to(pid)
                assert not knows_image and set(served) & set(secrets.weights) <= weights
            for pid in (client.pid, int(asking_party)):
                assert secrets.known_to(pid) == (True, set())
