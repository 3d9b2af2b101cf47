"""Candidates to tabulate and draw, with made-up accuracies."""

from __future__ import annotations

import random
from dataclasses import replace

from deepreduce.candidate import TEACHER_ID, Candidate, Measurement
from deepreduce.cost.price import KINDS, CostEstimate, Share
from deepreduce.plan import ReductionPlan


def candidate(
    relu_count: int, test_accuracy: float, label: str = "cull S1", *, plan_id: str, val_accuracy: float | None = None
) -> Candidate:
    return Candidate(
        plan_id=plan_id,
        plan=ReductionPlan(),
        label=label,
        relu_count=relu_count,
        folder=f"candidates/{plan_id}",
        measurement=Measurement(
            relu_count=relu_count,
            stage_relu_counts={"S1": relu_count},
            macs=1_000_000,
            val_accuracy=test_accuracy if val_accuracy is None else val_accuracy,
            test_accuracy=test_accuracy,
            churn=0.1,
            train_seconds=12.3,
        ),
    )


def teacher(relu_count: int = 557_056, test_accuracy: float = 0.76) -> Candidate:
    return candidate(relu_count, test_accuracy, "full network", plan_id=TEACHER_ID)


def priced(network: Candidate, preset: str, price: CostEstimate) -> Candidate:
    return replace(network, prices={**network.prices, preset: price})


def random_price(seed: int) -> CostEstimate:
    draw = random.Random(seed)
    return CostEstimate.of(
        [
            Share(
                kind=kind,
                compute_seconds=10 ** draw.uniform(-4, 2),
                sending_seconds=10 ** draw.uniform(-4, 1),
                waiting_seconds=draw.choice([0.0, 10 ** draw.uniform(-4, 1)]),
                online_bytes=10 ** draw.uniform(3, 10),
                rounds=draw.randint(0, 400) / 2,
                offline_seconds=draw.choice([0.0, 10 ** draw.uniform(-4, 3)]),
                offline_bytes=draw.choice([0.0, 10 ** draw.uniform(3, 11)]),
            )
            for kind in KINDS
        ]
    )


def failed(plan_id: str = "broken", *, failure: str = "the loss is not finite") -> Candidate:
    return Candidate(
        plan_id=plan_id,
        plan=ReductionPlan(alpha=0.5),
        label="cull S1, alpha 0.5",
        relu_count=1000,
        folder=f"candidates/{plan_id}",
        failure=failure,
    )


def random_run(seed: int, *, size: int) -> list[Candidate]:
    """A teacher and `size` reductions of it, as a run of the method makes them: half of them crowd together."""
    draw = random.Random(seed)
    full = 10 ** draw.uniform(4, 6.3)
    found = [teacher(round(full), draw.uniform(0.5, 0.99))]
    fewer = 1.0
    for i in range(size):
        fewer *= draw.choice([1.02, 1.1, 1.3, 2.0])
        parts = [f"cull {' '.join(draw.sample(['S1', 'S2', 'S3', 'S4'], draw.randint(1, 3)))}"]
        parts += [part for part in ("thin", "thin (keep last)", "alpha 0.5", "rho 0.5") if draw.random() < 0.4]
        loss = draw.choice([0.0, 0.01, 0.05]) * draw.random() + 0.03 * i / size
        accuracy = max((found[0].measurement.test_accuracy if found[0].measurement else 0.0) - loss, 0.0)
        found.append(candidate(round(full / fewer), accuracy, ", ".join(parts), plan_id=f"plan{i}"))
    if draw.random() < 0.3:
        found.append(candidate(0, draw.uniform(0.1, 0.5), "cull S1 S2 S3 S4", plan_id="linear"))
    return found
