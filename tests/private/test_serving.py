"""A standing server outlives whatever its clients do, and a client's image stays its own whatever the server says."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepreduce.cost.link import LINKS
from deepreduce.cost.preset import collapse_cost
from deepreduce.errors import RunError, UserError
from deepreduce.private import serving
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import lower
from deepreduce.private.parties.processes import HOST
from deepreduce.private.parties.wire import Message, receive, send
from deepreduce.private.serving import ServerInfo, listening, serve, session
from deepreduce.store.checkpoint import SavedNetwork
from tests.helpers import REPOSITORY
from tests.helpers.memory import Secrets, reads_memory
from tests.helpers.private_networks import images, needs_engine, parties_left, saved_network, small_resnet
from tests.helpers.private_sessions import BAD, offer_of, raw, saying
from tests.helpers.runs import plain_environment


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "rot13"}, {"protocol": ["semi2k"]}, {"program": []}, {"program": {"shapes": []}},
        {"input_shape": 3}, {"input_shape": [1, 2]}, {"input_shape": [float("inf")] * 3},
        {"standardisation": []}, {"standardisation": {"mean": 1, "std": 2}},
        {"standardisation": {"mean": [1.0], "std": [1.0, 2.0]}}, {"standardisation": {"mean": ["a"], "std": [1.0]}},
    ],
    ids=str,
)  # fmt: skip
@needs_engine
def test_an_offer_that_is_none_is_told_in_one_line(change: dict[str, object]) -> None:
    offer = offer_of("semi2k").to_message()
    assert ServerInfo.from_message(offer).input_shape == small_resnet().input_shape
    with pytest.raises(RunError, match="no 'deepreduce private serve' of this version"):
        ServerInfo.from_message(Message(kind="offer", values={**offer.values, **change}))
    with pytest.raises(RunError, match="no 'deepreduce private serve' of this version"):
        ServerInfo.from_message(Message(kind="meet", values=offer.values))


@needs_engine
@pytest.mark.parametrize(
    ("offered", "wanted", "said"),
    [
        (
            "semi2k", "cheetah",
            r"offers semi2k \(trusted dealer: a cost reference\), not cheetah; give --protocol semi2k if all you want"
            " is a cost reference: the server could see the image",
        ),
        ("cheetah", "semi2k", r"offers cheetah \(two parties, no dealer\), not semi2k; give --protocol cheetah$"),
    ],
)  # fmt: skip
def test_another_protocol_than_the_clients_is_refused_before_anything_is_said(
    offered: str, wanted: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PartyProcess", None)  # none may start
    with saying(offer_of(offered).to_message()) as (port, heard):
        # cheetah is what a client wants that says nothing
        wish = {} if wanted == "cheetah" else {"protocol": wanted}
        with pytest.raises(UserError, match=said), session(HOST, port, timeout_s=20, **wish):
            raise AssertionError("the offer was taken")
    assert heard == []


@needs_engine
def test_a_client_wants_a_protocol_of_two() -> None:
    with pytest.raises(UserError, match="aby3 needs 3 parties"), session(HOST, 1, timeout_s=20, protocol="aby3"):
        raise AssertionError


@needs_engine
@pytest.mark.parametrize("answer", [Message(kind="meet"), Message(kind="meet", values={"port": 2**16}), b"\0" * 8])
def test_a_server_that_talks_nonsense_is_told_in_one_line(answer: Message | bytes) -> None:
    with (
        saying(offer_of("cheetah").to_message(), answer) as (port, _),
        pytest.raises(RunError, match="no 'deepreduce private serve' of this version"),
        session(HOST, port, timeout_s=20),
    ):
        raise AssertionError("the server was believed")


# -- bad clients --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FrontierState:
    """A real server in a thread of this process: where it listens, and what it tells."""

    port: int
    lines: queue.Queue[str]

    def told(self, text: str, *, within_s: float) -> str:
        """The next line that holds `text`."""
        deadline = time.monotonic() + within_s
        while True:
            line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            if text in line:
                return line

    def connect(self) -> socket.socket:
        """A client of our own that has heard the offer."""
        connection = socket.create_connection((HOST, self.port), timeout=30)
        assert receive(connection, within_s=30).kind == "offer"
        return connection

    def check_serves(self) -> None:
        """It answers a real client."""
        network = small_resnet()
        image = images(1, network)[0]
        with torch.no_grad():
            expected = network.module(image[None])[0].numpy()
        with session(HOST, self.port, timeout_s=60, protocol="semi2k") as served:
            np.testing.assert_allclose(served.query(image).logits, expected, atol=0.01)
        self.told("left after 1 queries", within_s=20)


@contextmanager
def standing(*, idle_s: float = 60.0) -> Iterator[FrontierState]:
    lines: queue.Queue[str] = queue.Queue()
    ended: list[BaseException] = []
    with listening(HOST, 0) as door:

        def run() -> None:
            try:
                serve(
                    small_resnet(), door, protocol="semi2k", standardisation=None, timeout_s=60, told=lines.put,
                    idle_s=idle_s,
                )  # fmt: skip
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        found = FrontierState(port=door.getsockname()[1], lines=lines)
        # the port that it got, where any was asked for
        assert found.told("serving", within_s=60).endswith(f"under semi2k (trusted dealer: a cost reference) at"
                                                           f" {HOST}:{found.port}")  # fmt: skip
        yield found
        assert ended == []
        door.shutdown(socket.SHUT_RDWR)
        thread.join(30)


@pytest.fixture(scope="module")
def server() -> Iterator[FrontierState]:
    with standing() as found:
        yield found


def says(content: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(content)


def greets_and_resets(connection: socket.socket) -> None:
    send(connection, Message(kind="meet", values={"port": 9}))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


CLIENTS = {
    "values are a list": (says(BAD["values are a list"]), "header lacks"),
    "brackets": (says(BAD["brackets"]), "longer by"),
    "fewer brackets": (says(BAD["fewer brackets"]), "no JSON"),
    "an endless array": (says(BAD["an endless array"]), "no type or shape"),
    "a reset": (greets_and_resets, ""),
    "a port that is none": (says(raw('{"kind": "meet", "values": {"port": 99999}, "arrays": []}')), "it is no"),
}  # fmt: skip


def be_bad(server: FrontierState, name: str) -> None:
    """What a client does, of which the server tells one line."""
    act, reason = CLIENTS[name]

    def receive_late(*args: Any, **options: Any) -> Message:
        message = receive(*args, **options)
        time.sleep(0.3)  # so that the server looks at it when the client is gone
        return message

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(serving, "receive", receive_late)
        with server.connect() as connection:
            act(connection)
        server.told("connected", within_s=20)
        line = server.lines.get(timeout=20)
    assert line.startswith(f"client {HOST}:") and reason in line and "\n" not in line


@needs_engine
def test_a_client_that_misbehaves_ends_its_own_session_only(server: FrontierState) -> None:
    for name in CLIENTS:
        be_bad(server, name)
        with server.connect():
            server.told("connected", within_s=20)
        server.told("closed the channel", within_s=20)
    server.check_serves()


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_after_one_that_misbehaves_is_served(server: FrontierState, name: str) -> None:
    be_bad(server, name)
    server.check_serves()


@needs_engine
def test_a_port_that_the_server_can_not_get_ends_one_session(
    server: FrontierState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> list[int]:
        raise UserError("port 0 can't be used")

    with monkeypatch.context() as changed:
        changed.setattr(serving, "choose_ports", refuse)
        with server.connect() as connection:
            send(connection, Message(kind="meet", values={"port": 9}))
            server.told("port 0 can't be used", within_s=20)
    with server.connect():
        server.told("connected", within_s=20)


@needs_engine
def test_a_client_that_dies_with_a_message_waiting_ends_its_session_in_seconds(server: FrontierState) -> None:
    with server.connect() as connection:
        send(connection, Message(kind="meet", values={"port": 9}))
        assert receive(connection, within_s=30).kind == "meet"
        connection.sendall(b"-")  # a message begins
        time.sleep(1)  # the server waits for its party, which waits for an engine that never comes
    begin = time.monotonic()
    server.told("the other side went away", within_s=20)
    assert time.monotonic() - begin < 10


@needs_engine
def test_a_client_that_asks_nothing_makes_room_for_the_next() -> None:
    image = images(1, small_resnet())[0]
    with standing(idle_s=1) as server:
        with session(HOST, server.port, timeout_s=60, protocol="semi2k") as served:
            served.query(image)
            server.told("asked nothing for 1 s", within_s=20)
            with server.connect():
                server.told("connected", within_s=20)
            with pytest.raises(RunError, match="the server ended the session, as it does when no query comes"):
                served.query(image)


@needs_engine
def test_a_client_that_never_says_what_it_wants_makes_room(
    server: FrontierState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_GREETING_S", 0.5)
    with server.connect() as connection:
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begin < 10:  # a byte now and then
                connection.sendall(b"\1")
                time.sleep(0.2)
    assert time.monotonic() - begin < 5
    server.told("silent for too long", within_s=5)


# -- who holds what -----------------------------------------------------------------------------------------


CLIENT = """
import sys, numpy, torch
torch.set_num_threads(1)
from deepreduce.private.serving import session
image = torch.from_numpy(numpy.load(sys.argv[3]))
with session("127.0.0.1", int(sys.argv[1]), timeout_s=120, protocol=sys.argv[2]) as served:
    print(*served.query(image).logits, flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(*words: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that runs, and the first line that it printed."""
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
