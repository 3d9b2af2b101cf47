"""Measure a network under secure computation."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepreduce.cost.layers import REVEAL
from deepreduce.cost.link import Link
from deepreduce.errors import UserError
from deepreduce.network import Network
from deepreduce.network.copying import copy_module
from deepreduce.private.approximations import approximated
from deepreduce.private.batches import batches_of, check_batch_of, check_query_fits
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Array, Lowered, lower
from deepreduce.private.lowering.program import REVEALED, Program
from deepreduce.private.parties.link_shaping import ShapedLink
from deepreduce.private.parties.processes import Loopback, PartyProcess, Transport, receive_answers, running_parties
from deepreduce.private.parties.wire import Message
from deepreduce.private.protocol import CLIENT, MpcProtocol, protocol_named
from deepreduce.private.result import Agreement, LayerCost, OverLink, PrivateRun, Query, Spread
from deepreduce.private.spu.install import check_installed
from deepreduce.private.spu.profile import LayerProfile
from deepreduce.private.tables import COUNTS
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs


def measure(
    network: Network,
    images: Tensor,
    *,
    protocol: str = "cheetah",
    repeats: int = 3,
    batch: int = 1,
    ports: Sequence[int] | None = None,
    shaped: Link | None = None,
    cost: LayerCostFunction = macs,
    timeout_s: float = 600.0,
) -> PrivateRun:
    """Return the cost of `network` under `protocol`, layer by layer, and its logits for `images` (N, C, H, W).

    The images are standardised, as the network takes them. A query is one of `batch` images, and the last is filled
    up with zeros (`deepreduce.private.batches`); at least `repeats` queries are timed, after one that is not. Every
    party is a process that ends with the call. `ports` holds one port per party (None: free ones). With `shaped`, the
    same queries are timed again over that link, shaped by the kernel (`deepreduce.private.parties.link_shaping`).
    Linear regions are collapsed where that lowers `cost`, the cost of a layer. Raises `UserError` for a network that
    can't be lowered, a link that can't be shaped, and a batch that the images don't fill or that exceeds the free
    memory, and `RunError` if a party dies or a query takes more than `timeout_s` seconds.
    """
    chosen = protocol_named(protocol)
    check_installed()
    _check_arguments(network, images, repeats=repeats, timeout_s=timeout_s)
    check_batch_of(len(images), batch)
    slow = None if shaped is None else ShapedLink.on_this_machine(shaped)
    lowered = lower(prepare(network, cost=cost), batch=batch, cost=cost)
    check_query_fits(lowered.program, batch, parties=chosen.parties)
    batches = batches_of(images, batch)
    turns = [batches[index % len(batches)] for index in range(max(len(batches), repeats))]
    setup_seconds, answers = _run_queries(lowered, chosen, Loopback(ports=ports), turns, timeout_s=timeout_s)
    over_link = None
    if slow is not None:
        _, delayed = _run_queries(lowered, chosen, slow, turns, timeout_s=timeout_s)
        seconds = Spread.of([answer.seconds for answer in delayed])
        over_link = OverLink(link=slow.link, delays=slow.delays, seconds=seconds)
    logits = np.concatenate([answer.logits for answer in answers[: len(batches)]])[: len(images)]  # (N, classes)
    return PrivateRun(
        network=network.name,
        relu_count=network.relu_count,
        protocol=chosen,
        layers=tuple(layer_costs(lowered.program, chosen, answers)),
        queries=tuple(query_cost(lowered.program, chosen, answer) for answer in answers),
        setup_seconds=setup_seconds,
        agreement=_agreement(network, images, logits),
        logits=tuple(tuple(float(value) for value in row) for row in logits),
        over_link=over_link,
        approximations=approximated(lowered.program),
        batch=batch,
    )


def _check_arguments(network: Network, images: Tensor, *, repeats: int, timeout_s: float) -> None:
    if not 0 < timeout_s < math.inf:
        raise UserError(f"timeout_s is {timeout_s!r}; give seconds, more than 0")
    if len(images) < 1 or tuple(images.shape[1:]) != network.input_shape or repeats < 1:
        raise UserError(
            f"images of shape {tuple(images.shape)} and {repeats} repeats are given; give {network.name} at least"
            f" one image of {network.input_shape} and one repeat"
        )


def _run_queries(
    lowered: Lowered, protocol: MpcProtocol, transport: Transport, batches: Sequence[Tensor], *, timeout_s: float
) -> tuple[float, list[Answer]]:
    """Return the seconds of setup, which include an extra query of the first batch, and the answer for each batch."""
    begin = time.perf_counter()
    with running_parties(
        lowered.program,
        protocol,
        weights=lowered.weights,
        masks=lowered.masks,
        transport=transport,
        timeout_s=timeout_s,
    ) as parties:
        run_query(parties, batches[0], timeout_s=timeout_s)
        setup_seconds = time.perf_counter() - begin
        return setup_seconds, [run_query(parties, images, timeout_s=timeout_s) for images in batches]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outcome of one query: the client's logits (N, classes), wall seconds, and each party's layer profiles."""

    logits: Array
    seconds: float
    profiles: tuple[tuple[LayerProfile, ...], ...]


