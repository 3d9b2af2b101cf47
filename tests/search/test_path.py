"""Networks are trained in an order in which each can start as the nearest one before it."""

from __future__ import annotations

from deepreduce.methods.proposal import Proposal
from deepreduce.plan import ReductionPlan
from deepreduce.search.path import in_order, levels, parents
from deepreduce.sites import ChannelMask
from deepreduce.transforms import can_warm_start, cull_plan, reshape_plan
from tests.helpers.zoo import TOYS

BASIC = TOYS["basic"].network()


def proposed(plan: ReductionPlan, label: str) -> Proposal:
    return Proposal.of(BASIC, plan, label)


def example() -> list[Proposal]:
    stages = BASIC.stages
    half = reshape_plan(alpha=0.5)
    site = next(s for s in BASIC.sites if s.stage == stages[1])
    mask = ReductionPlan(sites={site.name: ChannelMask.of([n % 2 == 0 for n in range(site.shape[0])])})
    return [
        proposed(cull_plan(BASIC, stages[:1]), "one"),
        proposed(cull_plan(BASIC, stages[:1]).merge(mask), "one, masked"),
        proposed(cull_plan(BASIC, stages[:1]).merge(half), "one, half"),
        proposed(cull_plan(BASIC, stages[1:2]), "other"),
        proposed(cull_plan(BASIC, stages[:2]), "both"),
        proposed(cull_plan(BASIC, stages[:2]).merge(half), "both, half"),
    ]


def labels(found: dict[Proposal, Proposal | None]) -> dict[str, str | None]:
    return {p.label: None if parent is None else parent.label for p, parent in found.items()}


def test_each_starts_as_the_last_one_before_it_that_has_all_it_needs() -> None:
    ordered = in_order(example(), lambda p: p.relu_count)
    found = dict(parents(ordered))
    assert list(found) == ordered
    assert labels(found) | {"both": "?"} == {
        "one": None, "other": None, "one, masked": "one", "one, half": "one", "both": "?", "both, half": "one, half",
    }  # fmt: skip
    # the mask lies in the stage that is culled next: it keeps no ReLU that the network would need
    possible = [p for p in ordered if p.label in ("one", "one, masked", "other")]
    assert labels(found)["both"] == max(possible, key=ordered.index).label


def test_parents_come_first_have_what_is_needed_and_are_those_of_any_order_of_the_proposals() -> None:
    for networks in (example(), example()[::-1]):
        ordered = in_order(networks, lambda p: p.relu_count)
        found = parents(ordered)
        for number, (proposal, parent) in enumerate(found.items()):
            if parent is not None:
                assert parent in ordered[:number] and can_warm_start(proposal.plan, parent.plan)
            else:
                assert not any(can_warm_start(proposal.plan, p.plan) for p in ordered[:number])
        assert labels(dict(found)) == labels(dict(parents(in_order(example(), lambda p: p.relu_count))))


def test_levels_hold_every_network_once_after_its_parent() -> None:
    found = parents(in_order(example(), lambda p: p.relu_count))
    groups = levels(found)
    assert sorted(p.label for group in groups for p in group) == sorted(p.label for p in found)
    done: set[Proposal] = set()
    for group in groups:
        assert group and all(found[p] is None or found[p] in done for p in group)
        # none could have been trained earlier
        assert all(found[p] is None for p in group) or all(found[p] in groups[groups.index(group) - 1] for p in group)
        done |= set(group)
    assert levels({}) == []
