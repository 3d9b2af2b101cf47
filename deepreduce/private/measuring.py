"""Measure a network under secure computation."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepreduce.cost.link import Link
from deepreduce.errors import UserError
from deepreduce.network import Network
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Array, Lowered, lower
from deepreduce.private.lowering.program import REVEAL, REVEALED, Program
from deepreduce.private.parties.link_shaping import ShapedLink
from deepreduce.private.parties.processes import Loopback, PartyProcess, Transport, answers, running_parties
from deepreduce.private.parties.wire import Message
from deepreduce.private.protocol import CLIENT, Protocol, protocol_named
from deepreduce.private.result import Agreement, LayerCost, OverLink, PrivateRun, Query, Spread
from deepreduce.private.spu.install import check_installed
from deepreduce.private.spu.profile import LayerProfile
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs


def measure(
    network: Network,
    images: Tensor,
    *,
    protocol: str = "cheetah",
    repeats: int = 3,
    ports: Sequence[int] | None = None,
    shaped: Link | None = None,
    cost: LayerCostFunction = macs,
    timeout_s: float = 600.0,
) -> PrivateRun:
    """What `network` costs under `protocol`, layer by layer, and its logits for `images` (N, C, H, W) under it.

    Each image is one query, in turn, and at least `repeats` queries are timed after a first one that is not; the
    parties are processes of their own that end with the call. `ports` are one for each party (None: free ones). The
    images are as the network takes them (standardised). `shaped` has as many queries timed again over that link,
    which the kernel then makes (`deepreduce.private.parties.link_shaping`). Linear regions are collapsed where that
    lowers `cost`, which prices one layer. Raises `UserError` for what can't be expressed and a link that can't be
    made, `RunError` where a party dies or a query takes more than `timeout_s` seconds.
    """
    chosen = protocol_named(protocol)
    check_installed()
    if not 0 < timeout_s < math.inf:
        raise UserError(f"timeout_s is {timeout_s!r}; give seconds, more than 0")
    if len(images) < 1 or tuple(images.shape[1:]) != network.input_shape or repeats < 1:
        raise UserError(
            f"images of shape {tuple(images.shape)} and {repeats} repeats are given; give {network.name} at least"
            f" one image of {network.input_shape} and one repeat"
        )
    slow = None if shaped is None else ShapedLink.made_here(shaped)
    lowered = lower(prepare(network, cost=cost))
    turns = [images[index % len(images)] for index in range(max(len(images), repeats))]
    setup_seconds, found = _asked(lowered, chosen, Loopback(ports=ports), turns, timeout_s=timeout_s)
    over_link = None
    if slow is not None:
        _, delayed = _asked(lowered, chosen, slow, turns, timeout_s=timeout_s)
        seconds = Spread.of([answer.seconds for answer in delayed])
        over_link = OverLink(link=slow.link, delays=slow.delays, seconds=seconds)
    logits = np.concatenate([answer.logits for answer in found[: len(images)]])
    return PrivateRun(
        network=network.name,
        relu_count=network.relu_count,
        protocol=chosen,
        layers=tuple(_layer_costs(lowered.program, chosen, found)),
        queries=tuple(_query_cost(lowered.program, chosen, answer) for answer in found),
        setup_seconds=setup_seconds,
        agreement=_agreement(network, images, logits),
        logits=tuple(tuple(float(value) for value in row) for row in logits),
        over_link=over_link,
    )


def _asked(
    lowered: Lowered, protocol: Protocol, place: Transport, images: Sequence[Tensor], *, timeout_s: float
) -> tuple[float, list[Answer]]:
    """Seconds until the first query is over, which is of the first image and not counted; and each image's answer."""
    begin = time.perf_counter()
    with running_parties(
        lowered.program, protocol, weights=lowered.weights, masks=lowered.masks, place=place, timeout_s=timeout_s
    ) as parties:
        ask(parties, images[0], timeout_s=timeout_s)
        setup_seconds = time.perf_counter() - begin
        return setup_seconds, [ask(parties, image, timeout_s=timeout_s) for image in images]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One query: the client's logits (1, classes), the wall seconds, and what each party saw of each layer."""

    logits: Array
    seconds: float
    profiles: tuple[tuple[LayerProfile, ...], ...]


