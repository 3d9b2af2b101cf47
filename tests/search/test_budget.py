"""What a run trains and what it costs: the price is kept, whatever the networks and the data."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepreduce.cost.objective import COUNT_OF_RELUS, Limits
from deepreduce.data import DataFacts
from deepreduce.errors import PlanError
from deepreduce.methods.base import SearchContext
from deepreduce.methods.deepreduce import DeepReduce, DeepReduceOptions
from deepreduce.methods.proposal import Proposal
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network, without_weights
from deepreduce.search.budget import Allocation, Budget, FullBudget, SharedBudget
from deepreduce.search.headroom import FrontierState, Incumbent
from deepreduce.search.schedule import Schedule, make_schedule, preview_search
from deepreduce.training import SharedWeights
from deepreduce.training.timing import EVALUATION_BATCH, FORWARD_SHARE
from deepreduce.transforms import apply_plan
from tests.helpers.zoo import TOYS

FACTS = DataFacts(num_classes=3, image_shape=(3, 8, 8), train_images=1000, val_images=100, test_images=100)
OPTIONS = DeepReduceOptions()
BASIC = TOYS["basic"].network()


def shared(**changes: Any) -> dict[str, Any]:
    """What a shared budget says of students; the network and the data come later."""
    usual = {"epochs": 10.0, "batch_size": 64, "student_batch_size": 32, "schedule_epochs": 4}
    return {"kind": SharedBudget} | usual | changes


FULL = {"kind": FullBudget, "epochs": 10, "batch_size": 64, "student_batch_size": 64, "schedule_epochs": 10}


def budget_for(network: Network, values: dict[str, Any], facts: DataFacts = FACTS) -> Budget:
    rest = {key: value for key, value in values.items() if key != "kind"}
    budget: Budget = values["kind"](compute=without_weights(network).compute_cost, facts=facts, **rest)
    return budget


@pytest.fixture(scope="module")
def network() -> Network:
    return BASIC


@pytest.fixture(scope="module")
def wide() -> Network:
    """A network so wide that its narrower ones are much cheaper."""
    spec = resolve_spec("resnet18", num_classes=3, width=64)
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


def schedule(
    network: Network,
    values: dict[str, Any] = shared(),  # noqa: B008
    *,
    facts: DataFacts = FACTS,
    options: DeepReduceOptions = OPTIONS,
    cull_order: Sequence[str] | None = None,
    limits: Limits = Limits(),  # noqa: B008
    state: FrontierState | None = None,
    trained: Collection[str] = (),
) -> Schedule:
    """The schedule of DeepReDuce's networks, before anything is trained."""
    budget = budget_for(network, values, facts)
    context = SearchContext(budget=budget, val_images=facts.val_images, limits=limits)
    chosen = options.model_copy(update={"cull_order": None if cull_order is None else tuple(cull_order)})
    preview = preview_search(DeepReduce().search(without_weights(network), chosen, context))
    unknown = FrontierState(full_cost=network.relu_count, full_accuracy=1.0, error=0.0, chance=1 / 3)
    return make_schedule(
        preview.proposals, preview.requests, budget, COUNT_OF_RELUS, state or unknown, teacher_epochs=10,
        trained=trained,
    )  # fmt: skip


def seconds(network: Network | Proposal, batch_size: int) -> float:
    """Counted apart: what a forward pass takes for each image, in multiply-accumulates."""
    return network.compute_cost.macs + 2e6 * network.compute_cost.operations / batch_size


