"""Start, query and end the parties' processes, each through a channel of its own."""

from __future__ import annotations

import os
import select
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray

from deepreduce.errors import RunError, UserError
from deepreduce.private.lowering.program import Program
from deepreduce.private.parties.link_tls import LinkTls
from deepreduce.private.parties.wire import ClosedError, Message, receive, send
from deepreduce.private.protocol import SERVER, MpcProtocol
from deepreduce.utils.child_process import ChildProcess, hang_up_events

ROLES = ("server", "client", "helper")
"""Name of each rank: the server holds the weights, the client the image, the helper nothing."""

HOST = "127.0.0.1"

_LAST_BYTES = 4096
"""Bytes of a process's output that are searched for its last line."""

Array = NDArray[Any]


class PartyProcess:
    """One party. Leaving the context ends its process, which also ends when this process does.

    `launcher` is a command that starts it, by turning into it.
    """

    def __init__(self, rank: int, *, launcher: Sequence[str] = ()) -> None:
        self.rank, self.role, self._launcher = rank, ROLES[rank], launcher

    def __enter__(self) -> PartyProcess:
        self._output = tempfile.TemporaryFile()  # without a name, so that nothing stays however this process ends
        try:
            self._process = ChildProcess(
                "deepreduce.private.parties.party",
                launcher=self._launcher,
                environment={"JAX_PLATFORMS": "cpu"},
                output=self._output,
            )
        except BaseException:
            self._output.close()
            raise
        self.channel = self._process.channel
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.end()
        self._output.close()

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def prepare(
        self, program: Program, protocol: MpcProtocol, masks: Mapping[str, Array], *, timeout_s: float
    ) -> None:
        """Send the program, for the process to compile; it answers when that is done."""
        values = {"rank": self.rank, "protocol": protocol.name, "program": program.to_json()}
        self.channel.settimeout(timeout_s)  # a process that hangs does not read
        self.send(Message(kind="prepare", values=values, arrays=masks))

    def connect(
        self,
        addresses: Sequence[str],
        weights: Mapping[str, Array] | None = None,
        *,
        silent_s: float,
        tls: LinkTls | None = None,
    ) -> None:
        """Send the parties' addresses and, to the server's process, the weights; it answers when it is connected.

        The answer of `prepare` comes first if it was not received yet. `silent_s` is how many seconds another party
        may be silent, now and later.
        """
        values = {
            "rank": self.rank,
            "addresses": list(addresses),
            "silent_s": silent_s,
            "tls": None if tls is None else tls.to_json(),
        }
        self.send(Message(kind="connect", values=values, arrays=weights or {}))

    def send(self, message: Message) -> None:
        """Send a message to the process. Raises `RunError` if the process is gone."""
        try:
            send(self.channel, message)
        except ClosedError as error:
            raise self._end_error() from error

    def receive(self) -> Message:
        """Return the process's answer. Raises `RunError` if the process is gone or failed."""
        try:
            message = receive(self.channel)
        except ClosedError as error:
            raise self._end_error() from error
        if message.kind == "failed":
            raise RunError(f"the {self.role}'s process failed: {message.values['reason']}")
        return message

    def _end_error(self) -> RunError:
        """Return the error for a process that has ended, with the reason if it is known."""
        what = f"the {self.role}'s process {self._process.describe_end()}"
        if self._process.was_killed:
            return RunError(f"{what}; if nobody did that, memory ran out (cheetah takes about 3 GB per party)")
        end = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), _LAST_BYTES, max(end - _LAST_BYTES, 0)).decode(errors="replace")
        lines = text.strip().splitlines()
        return RunError(what + (f": {lines[-1][:200]}" if lines else ""))


