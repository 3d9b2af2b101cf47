"""What a run trains and what it costs: the price is kept, whatever the networks and the data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepreduce.cost.objective import Limits
from deepreduce.data import DataFacts
from deepreduce.errors import PlanError
from deepreduce.methods import DeepReduceMethod, Proposal
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network, without_weights
from deepreduce.search.budget import Allocation, FullBudget, SharedBudget, TrainingCosts
from deepreduce.search.headroom import FrontierState, Incumbent
from deepreduce.search.schedule import Schedule, make_schedule
from deepreduce.training import SharedWeights
from deepreduce.training.timing import EVALUATION_BATCH, FORWARD_SHARE
from deepreduce.transforms import apply_plan
from tests.helpers.zoo import TOYS

FACTS = DataFacts(num_classes=3, image_shape=(3, 8, 8), train_images=1000, val_images=100, test_images=100)
METHOD = DeepReduceMethod()
BUDGET = SharedBudget(epochs=10.0, batch_size=64, student_batch_size=32)
BASIC = TOYS["basic"].network()


@pytest.fixture(scope="module")
def network() -> Network:
    return BASIC


@pytest.fixture(scope="module")
def wide() -> Network:
    """A network so wide that its narrower ones are much cheaper."""
    spec = resolve_spec("resnet18", num_classes=3, width=64)
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


def schedule(network: Network, recipe: FullBudget | SharedBudget = BUDGET, **changes: Any) -> Schedule:
    options: dict[str, Any] = {"teacher_epochs": 10, "cull_order": None}
    return make_schedule(network, changes.pop("facts", FACTS), changes.pop("method", METHOD), recipe,
                         **(options | changes))  # fmt: skip


def seconds(network: Network | Proposal, batch_size: int) -> float:
    """Counted apart: what a forward pass takes for each image, in multiply-accumulates."""
    return network.load.macs + 2e6 * network.load.operations / batch_size


def spent(found: Schedule, network: Network, recipe: SharedBudget = BUDGET) -> dict[str, float]:
    """What all trainings cost, in epochs of the full network's training: counted from networks and epochs alone."""
    whole = seconds(network, recipe.batch_size)
    together = recipe.batch_size // recipe.student_batch_size * recipe.student_batch_size

    def of(pairs: Iterable[tuple[Proposal, float]], batch_size: int) -> float:
        return sum(epochs * seconds(p, batch_size) / whole for p, epochs in pairs)

    probed = zip((p.proposal for p in found.probes), (w.epochs for w in found.probe_works), strict=True)
    works = dict(zip(found.candidates, found.candidate_works, strict=True))
    families = found.division.families
    return {
        "probes": of(probed, together),
        "alone": of(found.alone.items(), together) + of(found.division.alone.items(), together),
        "drafts": sum(of(zip(f.members, f.epochs, strict=True), recipe.student_batch_size) for f in families),
        "own": of(((p, works[p].epochs) for p in found.division.drafted), recipe.student_batch_size),
    }


# -- the price --------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(
    price=st.floats(0.2, 3), probe_share=st.floats(0, 0.5), draft_share=st.floats(0, 1), views=st.integers(0, 3),
    probed=st.booleans(), batch=st.integers(10, 64),
)  # fmt: skip
def test_all_that_is_trained_costs_no_more_than_the_price(
    price: float, probe_share: float, draft_share: float, views: int, probed: bool, batch: int
) -> None:
    recipe = replace(
        BUDGET, price=price, probe_share=probe_share, draft_share=draft_share, views=views, student_batch_size=batch
    )
    found = schedule(BASIC, recipe, cull_order=None if probed else ["S1"])
    parts = spent(found, BASIC, recipe)
    assert sum(parts.values()) <= price * 10 * (1 + 1e-9)
    assert parts["probes"] <= (probe_share * price * 10 if probed else 0) * (1 + 1e-9) + 1e-12
    given_to = {
        *found.alone.values(),
        *found.division.alone.values(),
        *(e for f in found.division.families for e in f.epochs),
    }
    assert all(e <= 10 * (1 + 1e-9) for e in given_to)