def spent(found: Schedule, network: Network, values: dict[str, Any] = shared()) -> dict[str, float]:  # noqa: B008
    """What all trainings cost, in epochs of the full network's training: counted from networks and epochs alone."""
    batch_size, student = values["batch_size"], values["student_batch_size"]
    whole = seconds(network, batch_size)
    together = batch_size // student * student

    def of(pairs: Iterable[tuple[Proposal, float]], batch_size: int) -> float:
        return sum(epochs * seconds(p, batch_size) / whole for p, epochs in pairs)

    allocation = found.allocation
    unknown = FrontierState(full_cost=network.relu_count, full_accuracy=1.0, error=0.0, chance=1 / 3)
    own = budget_for(network, values).own_epochs(
        allocation.drafted, allocation.own_epochs, relus(allocation.drafted), unknown
    )
    return {
        "probes": of(((r.proposal, r.epochs) for r in found.requests), together),
        "alone": of(found.alone.items(), together) + of(allocation.alone.items(), together),
        "drafts": sum(of(zip(g.members, g.epochs, strict=True), student) for g in allocation.groups),
        "own": of(zip(allocation.drafted, own, strict=True), student),
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
    recipe = shared(
        price=price, probe_share=probe_share, draft_share=draft_share, schedule_epochs=views,
        student_batch_size=batch,
    )  # fmt: skip
    found = schedule(BASIC, recipe, cull_order=None if probed else ["S1"])
    parts = spent(found, BASIC, recipe)
    assert sum(parts.values()) <= price * 10 * (1 + 1e-9)
    assert parts["probes"] <= (probe_share * price * 10 if probed else 0) * (1 + 1e-9) + 1e-12
    given_to = {
        *found.alone.values(),
        *found.allocation.alone.values(),
        *(e for f in found.allocation.groups for e in f.epochs),
    }
    assert all(e <= 10 * (1 + 1e-9) for e in given_to)


def test_answers_and_judgements_are_paid_from_the_price(network: Network) -> None:
    """With nothing that limits the epochs, training, answering and judging are the price to the last bit."""
    recipe = shared(epochs=60.0, price=0.25, schedule_epochs=2, student_batch_size=64)
    found = schedule(network, recipe)
    assert not found.alone
    relative = sum(seconds(p, EVALUATION_BATCH) for p in found.candidates) / seconds(network, recipe["batch_size"])
    # twice each: statistics over 1,000 images (there are no more) and a validation; then one more of it, and a test
    images = 2 * (1000 + FACTS.val_images) + FACTS.val_images + FACTS.test_images
    probes = sum(seconds(r.proposal, EVALUATION_BATCH) for r in found.requests) / seconds(
        network, recipe["batch_size"]
    )
    judged = (relative * images + probes * (1000 + FACTS.val_images)) * FORWARD_SHARE / FACTS.train_images
    assert sum(spent(found, network, recipe).values()) + 2 * FORWARD_SHARE + judged == pytest.approx(0.25 * 60)


def test_judging_leaves_half_of_a_small_budget_to_train_with(network: Network) -> None:
    few = replace(FACTS, train_images=10)
    recipe = shared(price=0.1, student_batch_size=64)
    parts = spent(schedule(network, recipe, facts=few, cull_order=["S1"]), network, recipe)
    assert parts["alone"] + parts["drafts"] + parts["own"] == pytest.approx(0.5 * 0.1 * 10)


def test_no_price_is_spent_twice_on_probes(network: Network) -> None:
    recipe = shared(price=0.5, probe_share=1.0, schedule_epochs=0)
    assert sum(spent(schedule(network, recipe), network, recipe).values()) <= 5 * (1 + 1e-9)


def test_shares_are_those_of_the_recipe(network: Network) -> None:
    recipe = shared(
        epochs=60.0, price=0.3, probe_share=0.2, draft_share=0.6, schedule_epochs=0, student_batch_size=64
    )
    parts = spent(schedule(network, recipe), network, recipe)
    assert parts["probes"] == pytest.approx(0.2 * 18)
    assert parts["drafts"] / (parts["drafts"] + parts["own"]) == pytest.approx(0.6)


def test_too_little_for_an_own_training_is_spent_on_drafts(network: Network) -> None:
    """Half an epoch each is the least."""
    for draft_share in (0.0, 0.3, 0.6, 0.8, 0.9, 0.99, 1.0):
        recipe = shared(
            epochs=60.0, price=0.2, probe_share=0.2, draft_share=draft_share, schedule_epochs=0, student_batch_size=64
        )
        found = schedule(network, recipe)
        parts = spent(found, network, recipe)
        drafted = parts["drafts"] + parts["own"]
        least = 0.5 * sum(seconds(p, 64) for p in found.allocation.drafted) / seconds(network, 64)
        expected = (1 - draft_share) * drafted
        assert parts["own"] == pytest.approx(expected if expected >= least else 0)


def test_what_is_dropped_leaves_its_epochs_to_those_that_are_kept(network: Network) -> None:
    recipe = shared(epochs=60.0, price=0.3, draft_share=0.5)
    found, budget = schedule(network, recipe), budget_for(network, recipe)
    assert found.allocation.own_epochs
    drafted = list(found.allocation.drafted)
    for kept in (drafted, drafted[:2], drafted[-3:]):
        epochs = budget.own_epochs(kept, found.allocation.own_epochs, relus(drafted), nothing_known(network))
        each = [seconds(p, recipe["student_batch_size"]) / seconds(network, recipe["batch_size"]) for p in kept]
        assert sum(c * e for c, e in zip(each, epochs, strict=True)) == pytest.approx(found.allocation.own_epochs)


def relus(networks: Iterable[Proposal]) -> dict[Proposal, float]:
    return {p: p.relu_count for p in networks}


def nothing_known(network: Network, *incumbents: Incumbent, full: float = 0.9) -> FrontierState:
    return FrontierState(
        full_cost=network.relu_count, full_accuracy=full, error=0.01, chance=1 / 3, incumbents=incumbents
    )


# -- who is trained how -----------------------------------------------------------------------------------------


def test_the_full_recipe_is_the_teachers_epochs_for_every_network_and_no_drafts(network: Network) -> None:
    found = schedule(network, FULL)
    assert found.allocation == Allocation()
    assert found.alone == dict.fromkeys(found.candidates, 10)
    assert [r.epochs for r in found.requests] == [10] * len(found.requests) != []
    assert {w.batch_size for w in (found.teacher_work, *found.request_works)} == {64}


def test_every_candidate_is_trained_alone_or_in_a_group_or_is_needless(wide: Network) -> None:
    halves = Incumbent(label="x", cost=wide.relu_count / 8, accuracy=0.9)
    for state in (None, nothing_known(wide, halves)):
        found = schedule(wide, shared(price=1.5), cull_order=["S1", "S2", "S4"], state=state)
        places = [*found.alone, *found.allocation.alone, *found.allocation.drafted, *found.allocation.needless]
        assert sorted(p.plan_id for p in places) == sorted(p.plan_id for p in found.candidates)
        assert bool(found.allocation.needless) == (state is not None)


def test_networks_that_are_cheap_to_train_get_the_full_recipe(wide: Network) -> None:
    found = schedule(wide, shared(price=2.0), options=OPTIONS.model_copy(update={"alphas": (1.0, 0.5, 0.25)}))
    assert found.alone and all(e >= 5 for e in found.alone.values())
    dearest = max(seconds(p, 64) for p in found.alone)
    # and of two that are worth about the same, the cheaper one: none at full width
    assert dearest < min(seconds(p, 64) for p in found.allocation.drafted if p.plan.alpha == p.plan.rho == 1)


def test_a_network_whose_incumbent_is_as_good_as_the_full_one_is_needless(wide: Network) -> None:
    incumbent = Incumbent(label="x", cost=30_000, accuracy=0.9)
    found = schedule(wide, cull_order=["S1", "S2", "S4"], state=nothing_known(wide, incumbent))
    assert {p for p in found.candidates if p.relu_count >= 30_000} <= set(found.allocation.needless)
    assert set(found.allocation.needless.values()) == {incumbent}
    # what those would have cost is there for the others
    without = schedule(wide, cull_order=["S1", "S2", "S4"], state=nothing_known(wide))
    epochs = [
        {p: e for f in s.allocation.groups for p, e in zip(f.members, f.epochs, strict=True)} | dict(s.alone)
        for s in (found, without)
    ]
    assert all(epochs[0][p] > epochs[1][p] for p in epochs[0])


def test_nothing_is_needless_while_nothing_is_known(wide: Network) -> None:
    for price in (0.001, 0.1, 3.0):
        found = schedule(wide, shared(price=price), cull_order=["S1"])
        assert not found.allocation.needless


def test_batches_of_networks_alone_are_whole_ones_of_the_others() -> None:
    for whole, part, expected in ((64, 32, 64), (33, 16, 32), (64, 64, 64), (10, 4, 8), (3, 1, 3)):
        values = shared(batch_size=whole, student_batch_size=part)
        assert budget_for(BASIC, values).alone_batch_size == expected


def test_groups_are_of_one_size_the_largest_first_and_every_draft_is_in_one(wide: Network) -> None:
    found = schedule(wide, shared(price=0.5))
    groups = found.allocation.groups
    assert [f.name for f in groups] == ["drafts", "drafts rho 0.5", "drafts alpha 0.5", "drafts alpha 0.5 rho 0.5"]
    assert sorted(p.plan_id for f in groups for p in f.members) == sorted(p.plan_id for p in found.candidates)
    for group in groups:
        assert len({(p.plan.alpha, p.plan.rho) for p in group.members}) == 1
        assert len(group.epochs) == len(group.members)
    assert len({f.folder for f in groups}) == len(groups)


def test_a_network_that_has_no_group_needs_no_draft(network: Network) -> None:
    found = schedule(network, shared(price=0.5), cull_order=["S1"])
    lonely = [p for p in found.candidates if p.plan.alpha == 0.5]
    assert len({(p.plan.alpha, p.plan.rho) for p in lonely}) == len(lonely) > 0
    assert set(lonely) <= set(found.allocation.alone)
    assert all(len(f.members) > 1 for f in found.allocation.groups)


@pytest.mark.parametrize("block", ["basic", "inverted"])
def test_the_networks_of_a_group_can_share_all_their_convolutions(block: str) -> None:
    network = TOYS[block].network()
    found = schedule(network, shared(price=0.5), options=OPTIONS.model_copy(update={"thin_keep": "both"}))
    assert found.allocation.groups
    for group in found.allocation.groups:
        members = SharedWeights([apply_plan(network, p.plan).module for p in group.members]).members
        first = dict(members[0].named_parameters())
        for member in members[1:]:
            for name, parameter in member.named_parameters():
                assert (parameter is first[name]) == (parameter.dim() > 1 and name != "fc.weight"), name


def test_a_shallower_network_is_of_another_group() -> None:
    spec = resolve_spec("resnet18", num_classes=3, width=4)
    network = trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)
    found = schedule(network, shared(price=0.5), options=OPTIONS.model_copy(update={"depths": ((1, 1, 1, 1),)}))
    assert [f.name for f in found.allocation.groups][-2:] == [
        "drafts alpha 0.5 rho 0.5", "drafts alpha 0.5 rho 0.5 depth 1-1-1-1",
    ]  # fmt: skip


