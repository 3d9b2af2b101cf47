"""The parties' processes as their starter sees them: started and ended together, each with a channel of its own."""

from __future__ import annotations

import select
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from typing import Protocol as TypingProtocol

from numpy.typing import NDArray

from deepreduce.errors import RunError, UserError
from deepreduce.private.lowering.program import Program
from deepreduce.private.parties.wire import ClosedError, Message, receive, send
from deepreduce.private.protocol import SERVER, Protocol
from deepreduce.utils.child_process import ChildProcess, hang_up_events

ROLES = ("server", "client", "helper")
"""Who holds which rank: the weights, the image, nothing."""

HOST = "127.0.0.1"

Array = NDArray[Any]


class PartyProcess:
    """One party. Leaving the context ends its process, which also ends when this process does.

    `launcher` is a command that starts it, by turning into it.
    """

    def __init__(self, rank: int, *, launcher: Sequence[str] = ()) -> None:
        self.rank, self.role, self._launcher = rank, ROLES[rank], launcher

    def __enter__(self) -> PartyProcess:
        self._folder = tempfile.TemporaryDirectory(prefix="deepreduce-party-")
        with open(self.output, "wb") as output:
            self._process = ChildProcess(
                "deepreduce.private.parties.party",
                launcher=self._launcher,
                environment={"JAX_PLATFORMS": "cpu"},
                output=output,
            )
        self.channel = self._process.channel
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.end()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def output(self) -> Path:
        """What the process printed; nothing that a user should need."""
        return Path(self._folder.name) / "output.txt"

    def join(
        self, program: Program, protocol: Protocol, addresses: Sequence[str], arrays: Mapping[str, Array], *,
        timeout_s: float,
    ) -> None:  # fmt: skip
        """Tell it what to compute with whom. `arrays` are the masks, and the weights if it is the server."""
        values = {
            "rank": self.rank,
            "addresses": list(addresses),
            "timeout_s": timeout_s,
            "protocol": protocol.name,
            "program": program.to_json(),
            "log": str(Path(self._folder.name) / "engine.log"),
        }
        self.channel.settimeout(timeout_s)  # a process that hangs does not read
        self.tell(Message(kind="join", values=values, arrays=arrays))

    def tell(self, message: Message) -> None:
        """Raises `RunError` where the process is gone."""
        try:
            send(self.channel, message)
        except ClosedError as error:
            raise self._gone() from error

    def hear(self) -> Message:
        """What it answers. Raises `RunError` where it is gone, or says that it failed."""
        try:
            message = receive(self.channel)
        except ClosedError as error:
            raise self._gone() from error
        if message.kind == "failed":
            raise RunError(f"the {self.role}'s process failed: {message.values['reason']}")
        return message

    def _gone(self) -> RunError:
        what = f"the {self.role}'s process {self._process.describe_end()}"
        if self._process.was_killed:
            return RunError(f"{what}; where nobody did that, memory was short (cheetah takes about 3 GB a party)")
        lines = self.output.read_text(errors="replace").strip().splitlines()
        return RunError(what + (f": {lines[-1][:200]}" if lines else ""))


def answers(
    parties: Sequence[PartyProcess], *, timeout_s: float, other: socket.socket | None = None
) -> list[Message]:
    """One message from each, in their order. Raises `RunError` where one fails, dies or takes longer.

    `other` is a connection to the starter of parties elsewhere; where it closes, their parties are gone too. What
    lies there unread, as the next query may, is left there and hides nothing.
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
            raise RunError(f"no answer from {roles} process within {timeout_s:g} s; give a longer timeout")
        for descriptor in waiting.keys() & set(ready):  # first: whoever has its answer may well hang up
            party = waiting.pop(descriptor)
            poll.unregister(descriptor)
            found[party.rank] = party.hear()
        if waiting and other is not None and other.fileno() in ready:
            raise RunError("the other side went away")
    return [found[party.rank] for party in parties]


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end has closed it, whatever lies there unread."""
    poll = select.poll()
    poll.register(connection, hang_up_events())
    return bool(poll.poll(0))


class Transport(TypingProtocol):
    """Where parties meet that are all on this machine."""

    @property
    def launcher(self) -> Sequence[str]:
        """A command that starts a party's process, by turning into it."""

    def connect(self, pids: Sequence[int]) -> Sequence[str]:
        """The parties' addresses ("host:port"), once their processes are there."""


@dataclass(frozen=True, kw_only=True)
class Loopback:
    """The loopback interface, at `ports`, one for each party (None: free ones)."""

    ports: Sequence[int] | None = None
    launcher: Sequence[str] = ()

    def connect(self, pids: Sequence[int]) -> Sequence[str]:
        """Raises `UserError` for a port in use."""
        return [f"{HOST}:{port}" for port in choose_ports(len(pids), self.ports)]


@contextmanager
def running_parties(
    program: Program,
    protocol: Protocol,
    *,
    weights: Mapping[str, Array],
    masks: Mapping[str, Array],
    place: Transport,
    timeout_s: float,
) -> Iterator[list[PartyProcess]]:
    """All parties of a computation on this machine, connected, with the server's weights shared.

    Raises what connecting them at that place does, and `RunError` where a party is not ready within `timeout_s`.
    """
    with ExitStack() as stack:
        parties = [
            stack.enter_context(PartyProcess(rank, launcher=place.launcher)) for rank in range(protocol.parties)
        ]
        addresses = place.connect([party.pid for party in parties])
        for party in parties:
            arrays = {**masks, **(weights if party.rank == SERVER else {})}
            party.join(program, protocol, addresses, arrays, timeout_s=timeout_s)
        answers(parties, timeout_s=timeout_s)
        yield parties


def choose_ports(count: int, given: Sequence[int] | None, *, host: str = HOST) -> list[int]:
    """The `given` ports of `host`, or so many free ones (0: any free one).

    Raises `UserError` for one in use or given twice, and for a wrong number of them.
    """
    if given is not None and len(given) != count:
        raise UserError(f"{len(given)} ports are given for {count} parties; give one for each")
    wanted = list(given) if given is not None else [0] * count
    twice = sorted({port for port in wanted if port and wanted.count(port) > 1})
    if twice:  # with SO_REUSEADDR it could be had twice, as long as nobody listens
        raise UserError(f"port {twice[0]} is given twice; give each party one of its own")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in wanted]
        for taken, port in zip(sockets, wanted, strict=True):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are over don't count
            try:
                taken.bind((host, port))
            except (OSError, OverflowError) as error:
                raise UserError(
                    f"port {port} can't be used ({error}); give another, or none for free ones"
                ) from error
        return [int(taken.getsockname()[1]) for taken in sockets]