def receive_answers(
    parties: Sequence[PartyProcess],
    *,
    timeout_s: float,
    other: socket.socket | None = None,
    late: str | None = None,
) -> list[Message]:
    """Return one message from each party, in their order. Raises `RunError` if a party fails, dies or takes longer.

    `other` is a connection to a process that starts parties on another machine: when it closes, those parties are
    gone too. Unread bytes in it, such as the next query, stay there and do not hide that it closed. `late` is the
    error's text if the time is over.
    """
    waiting, found = {party.channel.fileno(): party for party in parties}, {}
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    if other is not None:
        poll.register(other, hang_up_events())
    deadline = time.monotonic() + timeout_s
    while waiting:
        ready = [descriptor for descriptor, _ in poll.poll(1000 * max(deadline - time.monotonic(), 0))]
        if not ready:
            roles = " and ".join(f"the {party.role}'s" for party in waiting.values())
            raise RunError(late or f"no answer from {roles} process within {timeout_s:g} s; give a longer timeout")
        for descriptor in waiting.keys() & set(
            ready
        ):  # first: a party's answer counts even if the other side has hung up
            party = waiting.pop(descriptor)
            poll.unregister(descriptor)
            found[party.rank] = party.receive()
        if waiting and other is not None and other.fileno() in ready:
            raise RunError("the other side closed the connection")
    return [found[party.rank] for party in parties]


def has_hung_up(connection: socket.socket) -> bool:
    """Return whether the other end has closed the connection, even if unread bytes remain."""
    poll = select.poll()
    poll.register(connection, hang_up_events())
    return bool(poll.poll(0))


class Transport(Protocol):
    """The way in which parties on this machine reach each other."""

    @property
    def launcher(self) -> Sequence[str]:
        """Return the command that a party's process is started with; it replaces itself by the process (exec)."""

    def connect(self, pids: Sequence[int]) -> Sequence[str]:
        """Return the parties' addresses ("host:port"), given the ids of their processes."""


@dataclass(frozen=True, kw_only=True)
class Loopback:
    """Connects parties over the loopback interface at `ports`, one per party (None: free ones)."""

    ports: Sequence[int] | None = None
    launcher: Sequence[str] = ()

    def connect(self, pids: Sequence[int]) -> Sequence[str]:
        """Return the parties' addresses. Raises `UserError` for a port in use."""
        return [f"{HOST}:{port}" for port in choose_ports(len(pids), self.ports)]


@contextmanager
def running_parties(
    program: Program,
    protocol: MpcProtocol,
    *,
    weights: Mapping[str, Array],
    masks: Mapping[str, Array],
    transport: Transport,
    timeout_s: float,
) -> Iterator[list[PartyProcess]]:
    """Start all parties on this machine, connect them and share the server's weights; end them on exit.

    Raises what `transport.connect` raises, and `RunError` if a party is not ready within `timeout_s`.
    """
    with ExitStack() as stack:
        parties = [
            stack.enter_context(PartyProcess(rank, launcher=transport.launcher)) for rank in range(protocol.parties)
        ]
        addresses = transport.connect([party.pid for party in parties])
        for party in parties:
            party.prepare(program, protocol, masks, timeout_s=timeout_s)
        receive_answers(parties, timeout_s=timeout_s)
        for party in parties:
            party.connect(addresses, weights if party.rank == SERVER else None, silent_s=timeout_s)
        receive_answers(parties, timeout_s=timeout_s)
        yield parties


def choose_ports(count: int, given: Sequence[int] | None, *, host: str = HOST) -> list[int]:
    """Return the `given` ports of `host` (0: any free one), or `count` free ones if `given` is None.

    Raises `UserError` for a port that is in use or given twice, and for a wrong number of ports.
    """
    if given is not None and len(given) != count:
        raise UserError(f"{len(given)} ports are given for {count} parties; give one for each")
    wanted = list(given) if given is not None else [0] * count
    twice = sorted({port for port in wanted if port and wanted.count(port) > 1})
    if twice:  # SO_REUSEADDR lets two sockets bind a port as long as neither listens
        raise UserError(f"port {twice[0]} is given twice; give each party one of its own")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in wanted]
        for taken, port in zip(sockets, wanted, strict=True):
            taken.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # a closed connection in TIME_WAIT does not block the port
            try:
                taken.bind((host, port))
            except (OSError, OverflowError) as error:
                raise UserError(
                    f"port {port} can't be used ({error}); give another, or none for free ones"
                ) from error
        return [int(taken.getsockname()[1]) for taken in sockets]