def test_the_works_add_up_to_the_total(network: Network) -> None:
    """Forward and backward passes of a step count three forward passes; validations and tests one."""
    found = schedule(network, FULL)

    def work(of: Network | Proposal, *, tested: bool) -> float:
        judged = 10 * FACTS.val_images + (FACTS.test_images if tested else 0)
        return 10 * FACTS.train_images * 3 * seconds(of, 64) + judged * seconds(of, EVALUATION_BATCH)

    expected = work(network, tested=True) + sum(work(r.proposal, tested=False) for r in found.requests)
    expected += sum(work(p, tested=True) for p in found.candidates)
    assert found.total_work == pytest.approx(expected)
    assert found.count == 1 + len(found.requests) + len(found.candidates)


def test_what_is_trained_already_takes_no_share(wide: Network) -> None:
    everything = schedule(wide, cull_order=["S1", "S2", "S4"])
    done = {p.plan_id for p in everything.candidates[::2]}
    found = schedule(wide, cull_order=["S1", "S2", "S4"], trained=done)
    assert found.candidates == everything.candidates
    places = [*found.alone, *found.allocation.alone, *found.allocation.drafted]
    assert {p.plan_id for p in places} == {p.plan_id for p in found.candidates} - done


# -- probes -----------------------------------------------------------------------------------------------------


