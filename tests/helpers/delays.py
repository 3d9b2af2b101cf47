"""Parties whose messages arrive late: each connects to the others through a proxy that holds bytes back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from deepreduce.network import Network
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import lower
from deepreduce.private.measuring import run_query
from deepreduce.private.parties.processes import HOST, PartyProcess, choose_ports, receive_answers
from deepreduce.private.protocol import PROTOCOLS, SERVER
from tests.helpers.private_networks import images

_PATIENCE = 240.0


def seconds_over_delays(network: Network, *, protocol: str, one_way_s: Sequence[float]) -> list[list[float]]:
    """Seconds of each layer of a query, as the slowest party saw it, for each of the delays."""
    chosen = PROTOCOLS[protocol]
    lowered = lower(prepare(network))
    image = images(1, network)[0]
    ports = choose_ports(2 * chosen.parties, None)
    real, proxies = ports[: chosen.parties], ports[chosen.parties :]
    with ExitStack() as stack:
        link = stack.enter_context(_delaying(dict(zip(proxies, real, strict=True))))
        parties = [stack.enter_context(PartyProcess(rank)) for rank in range(chosen.parties)]
        for party in parties:
            reached = [real[rank] if rank == party.rank else proxies[rank] for rank in range(chosen.parties)]
            arrays = {**lowered.masks, **(lowered.weights if party.rank == SERVER else {})}
            addresses = [f"{HOST}:{port}" for port in reached]
            party.join(lowered.program, chosen, addresses, arrays, timeout_s=_PATIENCE)
        receive_answers(parties, timeout_s=_PATIENCE)
        run_query(parties, image, timeout_s=_PATIENCE)
        found = []
        for delay in one_way_s:
            link.one_way_s = delay
            answer = run_query(parties, image, timeout_s=_PATIENCE)
            found.append([max(p.seconds for p in each) for each in zip(*answer.profiles, strict=True)])
    return found


class _Link:
    """Proxies with a delay that may change while they work."""

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
        """Hand on what comes, each piece so much later than it came."""
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
    """Proxies that lead from each of the ports to the one behind it."""
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
