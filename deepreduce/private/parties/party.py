"""The process of one party: python -m deepreduce.private.parties.party, started by `processes`.

It communicates with its parent through one socket. It receives the program, which is public, and its own input: the
weights in the server's process, the images in the client's. When the socket closes, the process ends at once.
"""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING

from deepreduce.private.lowering.program import Program
from deepreduce.private.parties.link_tls import LinkTls
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
            if order.kind == "prepare":
                engine = _make_engine(order)
                answer = Message(kind="prepared")
            elif order.kind == "connect":
                assert engine is not None
                _connect(engine, order)
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


def _make_engine(order: Message) -> Engine:
    """Return the engine of a "prepare" order, with all layers compiled."""
    from deepreduce.private.spu.engine import Engine

    values = order.values
    program, protocol = Program.from_json(values["program"]), protocol_named(values["protocol"])
    return Engine(program, order.arrays, protocol, rank=values["rank"])


def _connect(engine: Engine, order: Message) -> None:
    """Connect the engine to the other parties', as a "connect" order says."""
    from deepreduce.private.spu.engine import EngineLink

    values = order.values
    tls = values["tls"]
    link = EngineLink(
        addresses=tuple(values["addresses"]),
        silent_s=values["silent_s"],
        tls=None if tls is None else LinkTls(**tls),
    )
    engine.connect(link, order.arrays if values["rank"] == SERVER else None)


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