def test_probes_are_as_narrow_as_they_must_be_to_be_trained_in_full(wide: Network) -> None:
    widths = {}
    for share in (1.0, 0.9, 0.6, 0.2, 0.01):
        found = schedule(wide, shared(price=2.5, probe_share=share))
        (widths[share],) = {r.proposal.plan.alpha for r in found.requests}
        parts = spent(found, wide, shared())
        is_full = all(r.epochs == 10 for r in found.requests)
        assert is_full or parts["probes"] == pytest.approx(share * 25)
        assert is_full == (share > 0.1)
    assert widths[1.0] > widths[0.2] > widths[0.01] == 0.125
    assert [r.proposal.label for r in found.requests] == [f"only S{n}, alpha 0.125" for n in (1, 2, 3, 4)]


def test_a_network_is_not_probed_at_widths_that_save_nothing() -> None:
    """Of 16 channels hardware computes 8 in the same time."""
    spec = resolve_spec("resnet18", num_classes=3, width=8)
    network = trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)
    found = schedule(network, shared(probe_share=0.01))
    assert {r.proposal.plan.alpha for r in found.requests} <= {1.0, 0.5}
    assert all(r.epochs < 1 for r in found.requests)


def test_probes_of_the_full_recipe_are_of_full_width(wide: Network) -> None:
    found = schedule(wide, FULL)
    assert [r.proposal.label for r in found.requests] == ["only S1", "only S2", "only S3", "only S4"]


def test_a_limit_that_no_network_keeps_is_told(network: Network) -> None:
    with pytest.raises(PlanError, match=r"no network has at most 1 ReLU; the smallest, .*: raise max_relus"):
        schedule(network, limits=Limits(max_relus=1))


def test_epochs_are_finite(network: Network) -> None:
    for price in (1e-6, 1e6):
        found = schedule(network, shared(price=price))
        assert math.isfinite(found.total_work) and all(math.isfinite(r.epochs) for r in found.requests)