def ask(parties: Sequence[PartyProcess], image: Tensor, *, timeout_s: float) -> Answer:
    """The logits of one image (C, H, W), which goes to the client's process alone."""
    begin = time.perf_counter()
    for party in parties:
        party.tell(query_of(image) if party.rank == CLIENT else Message(kind="query"))
    heard = answers(parties, timeout_s=timeout_s)
    return Answer(
        logits=heard[CLIENT].arrays["logits"],
        seconds=time.perf_counter() - begin,
        profiles=tuple(tuple(LayerProfile(**values) for values in message.values["profiles"]) for message in heard),
    )


def query_of(image: Tensor) -> Message:
    """What the client's process is told of an image (C, H, W): it holds images channels-last."""
    stored = image.detach().float().permute(1, 2, 0)[None].contiguous().cpu()
    return Message(kind="query", arrays={"image": stored.numpy()})


def _layer_costs(program: Program, protocol: Protocol, found: Sequence[Answer]) -> list[LayerCost]:
    costs = []
    for (name, kind), *seen in zip(_profiled(program), *(_by_layer(answer) for answer in found), strict=True):
        parts = [_part(each, kind, protocol) for each in seen]
        costs.append(
            LayerCost(
                name=name,
                kind=kind,
                seconds=Spread.of([part.seconds for part in parts]),
                bytes=statistics.median_low(part.bytes for part in parts),
                serial_bytes=statistics.median_low(part.serial_bytes for part in parts),
                sent_messages=statistics.median_low(part.sent_messages for part in parts),
                messages=statistics.median_low(part.messages for part in parts),
            )
        )
    return costs


def _query_cost(program: Program, protocol: Protocol, answer: Answer) -> Query:
    parts = [
        _part(each, kind, protocol) for (_, kind), each in zip(_profiled(program), _by_layer(answer), strict=True)
    ]
    return Query(
        seconds=answer.seconds,
        bytes=sum(part.bytes for part in parts),
        serial_bytes=sum(part.serial_bytes for part in parts),
        sent_messages=sum(part.sent_messages for part in parts),
        messages=sum(part.messages for part in parts),
    )


def _profiled(program: Program) -> list[tuple[str, str]]:
    """Name and kind of all that a query is profiled as: its layers, and the message that reveals the logits."""
    return [*((layer.name, layer.kind) for layer in program.layers), (REVEALED, REVEAL)]


def _by_layer(answer: Answer) -> Iterable[tuple[LayerProfile, ...]]:
    """What each party saw, layer by layer."""
    return zip(*answer.profiles, strict=True)


def _part(seen: Sequence[LayerProfile], kind: str, protocol: Protocol) -> Query:
    """One layer's part of a query; the parties wait for each other, so that the slowest tells the time."""
    return Query(
        seconds=max(profile.seconds for profile in seen),
        bytes=sum(profile.bytes_sent for profile in seen),
        serial_bytes=protocol.sequential_bytes([profile.bytes_sent for profile in seen], kind),
        sent_messages=sum(profile.messages_sent for profile in seen),
        messages=protocol.sequential_messages([profile.messages_sent for profile in seen], kind),
    )


def _agreement(network: Network, images: Tensor, logits: Array) -> Agreement:
    module = copy.deepcopy(network.module).cpu().float().eval()  # as it was given, before anything was made of it
    with torch.no_grad():
        expected = torch.cat([module(image[None].float().cpu()) for image in images]).numpy()  # (N, classes)
    return Agreement(
        images=len(images),
        same_argmax=int((expected.argmax(1) == logits.argmax(1)).sum()),
        max_abs_error=float(np.abs(expected - logits).max()),
        max_abs_logit=float(np.abs(expected).max()),
    )
