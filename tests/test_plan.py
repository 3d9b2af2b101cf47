"""A plan is one value however it is written: normal form, hash, JSON, repr."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepreduce.errors import PlanError
from deepreduce.plan import ReductionPlan

names = st.text(string.ascii_lowercase + ".#12", min_size=1, max_size=8)
scales = st.floats(0, 1, exclude_min=True)
plans = st.builds(
    ReductionPlan,
    sites=st.dictionaries(names, st.sampled_from(["keep", "identity"]), max_size=6),
    alpha=scales,
    rho=scales,
    depth=st.none() | st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    pad_once=st.booleans(),
)


@given(plans)
def test_a_plan_survives_json_and_repr(plan: ReductionPlan) -> None:
    for copy in (ReductionPlan.from_json(json.loads(json.dumps(plan.to_json()))), eval(repr(plan))):
        assert copy == plan
        assert hash(copy) == hash(plan)
        assert copy.plan_id == plan.plan_id


@given(st.dictionaries(names, st.sampled_from(["keep", "identity"]), max_size=6), st.randoms())
def test_order_and_kept_sites_do_not_matter(sites: dict[str, str], random: object) -> None:
    shuffled = list(sites.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    without_kept = {name: action for name, action in sites.items() if action != "keep"}
    plan = ReductionPlan(sites=tuple(shuffled))
    assert plan == ReductionPlan(sites=sites) == ReductionPlan(sites=without_kept)  # type: ignore[arg-type]
    assert plan.linearized == tuple(sorted(without_kept))


@given(plans, plans)
def test_plans_that_differ_have_different_ids(a: ReductionPlan, b: ReductionPlan) -> None:
    assert (a == b) == (a.plan_id == b.plan_id)


@given(plans)
def test_merging_is_idempotent_and_the_empty_plan_neutral(plan: ReductionPlan) -> None:
    assert plan.merge(plan) == plan.merge(ReductionPlan()) == ReductionPlan().merge(plan) == plan


def test_merging_joins_sites_and_scales() -> None:
    a, b = ReductionPlan(sites=(("x", "identity"),), alpha=0.5), ReductionPlan(sites=(("y", "identity"),), rho=0.5)
    merged = ReductionPlan(sites=(("x", "identity"), ("y", "identity")), alpha=0.5, rho=0.5)
    assert a.merge(b) == b.merge(a) == merged


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (ReductionPlan(alpha=0.5), ReductionPlan(alpha=0.25), "alpha is 0.5 in one plan and 0.25 in the other"),
        (ReductionPlan(rho=0.5), ReductionPlan(rho=0.25), "rho is 0.5"),
        (ReductionPlan(depth=(1,)), ReductionPlan(depth=(2,)), r"depth is \(1,\)"),
    ],
)
def test_merging_what_contradicts_is_refused(a: ReductionPlan, b: ReductionPlan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        a.merge(b)


def test_only_the_plan_without_edits_is_empty() -> None:
    assert ReductionPlan().is_empty
    assert ReductionPlan(sites=(("x", "keep"),), alpha=1, rho=1).is_empty
    assert not ReductionPlan(depth=(2, 2)).is_empty


@pytest.mark.parametrize("name", ["alpha", "rho"])
@pytest.mark.parametrize("value", [0, -0.5, 1.5, float("nan"), float("inf"), True, "0.5", None])
def test_a_scale_that_is_no_fraction_is_refused(name: str, value: object) -> None:
    with pytest.raises(PlanError, match=rf"{name} is .*\(0, 1\]"):
        ReductionPlan(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [(), (0,), (1, -1), (True,), (1.0,), ("2",)])
def test_a_depth_that_is_no_block_count_is_refused(depth: tuple[object, ...]) -> None:
    with pytest.raises(PlanError, match="positive block count"):
        ReductionPlan(depth=depth)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ((("x", "drop"),), "site 'x': unknown action 'drop'"),
        ((("x", ["identity"]),), "unknown action"),
        ((("x", "identity"), ("x", "keep")), "two actions"),
        ((("x",),), "not a .* pair"),
        (((1, "identity"),), "not a .* pair"),
        ("x", "give a mapping"),
        (7, "give a mapping"),
    ],
)
def test_sites_that_are_no_actions_are_refused(sites: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        ReductionPlan(sites=sites)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a plan is a JSON object, not list"),
        ({"aplha": 0.5}, "unknown plan key 'aplha'; did you mean 'alpha'"),
        ({"depth": 3}, "depth is 3"),
        ({"sites": None}, "give a mapping"),
        ({"alpha": None}, "alpha is None"),
        ({"pad_once": 1}, "pad_once is 1; give true or false"),
    ],
)
def test_json_that_is_no_plan_is_refused(value: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        ReductionPlan.from_json(value)


def test_the_id_is_the_same_on_every_machine_and_in_every_process() -> None:
    import hashlib

    canonical = '{"alpha":0.5,"depth":[2,1],"rho":1.0,"sites":{"stem.relu":"identity"}}'
    plan = ReductionPlan(sites=(("stem.relu", "identity"),), alpha=0.5, depth=(2, 1))
    assert plan.plan_id == hashlib.sha256(canonical.encode()).hexdigest()[:10]


def test_a_plan_that_does_not_pad_once_says_nothing_of_it_so_that_old_plans_keep_their_ids() -> None:
    plan = ReductionPlan(alpha=0.5)
    assert "pad_once" not in plan.to_json()
    assert ReductionPlan.from_json({"alpha": 0.5}) == plan
    padded = plan.merge(ReductionPlan(pad_once=True))
    assert padded.to_json()["pad_once"] is True and padded.plan_id != plan.plan_id
