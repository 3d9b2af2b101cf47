"""Parties whose messages arrive late: each connects to the others through a proxy that holds bytes back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from deepreduce.network import Network
from deepreduce.private.bridge import lower
from deepreduce.private.graph import prepare
from deepreduce.private.measuring import ask
from deepreduce.private.processes import HOST, PartyProcess, answers, choose_ports
from deepreduce.private.protocol import PROTOCOLS, SERVER
from tests.private.small import images


def seconds_of_layers(network: Network, *, protocol: str, one_way_s: float) -> list[float]:
    """Seconds of each layer of a second query over links with such a delay, as the slowest party saw it."""
    chosen = PROTOCOLS[protocol]
    lowered = lower(prepare(network))
    real, proxies = choose_ports(chosen.parties, None), choose_ports(chosen.parties, None)
    with ExitStack() as stack:
        stack.enter_context(_proxies(dict(zip(proxies, real, strict=True)), one_way_s))
        parties = [stack.enter_context(PartyProcess(rank)) for rank in range(chosen.parties)]
        for party in parties:
            ports = [real[rank] if rank == party.rank else proxies[rank] for rank in range(chosen.parties)]
            arrays = {**lowered.masks, **(lowered.weights if party.rank == SERVER else {})}
            party.join(lowered.program, chosen, [f"{HOST}:{port}" for port in ports], arrays, timeout_s=60)
        answers(parties, timeout_s=60)
        ask(parties, images(1, network)[0], timeout_s=120)
        answer = ask(parties, images(1, network)[0], timeout_s=120)
        return [max(profile.seconds for profile in each) for each in zip(*answer.profiles, strict=True)]


@contextmanager
def _proxies(ports: dict[int, int], one_way_s: float) -> Iterator[None]:
    loop = asyncio.new_event_loop()

    async def listen() -> None:
        for port, behind in ports.items():
            await asyncio.start_server(lambda r, w, behind=behind: _join(r, w, behind, one_way_s), HOST, port)

    loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
        loop.close()


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, one_way_s: float) -> None:
    with contextlib.suppress(OSError):
        beyond_reader, beyond_writer = await asyncio.open_connection(HOST, port)
        await asyncio.gather(
            _pump(reader, beyond_writer, one_way_s), _pump(beyond_reader, writer, one_way_s), return_exceptions=True
        )


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, one_way_s: float) -> None:
    """Hand on what comes, each piece `one_way_s` after it came."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(due - time.monotonic(), 0))
            writer.write(piece)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    while piece := await reader.read(2**20):
        pieces.put_nowait((time.monotonic() + one_way_s, piece))
    delivering.cancel()