def test_answers_and_judgements_are_paid_from_the_price(network: Network) -> None:
    """With nothing that limits the epochs, training, answering and judging are the price to the last bit."""
    recipe = replace(BUDGET, epochs=60.0, price=0.25, views=2, student_batch_size=64)
    found = schedule(network, recipe)
    assert not found.alone
    relative = sum(seconds(p, EVALUATION_BATCH) for p in found.candidates) / seconds(network, recipe.batch_size)
    # twice each: statistics over 1,000 images (there are no more) and a validation; then one more of it, and a test
    images = 2 * (1000 + FACTS.val_images) + FACTS.val_images + FACTS.test_images
    probes = sum(seconds(p.proposal, EVALUATION_BATCH) for p in found.probes) / seconds(network, recipe.batch_size)
    judged = (relative * images + probes * (1000 + FACTS.val_images)) * FORWARD_SHARE / FACTS.train_images
    assert sum(spent(found, network, recipe).values()) + 2 * FORWARD_SHARE + judged == pytest.approx(0.25 * 60)


def test_judging_leaves_half_of_a_small_budget_to_train_with(network: Network) -> None:
    few = replace(FACTS, train_images=10)
    recipe = replace(BUDGET, price=0.1, student_batch_size=64)
    parts = spent(schedule(network, recipe, facts=few, cull_order=["S1"]), network, recipe)
    assert parts["alone"] + parts["drafts"] + parts["own"] == pytest.approx(0.5 * 0.1 * 10)


def test_no_price_is_spent_twice_on_probes(network: Network) -> None:
    recipe = replace(BUDGET, price=0.5, probe_share=1.0, views=0)
    assert sum(spent(schedule(network, recipe), network, recipe).values()) <= 5 * (1 + 1e-9)


def test_shares_are_those_of_the_recipe(network: Network) -> None:
    recipe = replace(BUDGET, epochs=60.0, price=0.3, probe_share=0.2, draft_share=0.6, views=0, student_batch_size=64)
    parts = spent(schedule(network, recipe), network, recipe)
    assert parts["probes"] == pytest.approx(0.2 * 18)
    assert parts["drafts"] / (parts["drafts"] + parts["own"]) == pytest.approx(0.6)


def test_too_little_for_an_own_training_is_spent_on_drafts(network: Network) -> None:
    """Half an epoch each is the least."""
    for draft_share in (0.0, 0.3, 0.6, 0.8, 0.9, 0.99, 1.0):
        recipe = replace(
            BUDGET, epochs=60.0, price=0.2, probe_share=0.2, draft_share=draft_share, views=0, student_batch_size=64
        )
        found = schedule(network, recipe)
        parts = spent(found, network, recipe)
        drafted = parts["drafts"] + parts["own"]
        least = 0.5 * sum(seconds(p, 64) for p in found.division.drafted) / seconds(network, 64)
        expected = (1 - draft_share) * drafted
        assert parts["own"] == pytest.approx(expected if expected >= least else 0)


def test_what_is_dropped_leaves_its_epochs_to_those_that_go_on(network: Network) -> None:
    recipe = replace(BUDGET, epochs=60.0, price=0.3, draft_share=0.5)
    found = schedule(network, recipe)
    assert found.division.own
    costs, standing = costs_of(network, recipe), nothing_known(network)
    own = spent(found, network, recipe)["own"]
    everybody = list(found.division.drafted)
    for going_on in (everybody, everybody[:2], everybody[-3:]):
        epochs = costs.own_epochs(going_on, found.division.own, relus(everybody), standing)
        each = [seconds(p, recipe.student_batch_size) / seconds(network, recipe.batch_size) for p in going_on]
        assert sum(c * e for c, e in zip(each, epochs, strict=True)) == pytest.approx(own)


def costs_of(network: Network, recipe: FullBudget | SharedBudget) -> TrainingCosts:
    return TrainingCosts(load=without_weights(network).load, facts=FACTS, recipe=recipe)


def relus(networks: Iterable[Proposal]) -> dict[Proposal, float]:
    return {p: p.relu_count for p in networks}


def nothing_known(network: Network, *rivals: Incumbent, full: float = 0.9) -> FrontierState:
    return FrontierState(whole=network.relu_count, full=full, error=0.01, chance=1 / 3, rivals=rivals)


# -- who is trained how -----------------------------------------------------------------------------------------


