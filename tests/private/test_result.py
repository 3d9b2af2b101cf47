"""What is told of several queries: each counts as a whole, though its layers vary."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import pytest

from deepreduce.cost.link import LINKS
from deepreduce.private.lowering.program import Layer, Program
from deepreduce.private.measuring import Answer, _layer_costs, _query_cost
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.result import Agreement, PrivateRun
from deepreduce.private.spu.profile import LayerProfile

LAYERS = tuple(
    Layer(name=name, kind=kind, ops=(), inputs=(), weights=(), outputs=())
    for name, kind in (("conv", "convolution"), ("relu1", "relu"), ("relu2", "relu"))
)
PROGRAM = Program(network="toy", layers=LAYERS, shapes={}, image="image", logits="logits")
REFILL = 2_500
"""Messages of 8,000 bytes by which cheetah refills its oblivious transfers, now and then, in some layer."""


def answer(seconds: float, refilled: int | None) -> Answer:
    """A query in which the layer at that place had a refill."""

    def profiles() -> tuple[LayerProfile, ...]:
        messages = [2, 10, 10, 1]
        if refilled is not None:
            messages[refilled] += REFILL
        names = [*(layer.name for layer in LAYERS), "logits"]
        return tuple(
            LayerProfile(name=name, seconds=0.1, bytes_sent=8_000 * count, messages_sent=count)
            for name, count in zip(names, messages, strict=True)
        )

    return Answer(logits=None, seconds=seconds, profiles=(profiles(), profiles()))  # type: ignore[arg-type]


def run_of(answers: Sequence[Answer]) -> PrivateRun:
    cheetah = PROTOCOLS["cheetah"]
    return PrivateRun(
        network="toy",
        relu_count=1,
        protocol=cheetah,
        layers=tuple(_layer_costs(PROGRAM, cheetah, answers)),
        queries=tuple(_query_cost(PROGRAM, cheetah, answer) for answer in answers),
        setup_seconds=0.0,
        agreement=Agreement(images=1, same_argmax=1, max_abs_error=0.0, max_abs_logit=1.0),
        logits=((0.0,),),
    )


def test_a_refill_in_another_layer_each_time_is_part_of_every_query() -> None:
    found = run_of([answer(2.0, 0), answer(3.0, 1), answer(4.0, 2)])
    assert found.bytes == 2 * 8_000 * (23 + REFILL)  # both parties send all of it
    assert sum(layer.bytes for layer in found.layers) == 2 * 8_000 * 23
    assert {query.sent_messages for query in found.queries} == {2 * (23 + REFILL)}
    # under cheetah a convolution's bytes take turns, a ReLU's go both ways at once
    assert [query.serial_bytes for query in found.queries] == [
        8_000 * (25 + 2 * REFILL), 8_000 * (25 + REFILL), 8_000 * (25 + REFILL)
    ]  # fmt: skip
    assert found.seconds.median == 3.0
    assert f"{found.bytes:,} bytes" in found.to_text(LINKS["loopback"])


def test_under_cheetah_a_link_delays_a_layer_as_often_however_large_it_is() -> None:
    found = run_of([answer(2.0, None), answer(2.0, 1)])
    assert [layer.messages for layer in found.layers] == [4, 22, 22, 1]
    assert {query.messages for query in found.queries} == {49}
    semi2k = PROTOCOLS["semi2k"]
    assert semi2k.sequential_messages([8, 7], "relu") == 8  # as the engine counts them
    assert PROTOCOLS["cheetah"].sequential_messages([0, 0], "relu") == 0
    assert PROTOCOLS["cheetah"].sequential_messages([80, 80], "max_pool") == 80  # at most so many


def test_seconds_over_a_link_are_those_of_whole_queries() -> None:
    found = run_of([answer(2.0, None), answer(9.0, None), answer(3.0, 1)])
    wan = [
        seconds + 8 * 8_000 * (25 + refill) / 400e6 + 49 * 0.02
        for seconds, refill in ((2.0, 0), (9.0, 0), (3.0, REFILL))
    ]
    assert found.seconds_over(LINKS["wan"]) == pytest.approx(sorted(wan)[1])


def test_every_row_of_the_table_says_under_which_protocol_it_was_measured() -> None:
    rows = list(csv.DictReader(io.StringIO(run_of([answer(1.0, None)]).to_csv())))
    assert [row["name"] for row in rows] == ["conv", "relu1", "relu2", "logits"]
    assert {row["protocol"] for row in rows} == {"cheetah (two parties, no dealer)"}
