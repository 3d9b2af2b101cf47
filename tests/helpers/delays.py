"""Delay the messages between parties: each connects to the others through a proxy that holds bytes back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from deepreduce.private.lowering.lower import Lowered
from deepreduce.private.measuring import Answer, run_query
from deepreduce.private.parties.processes import HOST, PartyProcess, choose_ports, receive_answers
from deepreduce.private.protocol import SERVER, MpcProtocol

_PATIENCE = 240.0


def answers_over_delays(
    lowered: Lowered, image: torch.Tensor, *, protocol: MpcProtocol, one_way_s: Sequence[float]
) -> list[Answer]:
    """Return the answer to the image for each delay, by the same parties, after a query that warms them up."""
    ports = choose_ports(2 * protocol.parties, None)
    real, proxies = ports[: protocol.parties], ports[protocol.parties :]
    with ExitStack() as stack:
        link = stack.enter_context(_delaying(dict(zip(proxies, real, strict=True))))
        parties = [stack.enter_context(PartyProcess(rank)) for rank in range(protocol.parties)]
        for party in parties:
            reached = [real[rank] if rank == party.rank else proxies[rank] for rank in range(protocol.parties)]
            addresses = [f"{HOST}:{port}" for port in reached]
            party.prepare(lowered.program, protocol, lowered.masks, timeout_s=_PATIENCE)
            party.connect(addresses, lowered.weights if party.rank == SERVER else None, silent_s=_PATIENCE)
        receive_answers(parties, timeout_s=_PATIENCE)  # prepared
        receive_answers(parties, timeout_s=_PATIENCE)  # connected
        run_query(parties, image[None], timeout_s=_PATIENCE)
        answers = []
        for delay in one_way_s:
            link.one_way_s = delay
            answers.append(run_query(parties, image[None], timeout_s=_PATIENCE))
    return answers


class _Link:
    """Proxies whose delay may change while they run."""

    def __init__(self) -> None:
        self.one_way_s = 0.0

    async def serve(self, ports: dict[int, int], listening: threading.Event, stop: asyncio.Event) -> None:
        def accept(behind: int) -> object:
            async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._join(reader, writer, behind)

            return join

        servers = [await asyncio.start_server(accept(behind), HOST, port) for port, behind in ports.items()]
        listening.set()
        await stop.wait()
        for server in servers:
            server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            beyond_reader, beyond_writer = await asyncio.open_connection(HOST, port)
            with contextlib.closing(beyond_writer):
                await asyncio.gather(self._pump(reader, beyond_writer), self._pump(beyond_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward what arrives, each piece after the delay."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(due - time.monotonic(), 0))
                if not piece:
                    writer.close()
                    return
                writer.write(piece)
                await writer.drain()

        async def collect() -> None:
            piece = b"-"
            while piece:
                piece = await reader.read(2**20)
                pieces.put_nowait((time.monotonic() + self.one_way_s, piece))

        await asyncio.gather(deliver(), collect())


@contextmanager
def _delaying(ports: dict[int, int]) -> Iterator[_Link]:
    """Run proxies from each port to the port behind it."""
    link, listening, loops = _Link(), threading.Event(), []

    async def run() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await link.serve(ports, listening, stop)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert listening.wait(30)
    try:
        yield link
    finally:
        ((loop, stop),) = loops
        loop.call_soon_threadsafe(stop.set)
        thread.join()