def test_the_full_recipe_is_the_teachers_epochs_for_every_network_and_no_drafts(network: Network) -> None:
    found = schedule(network, FullBudget(epochs=10, batch_size=64))
    assert found.division == Allocation() and found.draft_works == ()
    assert found.alone == dict.fromkeys(found.candidates, 10)
    assert [w.epochs for w in (*found.probe_works, *found.candidate_works)] == [10] * (
        len(found.probes) + len(found.candidates)
    )
    assert {w.batch_size for w in (*found.probe_works, *found.candidate_works)} == {64}


def test_every_candidate_is_trained_alone_or_in_a_family_or_is_needless(wide: Network) -> None:
    halves = Incumbent(label="x", cost=wide.relu_count / 8, accuracy=0.9)
    for standing in (None, nothing_known(wide, halves)):
        found = schedule(wide, replace(BUDGET, price=1.5), cull_order=["S1", "S2", "S4"], standing=standing)
        places = [*found.alone, *found.division.alone, *found.division.drafted, *found.division.needless]
        assert sorted(p.plan_id for p in places) == sorted(p.plan_id for p in found.candidates)
        assert bool(found.division.needless) == (standing is not None)


def test_networks_that_are_cheap_to_train_get_the_full_recipe(wide: Network) -> None:
    found = schedule(wide, replace(BUDGET, price=2.0), method=replace(METHOD, alphas=(1.0, 0.5, 0.25)))
    assert found.alone and all(e >= 5 for e in found.alone.values())
    dearest = max(seconds(p, 64) for p in found.alone)
    # and of two that are worth about the same, the cheaper one: none at full width
    assert dearest < min(seconds(p, 64) for p in found.division.drafted if p.plan.alpha == p.plan.rho == 1)


def test_a_network_whose_rival_is_as_good_as_the_full_one_is_needless(wide: Network) -> None:
    rival = Incumbent(label="x", cost=30_000, accuracy=0.9)
    found = schedule(wide, cull_order=["S1", "S2", "S4"], standing=nothing_known(wide, rival))
    assert {p for p in found.candidates if p.relu_count >= 30_000} <= set(found.division.needless)
    assert set(found.division.needless.values()) == {rival}
    # what those would have cost is there for the others
    without = schedule(wide, cull_order=["S1", "S2", "S4"], standing=nothing_known(wide))
    epochs = [
        {p: e for f in s.division.families for p, e in zip(f.members, f.epochs, strict=True)} | dict(s.alone)
        for s in (found, without)
    ]
    assert all(epochs[0][p] > epochs[1][p] for p in epochs[0])


def test_nothing_is_needless_while_nothing_is_known(wide: Network) -> None:
    for price in (0.001, 0.1, 3.0):
        found = schedule(wide, replace(BUDGET, price=price), cull_order=["S1"])
        assert not found.division.needless


def test_batches_of_networks_alone_are_whole_ones_of_the_others() -> None:
    for whole, part, expected in ((64, 32, 64), (33, 16, 32), (64, 64, 64), (10, 4, 8), (3, 1, 3)):
        assert replace(BUDGET, batch_size=whole, student_batch_size=part).alone_batch_size == expected


def test_families_are_of_one_size_the_largest_first_and_every_draft_is_in_one(wide: Network) -> None:
    found = schedule(wide, replace(BUDGET, price=0.5))
    families = found.division.families
    assert [f.name for f in families] == ["drafts", "drafts rho 0.5", "drafts alpha 0.5", "drafts alpha 0.5 rho 0.5"]
    assert sorted(p.plan_id for f in families for p in f.members) == sorted(p.plan_id for p in found.candidates)
    for family in families:
        assert len({(p.plan.alpha, p.plan.rho) for p in family.members}) == 1
        assert len(family.epochs) == len(family.members)
    assert len({f.folder for f in families}) == len(families)


def test_a_network_that_has_no_family_needs_no_draft(network: Network) -> None:
    found = schedule(network, replace(BUDGET, price=0.5), cull_order=["S1"])
    lonely = [p for p in found.candidates if p.plan.alpha == 0.5]
    assert len({(p.plan.alpha, p.plan.rho) for p in lonely}) == len(lonely) > 0
    assert set(lonely) <= set(found.division.alone)
    assert all(len(f.members) > 1 for f in found.division.families)


