"""Keep leaves a site as it is, and a plan leaves it out."""

from __future__ import annotations

from deepreduce.plan import ReductionPlan
from deepreduce.sites import KEEP, Keep, action_of, rewrite_sites
from tests.helpers.zoo import TOYS


def test_it_is_written_as_one_word() -> None:
    assert action_of("keep") == KEEP == Keep() and KEEP.to_json() == "keep" and repr(KEEP) == "'keep'"
    assert KEEP.tensor() is None and KEEP.is_complete


def test_a_plan_leaves_it_out() -> None:
    assert ReductionPlan(sites=(("relu", KEEP),)) == ReductionPlan()


def test_the_graph_stays_as_it_is() -> None:
    network = TOYS["basic"].network()
    code = network.module.code
    rewrite_sites(network.module, {s.name: KEEP for s in network.sites}, {s.name: s for s in network.sites})
    assert network.module.code == code
    assert all(KEEP.relu_count(site) == site.relu_count for site in network.sites)
