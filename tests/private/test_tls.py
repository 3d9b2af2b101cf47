"""The connection is encrypted and each side is who it claims to be, or one line says why not."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from deepreduce.errors import RunError, UserError
from deepreduce.private import querying, serving_session
from deepreduce.private.handshake import hello_message
from deepreduce.private.parties.processes import HOST
from deepreduce.private.parties.wire import ClosedError, Message, receive, send
from deepreduce.private.querying import open_session
from deepreduce.private.serving import listen
from deepreduce.private.tls import Tls, client_tls, server_tls
from tests.helpers.certificates import FOR_SERVERS, Authority, Identity, write_key
from tests.helpers.fake_parties import FakeParty
from tests.helpers.private_networks import images, needs_engine, small_resnet
from tests.helpers.private_servers import running_server, server_info


@dataclass(frozen=True)
class Files:
    """An authority with certificates for a server and a client, another authority's client, and broken files."""

    folder: Path
    ca: Path
    other_ca: Path
    server: Identity
    client: Identity
    stranger: Identity
    elsewhere: Identity
    expired: Identity
    servers_only: Identity


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    ours, others = Authority(folder, "ours"), Authority(folder, "others")
    return Files(
        folder=folder, ca=ours.path, other_ca=others.path, server=ours.sign("server"), client=ours.sign("client"),
        stranger=others.sign("stranger"), elsewhere=ours.sign("elsewhere", host="10.0.0.1"),
        expired=ours.sign("expired", days=-1), servers_only=ours.sign("servers_only", uses=FOR_SERVERS),
    )  # fmt: skip


def of_server(identity: Identity, ca: Path | None = None) -> Tls:
    tls = server_tls(identity.certificate, identity.key, ca)
    assert tls is not None
    return tls


def of_client(ca: Path, identity: Identity | None = None) -> Tls:
    tls = client_tls(identity and identity.certificate, identity and identity.key, ca)
    assert tls is not None
    return tls


