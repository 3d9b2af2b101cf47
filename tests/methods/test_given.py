"""Method given: it proposes the networks that it is given, and trains nothing of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deepreduce.cost.objective import COUNT_OF_RELUS, Limits
from deepreduce.errors import PlanError, UserError
from deepreduce.methods.base import EarlierNetwork, run_search
from deepreduce.methods.given import Given, GivenOptions
from deepreduce.methods.proposal import Proposals
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, cull_plan, thin_plan
from tests.helpers.zoo import TOYS
from tests.methods.test_base import CONTEXT

BASIC = TOYS["basic"].network()
CULL, THIN = cull_plan(BASIC, ["S1"]), thin_plan(BASIC)
RUNS = {"run": {"culled": CULL, "thinned": THIN}, "network": {"again": CULL}}


def earlier(folder: str) -> list[EarlierNetwork]:
    if folder not in RUNS:
        raise UserError(f"{folder} holds neither")
    return [
        EarlierNetwork(
            folder=folder, label=label, plan=plan, relu_count=apply_plan(BASIC, plan).relu_count, val_accuracy=0.5,
            model_name=BASIC.name, input_shape=BASIC.input_shape, digest="",
        )
        for label, plan in RUNS[folder].items()
    ]  # fmt: skip


def proposed(max_relus: int | None = None, **options: Any) -> Proposals:
    limits = Limits(max_relus=max_relus, max_cost=None, objective=COUNT_OF_RELUS)
    context = replace(CONTEXT, earlier=earlier, limits=limits)
    return run_search(Given().search(BASIC, GivenOptions(**options), context), pytest.fail)


def test_every_network_of_the_folders_is_proposed_once_most_relus_first() -> None:
    found = proposed(of="run,network").networks
    assert {p.plan_id for p in found} == {CULL.plan_id, THIN.plan_id}
    assert [p.relu_count for p in found] == sorted(
        (apply_plan(BASIC, p).relu_count for p in (CULL, THIN)), reverse=True
    )


def test_ids_choose_from_the_folders_and_plans_come_on_top() -> None:
    narrow = ReductionPlan(alpha=0.5)
    found = proposed(of=("run",), ids=THIN.plan_id, plans=(narrow.to_json(),)).networks
    assert {p.plan for p in found} == {THIN, narrow}


def test_networks_beyond_the_limit_are_left_out() -> None:
    counts = sorted(p.relu_count for p in proposed(of="run").networks)
    assert [p.relu_count for p in proposed(of="run", max_relus=counts[0]).networks] == counts[:1]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, PlanError, "method given has no network; give method.of"),
        ({"of": "nowhere"}, UserError, "nowhere holds neither"),
        ({"of": "run", "ids": "0123456789"}, PlanError, "unknown plan_id '0123456789'"),
        ({"plans": ({"sites": {"nothing": "identity"}},)}, PlanError, "nothing"),
        ({"plans": ({"alhpa": 0.5},)}, PlanError, "alhpa"),
    ],
)
def test_what_is_no_network_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        proposed(**options)
