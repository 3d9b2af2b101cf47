"""The process of one party: python -m deepreduce.private.parties.party, started by `processes`.

It communicates with its parent through one socket. It receives the program, which is public, and its own input: the
weights in the server's process, the images in the client's. When the socket closes, the process ends at once.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from deepreduce.private.lowering.program import Program
from deepreduce.private.parties.wire import Message, receive, send
from deepreduce.private.protocol import SERVER, protocol_named
from deepreduce.utils.child_process import connect_to_parent

if TYPE_CHECKING:
    from deepreduce.private.spu.engine import Engine


def main() -> None:
    """Do what the process that started this one asks through the channel, until it closes."""
    channel = connect_to_parent()
    engine: Engine | None = None
    while True:
        order = receive(channel)
        try:
            if order.kind == "join":
                engine = _connect_engine(order)
                answer = Message(kind="ready")
            elif order.kind == "query":
                assert engine is not None
                profiles, logits = engine.query(order.arrays.get("image"))
                answer = Message(
                    kind="answer",
                    values={"profiles": [profile.to_json() for profile in profiles]},
                    arrays={} if logits is None else {"logits": logits},
                )
            else:
                raise AssertionError(order.kind)
        except Exception as error:  # the engine's, of any type: the parent reports it
            traceback.print_exc()  # to this process's own log
            answer = Message(kind="failed", values={"reason": explain_error(error, order)})
        send(channel, answer)


def _connect_engine(order: Message) -> Engine:
    """Build the engine of a "join" order and connect it to the other parties'."""
    from deepreduce.private.spu.engine import Engine, PartyAddress

    values = order.values
    address = PartyAddress(rank=values["rank"], addresses=tuple(values["addresses"]), timeout_s=values["timeout_s"])
    program = Program.from_json(values["program"])
    arrays = dict(order.arrays)
    weights = {name: arrays.pop(name) for name in program.weights} if address.rank == SERVER else None
    engine = Engine(program, arrays, protocol_named(values["protocol"]), address, Path(values["log"]))
    engine.connect(weights)
    return engine


_PREFIX = re.compile(r"(what:)?\s*(\[[^\]]*:\d+\])?")
"""Prefix of the engine's messages: a word, and a line of its source code."""
_CANT_LISTEN, _SILENT = "server failed start", "Get data timeout"


def explain_error(error: Exception, order: Message) -> str:
    """Return the engine's error as one line, with the repair if the error is a known one."""
    lines = [re.sub(_PREFIX, "", line.strip(), count=1).strip() for line in str(error).splitlines()]
    line = next((line for line in lines if line), type(error).__name__)[:200]
    if _CANT_LISTEN in line:
        (_, port) = order.values["addresses"][order.values["rank"]].rsplit(":", 1)
        return f"port {port} can't be used ({line}); give another, or none for free ones"
    if _SILENT in line:
        return f"another party was silent for too long ({line}); give a longer timeout"
    return line


if __name__ == "__main__":
    main()
