"""Speak TLS over the connection of server and client: contexts from PEM files, and their errors in one line.

The certificates serve the engines' link too, if both sides have one and check the other's (`LinkTls`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepreduce.errors import RunError, UserError
from deepreduce.private.parties.link_tls import LinkTls

_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "UNEXPECTED_MESSAGE",
    "PACKET_LENGTH_TOO_LONG",
)
"""OpenSSL's reasons when the bytes that arrive are not TLS."""
_UNKNOWN_SIGNER = (18, 19, 20, 21)
"""OpenSSL's codes of certificates that nobody signed who is trusted."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """One side's TLS: `context` for the connection, and `link` for the engines (None: their link stays plain)."""

    context: ssl.SSLContext
    link: LinkTls | None

    def accept(self, connection: socket.socket) -> ssl.SSLSocket:
        """Return the server's side of a connection after the handshake. Raises `RunError` if the handshake fails."""
        try:
            secured = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # the client is gone already
            connection.close()
            raise RunError(explain(error, other="the client")) from error
        try:
            secured.do_handshake()
        except OSError as error:
            _let_the_alert_arrive(secured)
            secured.close()
            raise RunError(explain(error, other="the client")) from error
        return secured

    def connect(self, connection: socket.socket, host: str) -> ssl.SSLSocket:
        """Return the client's side of a connection to `host` after the handshake. Raises `RunError` if that fails."""
        try:
            return self.context.wrap_socket(connection, server_hostname=host)
        except (OSError, ValueError) as error:  # ValueError: a host's name that no certificate can have
            raise RunError(explain(error, other="the server")) from error


def server_tls(certificate: Path | None, key: Path | None, authorities: Path | None) -> Tls | None:
    """Return the server's TLS with its own certificate; clients need one of `authorities` if those are given.

    Returns None without files. Raises `UserError` for files that don't go together, can't be read or have expired.
    """
    if certificate is None and key is None and authorities is None:
        return None
    if certificate is None or key is None:
        raise UserError("a server speaks TLS with a certificate and its key; give both --tls-cert and --tls-key")
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, authorities)
    if authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return Tls(context=context, link=_link(certificate, key, authorities))


def client_tls(certificate: Path | None, key: Path | None, authorities: Path | None) -> Tls | None:
    """Return the client's TLS, which trusts servers with a certificate of `authorities` for the host's name.

    Returns None without files. Raises `UserError` for files that don't go together, can't be read or have expired.
    """
    if certificate is None and key is None and authorities is None:
        return None
    if authorities is None:
        raise UserError("a client checks the server's certificate; give --tls-ca, the certificate of who signed it")
    if (certificate is None) != (key is None):
        raise UserError("a certificate is used with its key; give both --tls-cert and --tls-key, or neither")
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, authorities)
    return Tls(context=context, link=_link(certificate, key, authorities))


def explain(error: Exception, *, other: str) -> str:
    """Return one line for a failed handshake with `other` ("the server"), with the repair if it is known."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        repair = "; give the --tls-ca that signed it" if error.verify_code in _UNKNOWN_SIGNER else ""
        return f"the certificate of {other} is not accepted: {error.verify_message.rstrip('.')}{repair}"
    if reason in _NO_TLS:
        return f"{other} does not speak TLS; give the --tls options on both sides, or on neither"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return f"{other} has no certificate, which this server asks for; it needs --tls-cert and --tls-key"
    if "CERTIFICATE_REQUIRED" in reason:
        return f"{other} asks for a certificate; give --tls-cert and --tls-key"
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT_ERROR")):
        words = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return f"{other} does not accept this side's certificate ({words}); give one that its --tls-ca signed"
    if isinstance(error, TimeoutError):
        return f"{other} did not complete the TLS handshake in time"
    words = reason.replace("_", " ").lower() or str(error)
    return f"the TLS handshake with {other} failed ({words}); if it speaks no TLS, leave out the --tls options"


# -- contexts -----------------------------------------------------------------------------------------------


def _context(role: int, certificate: Path | None, key: Path | None, authorities: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(role)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is not None:
        _load_authorities(context, authorities)
    if certificate is not None and key is not None:
        _load_certificate(context, certificate, key)
        _check_certificate(certificate, key, both_roles=authorities is not None)
    return context


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} holds no certificates ({_words(error)}); give a PEM file of those to trust"
        ) from error


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> str:
        raise UserError(f"{key} is encrypted; give a key without a passphrase")

    _check_readable(certificate)
    _check_readable(key)
    try:
        context.load_cert_chain(certificate, key, no_password)
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise UserError(f"{key} is not the key of {certificate}; give the key it was made with") from error
        raise UserError(
            f"{certificate} and {key} can't be used ({_words(error)}); give a certificate and its key, both PEM"
        ) from error


def _check_readable(path: Path) -> None:
    try:
        if not path.is_file():
            raise UserError(f"{path} is no file; give a PEM file")
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({_words(error)})") from error


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).replace("_", " ").lower()


def _check_certificate(certificate: Path, key: Path, *, both_roles: bool) -> None:
    """Raise `UserError` if a peer that trusts this very certificate would refuse it: expired, or not for this use.

    An engine is a TLS server and a client at once, so with `both_roles` the certificate must be good for both.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(cafile=certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if both_roles:
        server.verify_mode = ssl.CERT_REQUIRED
    try:
        _handshake_in_memory(server, client)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or _words(error)
        raise UserError(
            f"{certificate} would not be accepted ({why.lower()}); give a certificate that is valid now"
            + (", for TLS servers and clients" if both_roles else ", for TLS servers")
        ) from error


def _handshake_in_memory(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(4):  # each side's turns in TLS 1.3, and one more
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


def _link(certificate: Path | None, key: Path | None, authorities: Path | None) -> LinkTls | None:
    if certificate is None or key is None or authorities is None:
        return None
    paths: Mapping[str, Path] = {"certificate": certificate, "key": key, "authorities": authorities}
    return LinkTls(**{name: os.path.abspath(path) for name, path in paths.items()})


def _let_the_alert_arrive(connection: socket.socket) -> None:
    """Read for a moment what the other side sends: closing before would reset the connection and lose the alert."""
    with contextlib.suppress(OSError):
        connection.settimeout(0.5)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        for _ in range(16):
            if not socket.socket.recv(connection, 4096):
                break
