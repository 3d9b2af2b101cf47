"""A party's process: python -m deepreduce.private.parties.party DESCRIPTOR, started by `processes`.

It communicates with its parent through one socket. It receives the program, which is public, and its own input: the
weights in the server's process, the images in the client's. When the socket closes, the process ends at once.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from deepreduce.private.lowering.program import Program
from deepreduce.private.parties.wire import ClosedError, Message, receive, send
from deepreduce.private.protocol import SERVER, protocol_named

if TYPE_CHECKING:
    from deepreduce.private.spu.engine import Engine


def main(descriptor: int) -> None:
    """Do what comes through the socket until it closes."""
    channel = socket.socket(fileno=descriptor)
    orders: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=_listen, args=(channel, orders), daemon=True).start()
    engine: Engine | None = None
    while True:
        order = orders.get()
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


def _listen(channel: socket.socket, orders: queue.Queue[Message]) -> None:
    """Hand on what comes. The end of the channel ends this process at once, in the middle of a computation too."""
    try:
        while True:
            orders.put(receive(channel))
    except ClosedError:
        os.kill(os.getpid(), signal.SIGKILL)


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
"""What the engine prints before a reason: a word, and a line of its source code."""
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
    main(int(sys.argv[1]))