def run_query(parties: Sequence[PartyProcess], images: Tensor, *, timeout_s: float) -> Answer:
    """Compute the logits of a batch (N, C, H, W), which only the client's process receives."""
    begin = time.perf_counter()
    for party in parties:
        party.send(query_message(images) if party.rank == CLIENT else Message(kind="query"))
    messages = receive_answers(parties, timeout_s=timeout_s)
    return Answer(
        logits=messages[CLIENT].arrays["logits"],
        seconds=time.perf_counter() - begin,
        profiles=tuple(
            tuple(LayerProfile(**values) for values in message.values["profiles"]) for message in messages
        ),
    )


def query_message(images: Tensor) -> Message:
    """Return the message that gives the client's process a batch (N, C, H, W); it is sent channels-last."""
    stored = images.detach().float().permute(0, 2, 3, 1).contiguous().cpu()  # (N, H, W, C)
    return Message(kind="query", arrays={"image": stored.numpy()})


def layer_costs(program: Program, protocol: MpcProtocol, answers: Sequence[Answer]) -> list[LayerCost]:
    """Return the cost of each layer: medians over the answers."""
    costs = []
    by_layer = zip(_profiled_layers(program), *(_profiles_by_layer(answer) for answer in answers), strict=True)
    for (name, kind), *profiles in by_layer:
        parts = [_part_of_query(each, kind, protocol) for each in profiles]
        counts = {count: statistics.median_low(getattr(part, count) for part in parts) for count in COUNTS}
        costs.append(LayerCost(name=name, kind=kind, seconds=Spread.of([part.seconds for part in parts]), **counts))
    return costs


def query_cost(program: Program, protocol: MpcProtocol, answer: Answer) -> Query:
    """Return the cost of one query: its own seconds, and the sums over its layers."""
    by_layer = zip(_profiled_layers(program), _profiles_by_layer(answer), strict=True)
    parts = [_part_of_query(profiles, kind, protocol) for (_, kind), profiles in by_layer]
    return Query(seconds=answer.seconds, **{count: sum(getattr(part, count) for part in parts) for count in COUNTS})


def _profiled_layers(program: Program) -> list[tuple[str, str]]:
    """Return name and kind of what a query's profile lists: the layers, and the message that reveals the logits."""
    return [*((layer.name, layer.kind) for layer in program.layers), (REVEALED, REVEAL)]


def _profiles_by_layer(answer: Answer) -> Iterable[tuple[LayerProfile, ...]]:
    """Yield the profiles of each layer, one per party."""
    return zip(*answer.profiles, strict=True)


def _part_of_query(profiles: Sequence[LayerProfile], kind: str, protocol: MpcProtocol) -> Query:
    """Return one layer's part of a query; parties wait for each other, so the slowest one's time counts."""
    return Query(
        seconds=max(profile.seconds for profile in profiles),
        bytes=sum(profile.bytes_sent for profile in profiles),
        serial_bytes=protocol.sequential_bytes([profile.bytes_sent for profile in profiles], kind),
        sent_messages=sum(profile.messages_sent for profile in profiles),
        messages=protocol.sequential_messages([profile.messages_sent for profile in profiles], kind),
    )


def _agreement(network: Network, images: Tensor, logits: Array) -> Agreement:
    module = copy_module(network.module).cpu().float().eval()  # the given network, neither prepared nor collapsed
    with torch.no_grad():
        expected = torch.cat([module(image[None].float().cpu()) for image in images]).numpy()  # (N, classes)
    return Agreement(
        images=len(images),
        same_argmax=int((expected.argmax(1) == logits.argmax(1)).sum()),
        max_abs_error=float(np.abs(expected - logits).max()),
        max_abs_logit=float(np.abs(expected).max()),
    )
