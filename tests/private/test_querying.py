"""A client's image stays its own, whatever the server sends."""

from __future__ import annotations

import pytest

from deepreduce.errors import RunError, UserError
from deepreduce.private import querying
from deepreduce.private.handshake import ServerInfo, lowering_message, refusal_message
from deepreduce.private.parties.processes import HOST
from deepreduce.private.parties.wire import Message
from deepreduce.private.querying import Reply, open_session
from tests.helpers.private_networks import images, needs_engine, small_resnet
from tests.helpers.private_servers import HELLO, running_server, scripted_server, server_info


@needs_engine
@pytest.mark.parametrize(
    ("served", "wanted", "message"),
    [
        (
            "semi2k", "cheetah",
            r"serves under semi2k \(trusted dealer: a cost reference\), not cheetah; give --protocol semi2k if you"
            " only need a cost reference: the server could see the image",
        ),
        ("cheetah", "semi2k", r"under cheetah \(two parties, no dealer\), not semi2k; give --protocol cheetah$"),
    ],
)  # fmt: skip
def test_another_protocol_than_the_clients_is_refused_before_the_client_sends_more_than_its_version(
    served: str, wanted: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(querying, "PartyProcess", None)  # none may start
    with scripted_server(server_info(served).to_message()) as (port, received):
        options = {} if wanted == "cheetah" else {"protocol": wanted}  # cheetah is the default
        with pytest.raises(UserError, match=message), open_session(HOST, port, timeout_s=20, **options):
            raise AssertionError("the server's protocol was accepted")
    assert b"".join(received) == HELLO  # the version of its messages, and nothing more


@needs_engine
def test_a_protocol_of_three_parties_is_refused() -> None:
    with pytest.raises(UserError, match="aby3 needs 3 parties"), open_session(HOST, 1, timeout_s=20, protocol="aby3"):
        raise AssertionError


@needs_engine
@pytest.mark.parametrize("answer", [Message(kind="port"), Message(kind="port", values={"port": 2**16}), b"\0" * 8])
def test_a_server_that_sends_nonsense_is_refused_in_one_line(answer: Message | bytes) -> None:
    with (
        scripted_server(server_info("cheetah").to_message(), answer) as (port, _),
        pytest.raises(RunError, match="not answer like a 'deepreduce private serve' of this version"),
        open_session(HOST, port, timeout_s=20),
    ):
        raise AssertionError("the server's answer was accepted")


@needs_engine
def test_a_query_after_the_server_ended_the_idle_session_says_so() -> None:
    image = images(1, small_resnet())[0]
    with running_server(idle_s=1) as server:
        with open_session(HOST, server.port, timeout_s=60, protocol="semi2k") as session:
            with pytest.raises(UserError, match=r"the image is \(1, 4, 4\); the server's network takes \(1, 8, 8\)"):
                session.query(image[:, :4, :4])
            session.query(image)
            server.wait_for("no query for 1 s", within_s=20)
            with server.connect():
                server.wait_for("connected", within_s=20)
            with pytest.raises(RunError, match="the server ended the session, as it does when no query comes"):
                session.query(image)


@needs_engine
@pytest.mark.parametrize("answer", [server_info("semi2k"), server_info("semi2k", batch=2)])
def test_a_program_of_another_batch_than_asked_for_is_refused(answer: ServerInfo) -> None:
    with (
        scripted_server(answer.to_message()) as (port, _),
        pytest.raises(RunError, match="not answer like a 'deepreduce private serve' of this version"),
        open_session(HOST, port, timeout_s=20, protocol="semi2k", batch=3),
    ):
        raise AssertionError("the server's program was accepted")


@needs_engine
def test_a_servers_reason_is_shown_in_one_line() -> None:
    with (
        scripted_server(lowering_message(), refusal_message("no\x1b[2J\n" + 300 * "!")) as (port, _),
        pytest.raises(UserError, match=r"refuses a batch of 3: no\\x1b\[2J\\n!{,190}$"),
        open_session(HOST, port, timeout_s=20, batch=3),
    ):
        raise AssertionError("the refusal was ignored")


def test_the_predicted_class_is_that_of_the_largest_logit() -> None:
    assert Reply(logits=(-1.0, 3.0, 2.0), seconds=0.1).predicted_class == 1
