"""Describe what server and client exchange before the first query: what is served, and where their engines listen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from deepreduce.data import Standardisation
from deepreduce.errors import RunError, UserError
from deepreduce.private.lowering.program import Program
from deepreduce.private.parties.wire import Message
from deepreduce.private.protocol import MpcProtocol, protocol_named
from deepreduce.utils.printable import printable

Array = NDArray[Any]

VERSION = 3
"""Version of the messages; both sides must have the same."""
HANDSHAKE_S = 20.0
"""Seconds that connecting may take, TLS included, and each message of the handshake."""

NO_SERVER = "this address does not answer like a 'deepreduce private serve' of this version"


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """Public facts that a server sends to every client that connects.

    `link_tls` says whether the engines' link is under TLS too.
    """

    protocol: MpcProtocol
    program: Program
    masks: Mapping[str, Array]
    input_shape: tuple[int, int, int]
    standardisation: Standardisation | None
    link_tls: bool = False

    def to_message(self) -> Message:
        """Return the message that `from_message` reads."""
        scale = self.standardisation
        values = {
            "protocol": self.protocol.name,
            "program": self.program.to_json(),
            "input_shape": list(self.input_shape),
            "standardisation": None if scale is None else {"mean": list(scale.mean), "std": list(scale.std)},
            "link_tls": self.link_tls,
        }
        return Message(kind="server", values=values, arrays=self.masks)

    @classmethod
    def from_message(cls, message: Message) -> ServerInfo:
        """Read the message of an untrusted server. Raises `RunError` if it is no `ServerInfo`."""
        try:
            values = message.values
            if message.kind != "server":
                raise ValueError(message.kind)
            channels, height, width = (int(n) for n in values["input_shape"])
            program = Program.from_json(values["program"])
            if program.batch < 1 or program.shapes[program.image] != (program.batch, height, width, channels):
                raise ValueError(program.shapes[program.image])
            scale = values["standardisation"]
            return cls(
                protocol=protocol_named(values["protocol"]),
                program=program,
                masks=message.arrays,
                input_shape=(channels, height, width),
                standardisation=None
                if scale is None
                else Standardisation(mean=_floats(scale["mean"], channels), std=_floats(scale["std"], channels)),
                link_tls=_is_true(values["link_tls"]),
            )
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
            RecursionError,
            UserError,
        ) as error:
            raise RunError(NO_SERVER) from error


def _floats(values: Any, count: int) -> tuple[float, ...]:
    floats = tuple(float(value) for value in values)
    if len(floats) != count:
        raise ValueError(values)
    return floats


def _is_true(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(value)
    return value


def hello_message(batch: int = 1) -> Message:
    """Return a client's first message, which tells the server the version and the number of images of a query."""
    return Message(kind="hello", values={"version": VERSION, "batch": batch})


def read_hello(message: Message) -> int | None:
    """Return the batch of an untrusted sender's `hello_message` of this version; None for any other message."""
    batch = message.values.get("batch")
    is_hello = message.kind == "hello" and message.values.get("version") == VERSION
    return batch if is_hello and type(batch) is int and 0 < batch < 2**16 else None


def lowering_message() -> Message:
    """Return the message that tells a client that the server lowers its network for the client's batch first."""
    return Message(kind="lowering")


def refusal_message(reason: str) -> Message:
    """Return the message that tells a client why its batch is refused."""
    return Message(kind="refused", values={"reason": reason})


def read_refusal(message: Message) -> str | None:
    """Return the reason of a `refusal_message` from an untrusted sender; None for any other message."""
    reason = message.values.get("reason")
    return printable(reason)[:200] if message.kind == "refused" and type(reason) is str else None


def wait_message(ahead: int) -> Message:
    """Return the message that tells a client how many come before it."""
    return Message(kind="wait", values={"ahead": ahead})


def read_wait(message: Message) -> int | None:
    """Return the number of a `wait_message` from an untrusted sender; None for any other message."""
    ahead = message.values.get("ahead")
    return ahead if message.kind == "wait" and type(ahead) is int and 0 <= ahead < 2**16 else None


def port_message(port: int) -> Message:
    """Return the message that names the port at which the sender's engine listens."""
    return Message(kind="port", values={"port": port})


def read_port(message: Message) -> int | None:
    """Return the port of a `port_message` from an untrusted sender; None for any other message."""
    port = message.values.get("port")
    return port if message.kind == "port" and type(port) is int and 0 < port < 2**16 else None


def two_party_protocol(name: str) -> MpcProtocol:
    """Return the protocol of that name. Raises `UserError` for an unknown one and one of more than two parties."""
    protocol = protocol_named(name)
    if protocol.parties != 2:
        raise UserError(
            f"{name} needs {protocol.parties} parties, but serve and query are two; give cheetah or semi2k"
        )
    return protocol
