"""The engines' link under TLS: nothing readable passes, and engines of another authority do not get in."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from deepreduce.errors import RunError
from deepreduce.private.measuring import run_query
from deepreduce.private.parties.link_tls import LinkTls
from deepreduce.private.parties.processes import HOST, PartyProcess, choose_ports, receive_answers
from deepreduce.private.protocol import CLIENT, PROTOCOLS, SERVER
from tests.helpers.certificates import Authority
from tests.helpers.plain_engine import lowered
from tests.helpers.private_layers import TOYS
from tests.helpers.private_networks import images, needs_engine

pytestmark = [needs_engine, pytest.mark.slow]

OF_THE_ENGINE = (b"ReceiverService", b"PRPC", b"connect_0", b"ALLGATHER", b"GATHER")
"""Words that the engine sends on a plain link."""


@contextmanager
def proxy(target: int) -> Iterator[tuple[int, bytearray]]:
    """Forward connections to the port `target`; yield the port to connect to, and what passes."""
    passed = bytearray()

    def forward(one: socket.socket, other: socket.socket) -> None:
        with one, other, contextlib.suppress(OSError):
            while True:
                for source in select.select([one, other], [], [])[0]:
                    content = source.recv(2**16)
                    if not content:
                        return
                    passed.extend(content)
                    (other if source is one else one).sendall(content)

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                other = socket.create_connection((HOST, target))
            except OSError:  # the engine does not listen yet; the other one tries again
                connection.close()
                continue
            threading.Thread(target=forward, args=(connection, other), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=run, daemon=True).start()
        yield listener.getsockname()[1], passed
        listener.shutdown(socket.SHUT_RDWR)


def query_through_proxies(tls: Sequence[LinkTls | None], *, connect_s: float = 60) -> bytes:
    """Run a query whose engines reach each other through proxies only; return what passed."""
    network = TOYS["basic"].network()
    found, image = lowered(network), images(1, network)[0]
    ports = choose_ports(2, None)
    with ExitStack() as stack:
        proxies = [stack.enter_context(proxy(port)) for port in ports]
        parties = [stack.enter_context(PartyProcess(rank)) for rank in (SERVER, CLIENT)]
        for party in parties:
            party.prepare(found.program, PROTOCOLS["semi2k"], found.masks, timeout_s=60)
        receive_answers(parties, timeout_s=60)
        for party in parties:
            reached = [ports[rank] if rank == party.rank else proxies[rank][0] for rank in (SERVER, CLIENT)]
            party.connect(
                [f"{HOST}:{port}" for port in reached],
                found.weights if party.rank == SERVER else None,
                silent_s=60,
                tls=tls[party.rank],
            )
        receive_answers(parties, timeout_s=connect_s)
        logits = run_query(parties, image[None], timeout_s=60).logits
        np.testing.assert_allclose(logits, network.module.eval()(image[None]).detach().numpy(), rtol=0, atol=1e-3)
        return b"".join(bytes(passed) for _, passed in proxies)


def files_of(authority: Authority, name: str) -> LinkTls:
    identity = authority.sign(name)
    return LinkTls(certificate=str(identity.certificate), key=str(identity.key), authorities=str(authority.path))


def test_a_query_under_tls_sends_nothing_readable_and_one_without_does(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    plain = query_through_proxies([None, None])
    assert all(word in plain for word in OF_THE_ENGINE[:3]) and not plain.startswith(b"\x16\x03")
    encrypted = query_through_proxies([files_of(authority, name) for name in ("server", "client")])
    assert len(encrypted) > len(plain) / 2 and encrypted.startswith(b"\x16\x03")
    assert not any(word in encrypted for word in OF_THE_ENGINE)


def test_an_engine_with_a_certificate_of_another_authority_does_not_connect(tmp_path: Path) -> None:
    tls = [files_of(Authority(tmp_path, name), f"party of {name}") for name in ("ours", "others")]
    with pytest.raises(RunError, match="no answer from the server's and the client's process within 5 s"):
        query_through_proxies(tls, connect_s=5)
