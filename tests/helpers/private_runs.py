"""Runs of a network of three layers under Cheetah, made up."""

from __future__ import annotations

from collections.abc import Sequence

from deepreduce.private.lowering.program import Program, ProgramLayer
from deepreduce.private.measuring import Answer, layer_costs, query_cost
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.result import Agreement, OverLink, PrivateRun
from deepreduce.private.spu.profile import LayerProfile

LAYERS = tuple(
    ProgramLayer(name=name, kind=kind, ops=(), inputs=(), weights=(), outputs=())
    for name, kind in (("conv", "convolution"), ("relu1", "relu"), ("relu2", "relu"))
)
PROGRAM = Program(network="toy", layers=LAYERS, shapes={}, image="image", logits="logits")
REFILL = 2_500
"""Messages of 8,000 bytes with which cheetah refills its oblivious transfers, now and then, in some layer."""


def answer(seconds: float, refilled: int | None) -> Answer:
    """Return a query in which the layer at index `refilled` had a refill."""

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


def run_of(answers: Sequence[Answer], *, over_link: OverLink | None = None) -> PrivateRun:
    """Return the run that these queries make."""
    cheetah = PROTOCOLS["cheetah"]
    return PrivateRun(
        network="toy",
        relu_count=1,
        protocol=cheetah,
        layers=tuple(layer_costs(PROGRAM, cheetah, answers)),
        queries=tuple(query_cost(PROGRAM, cheetah, answer) for answer in answers),
        setup_seconds=0.0,
        agreement=Agreement(images=1, same_argmax=1, max_abs_error=0.0, max_abs_logit=1.0),
        logits=((0.0,),),
        over_link=over_link,
    )