@contextmanager
def server_end(tls: Tls | None) -> Iterator[tuple[int, list[str]]]:
    """Run the server's first steps for one client; yield the port, and what went wrong after the client has left."""
    wrong: list[str] = []

    def meet(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with ExitStack() as stack:
            plain.settimeout(5)
            stack.enter_context(plain)
            try:
                connection = stack.enter_context(tls.accept(plain.dup())) if tls is not None else plain
                assert receive(connection).kind == "hello"
                send(connection, server_info("semi2k").to_message())
                connection.recv(1)
            except (RunError, ClosedError) as error:
                wrong.append(str(error))

    with listen(HOST, 0) as listener:
        thread = threading.Thread(target=meet, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], wrong
        finally:
            thread.join()


def errors_of(server: Tls | None, client: Tls | None, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return what the server and the client say of a session that fails before the client asks for its turn."""
    monkeypatch.setattr(querying, "check_installed", lambda: None)
    monkeypatch.setattr(querying, "HANDSHAKE_S", 5)

    class MetError(Exception):
        pass

    def meet(server: object) -> None:
        raise MetError

    said = ""
    with server_end(server) as (port, wrong):
        try:
            with open_session(HOST, port, timeout_s=5, protocol="semi2k", tls=client, check=meet):
                raise AssertionError
        except MetError:
            pass
        except (RunError, UserError) as error:
            said = str(error)
    return "; ".join(wrong), said


def test_each_side_accepts_the_other(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors_of(of_server(files.server), of_client(files.ca), monkeypatch) == ("", "")


@pytest.mark.parametrize(
    ("server", "client", "server_says", "client_says"),
    [
        ("server", "other_ca", "does not accept this side's certificate (unknown ca)",
         "the certificate of the server is not accepted: unable to get local issuer certificate; give the --tls"),
        ("elsewhere", "ca", "", "not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'"),
        (None, "ca", "the bytes received are TLS, not a message of deepreduce: give the --tls options on both sides",
         "if it speaks no TLS, leave out the --tls options"),
        ("server", None, "the client does not speak TLS; give the --tls options on both sides",
         "the server disconnected (the other end closed the channel); look at its terminal, then try again; if it"
         " speaks TLS, give --tls-ca"),
        ("mutual", "ca", "the client has no certificate", "the server asks for a certificate; give --tls-cert"),
        ("mutual", "stranger", "the certificate of the client is not accepted: unable to get local issuer",
         "the server does not accept this side's certificate (unknown ca); give one that its --tls-ca signed"),
    ],
)  # fmt: skip
def test_a_side_that_is_not_accepted_says_why_on_both(
    files: Files,
    server: str | None,
    client: str | None,
    server_says: str,
    client_says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identity = {"server": files.server, "elsewhere": files.elsewhere, "mutual": files.server}
    ours = of_server(identity[server], files.ca if server == "mutual" else None) if server is not None else None
    theirs = {
        "ca": lambda: of_client(files.ca), "other_ca": lambda: of_client(files.other_ca),
        "stranger": lambda: of_client(files.ca, files.stranger),
    }  # fmt: skip
    said = errors_of(ours, theirs[client]() if client is not None else None, monkeypatch)
    for found, expected in zip(said, (server_says, client_says), strict=True):
        assert expected in found and found and len(found.splitlines()) == 1


@pytest.mark.skipif(not (ssl.HAS_TLSv1 and ssl.HAS_TLSv1_1), reason="this OpenSSL has no old versions")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(
    files: Files, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = of_client(files.ca)
    old.context.minimum_version = old.context.maximum_version = version
    old.context.set_ciphers("ALL:@SECLEVEL=0")
    server, client = errors_of(of_server(files.server), old, monkeypatch)
    assert server and client  # both say that it failed


def test_nothing_that_is_sent_is_readable_on_the_way(files: Files) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client, server = of_client(files.ca, files.client), of_server(files.server, files.ca)
        connected: list[ssl.SSLSocket] = []
        thread = threading.Thread(target=lambda: connected.append(client.connect(theirs.dup(), HOST)))
        thread.start()
        with server.accept(ours.dup()) as accepted:
            thread.join()
            assert accepted.version() in ("TLSv1.2", "TLSv1.3") and accepted.getpeercert()
            with connected[0] as other:
                send(other, hello_message())
                on_the_way = ours.recv(2**16, socket.MSG_PEEK)
                assert on_the_way and b"hello" not in on_the_way
                assert receive(accepted) == hello_message()


# -- files ---------------------------------------------------------------------------------------------------


def test_no_files_are_no_tls() -> None:
    assert server_tls(None, None, None) is None and client_tls(None, None, None) is None


def test_files_that_do_not_go_together_are_refused(files: Files) -> None:
    server = files.server
    for given in ((server.certificate, None), (None, server.key), (None, None)):
        with pytest.raises(UserError, match="give both --tls-cert and --tls-key"):
            server_tls(*given, files.ca)
        if given != (None, None):
            with pytest.raises(UserError, match="give both --tls-cert and --tls-key, or neither"):
                client_tls(*given, files.ca)
    with pytest.raises(UserError, match="give --tls-ca, the certificate of who signed it"):
        client_tls(server.certificate, server.key, None)


def test_a_certificate_that_would_not_be_accepted_is_refused_at_the_start(files: Files) -> None:
    with pytest.raises(UserError, match=r"expired.pem would not be accepted \(certificate has expired\)"):
        of_server(files.expired)
    with pytest.raises(UserError, match=r"expired.pem would not be accepted \(certificate has expired\)"):
        of_client(files.ca, files.expired)
    of_server(files.servers_only)
    with pytest.raises(UserError, match=r"servers_only.pem would not be accepted .*, for TLS servers and clients"):
        of_server(files.servers_only, files.ca)  # the engine is a client too


def test_files_that_can_not_be_used_are_named(files: Files) -> None:
    server, folder = files.server, files.folder
    encrypted = write_key(folder / "encrypted.key", ec.generate_private_key(ec.SECP256R1()), password=b"secret")
    (folder / "empty.pem").touch()
    (folder / "text.pem").write_text("-----BEGIN CERTIFICATE-----\nnothing\n")
    cases = [
        (server.certificate, files.client.key, r"client.key is not the key of .*server.pem"),
        (server.certificate, encrypted, r"encrypted.key is encrypted; give a key without a passphrase"),
        (server.certificate, folder / "none.key", r"none.key is no file; give a PEM file"),
        (folder, server.key, r"is no file; give a PEM file"),
        (Path("a\0b"), server.key, r"give a PEM file|can't be read"),
        *(
            (folder / name, server.key, rf"{name} and .*server.key can't be used")
            for name in ("empty.pem", "text.pem")
        ),
        (server.certificate, server.certificate, r"server.pem and .*server.pem can't be used"),
    ]
    for certificate, key, message in cases:
        with pytest.raises(UserError, match=message) as raised:
            server_tls(certificate, key, None)
        assert len(str(raised.value).splitlines()) == 1
    for name in ("empty.pem", "text.pem"):
        with pytest.raises(UserError, match=rf"{name} holds no certificates"):
            client_tls(None, None, folder / name)


# -- a session, without an engine -------------------------------------------------------------------------------


@needs_engine
def test_a_session_is_under_tls_and_so_is_the_link_if_both_sides_have_certificates(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeParty.links = []
    monkeypatch.setattr(serving_session, "PartyProcess", FakeParty)
    monkeypatch.setattr(querying, "PartyProcess", FakeParty)
    image = images(1, small_resnet())[0]
    mutual = of_client(files.ca, files.client)
    with running_server(tls=of_server(files.server)) as server:
        with open_session(HOST, server.port, timeout_s=9, protocol="semi2k", tls=of_client(files.ca)) as session:
            assert isinstance(session.connection, ssl.SSLSocket)
            session.query(image)
        server.wait_for("left after 1 queries", within_s=5)
        assert FakeParty.links == [None, None]
        with (
            pytest.raises(UserError, match="connects the engines over plain TCP; start it with --tls-ca too"),
            open_session(HOST, server.port, timeout_s=9, protocol="semi2k", tls=mutual),
        ):
            raise AssertionError
    FakeParty.links = []
    with running_server(tls=of_server(files.server, files.ca)) as server:
        with open_session(HOST, server.port, timeout_s=9, protocol="semi2k", tls=mutual) as session:
            session.query(image)
        server.wait_for("left after 1 queries", within_s=5)
        assert {link.certificate for link in FakeParty.links if link is not None} == {
            str(files.server.certificate), str(files.client.certificate)
        }  # fmt: skip
        with socket.create_connection((HOST, server.port)) as plain:
            send(plain, Message(kind="hello"))
            server.wait_for("the client does not speak TLS", within_s=5)