@pytest.mark.parametrize("block", ["basic", "inverted"])
def test_the_networks_of_a_family_can_share_all_their_convolutions(block: str) -> None:
    network = TOYS[block].network()
    found = schedule(network, replace(BUDGET, price=0.5), method=replace(METHOD, thin_keep="both"))
    assert found.division.families
    for family in found.division.families:
        members = SharedWeights([apply_plan(network, p.plan).module for p in family.members]).members
        first = dict(members[0].named_parameters())
        for member in members[1:]:
            for name, parameter in member.named_parameters():
                assert (parameter is first[name]) == (parameter.dim() > 1 and name != "fc.weight"), name


def test_a_shallower_network_is_of_another_family() -> None:
    spec = resolve_spec("resnet18", num_classes=3, width=4)
    network = trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)
    found = schedule(network, replace(BUDGET, price=0.5), method=replace(METHOD, depths=((1, 1, 1, 1),)))
    assert [f.name for f in found.division.families][-2:] == [
        "drafts alpha 0.5 rho 0.5", "drafts alpha 0.5 rho 0.5 depth 1-1-1-1",
    ]  # fmt: skip


def test_the_works_add_up_to_the_total(network: Network) -> None:
    found = schedule(network)
    works = [found.teacher_work, *found.probe_works, *found.candidate_works]
    assert len(found.draft_works) == len(found.division.families)
    assert found.total_work == pytest.approx(sum(w.total for w in works) + sum(found.draft_works))


def test_what_is_trained_already_takes_no_share(wide: Network) -> None:
    everything = schedule(wide, cull_order=["S1", "S2", "S4"])
    done = {p.plan_id for p in everything.candidates[::2]}
    found = schedule(wide, cull_order=["S1", "S2", "S4"], trained=done)
    assert found.candidates == everything.candidates
    places = [*found.alone, *found.division.alone, *found.division.drafted]
    assert {p.plan_id for p in places} == {p.plan_id for p in found.candidates} - done
    works = dict(zip(found.candidates, found.candidate_works, strict=True))
    assert all(works[p].epochs == 0 for p in found.candidates if p.plan_id in done)


# -- probes -----------------------------------------------------------------------------------------------------


def test_probes_are_as_narrow_as_they_must_be_to_be_trained_in_full(wide: Network) -> None:
    widths = {}
    for share in (1.0, 0.9, 0.6, 0.2, 0.01):
        found = schedule(wide, replace(BUDGET, price=2.5, probe_share=share))
        (widths[share],) = {p.proposal.plan.alpha for p in found.probes}
        parts = spent(found, wide, BUDGET)
        is_full = all(w.epochs == 10 for w in found.probe_works)
        assert is_full or parts["probes"] == pytest.approx(share * 25)
        assert is_full == (share > 0.1)
    assert widths[1.0] > widths[0.2] > widths[0.01] == 0.125
    assert [p.stage for p in found.probes] == ["S1", "S2", "S3", "S4"]
    assert found.probes[0].proposal.label == "only S1, alpha 0.125"


def test_a_network_is_not_probed_at_widths_that_save_nothing() -> None:
    """Of 16 channels hardware computes 8 in the same time."""
    spec = resolve_spec("resnet18", num_classes=3, width=8)
    network = trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)
    found = schedule(network, replace(BUDGET, probe_share=0.01))
    assert {p.proposal.plan.alpha for p in found.probes} <= {1.0, 0.5}
    assert all(w.epochs < 1 for w in found.probe_works)


def test_probes_of_the_full_recipe_are_of_full_width(wide: Network) -> None:
    found = schedule(wide, FullBudget(epochs=10, batch_size=64))
    assert [p.proposal.label for p in found.probes] == ["only S1", "only S2", "only S3", "only S4"]


def test_a_limit_that_no_network_keeps_is_told(network: Network) -> None:
    with pytest.raises(PlanError, match=r"no network has at most 1 ReLU; the smallest, .*: raise max_relus"):
        schedule(network, limits=Limits(max_relus=1))


def test_epochs_are_finite(network: Network) -> None:
    for price in (1e-6, 1e6):
        found = schedule(network, replace(BUDGET, price=price))
        assert all(math.isfinite(w.epochs) for w in (*found.probe_works, *found.candidate_works))
