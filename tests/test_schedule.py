"""What a run trains and what it costs: the price is kept, whatever the networks and the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepreduce.data import DataFacts
from deepreduce.estimate import ANSWER
from deepreduce.methods import DeepReduceMethod, Proposal
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.schedule import FullRecipe, Schedule, SharedBudget, TrainingCosts, make_schedule, own_epochs
from deepreduce.training import Family
from deepreduce.transforms import apply_plan
from tests.zoo import TOYS

FACTS = DataFacts(num_classes=3, image_shape=(3, 8, 8), train_images=1000, val_images=100, test_images=100)
METHOD = DeepReduceMethod()
BUDGET = SharedBudget(epochs=10.0)
BASIC = TOYS["basic"].network()


@pytest.fixture(scope="module")
def network() -> Network:
    return BASIC


def schedule(network: Network, recipe: FullRecipe | SharedBudget = BUDGET, **changes: Any) -> Schedule:
    options: dict[str, Any] = {"teacher_epochs": 10, "cull_order": None, "max_relus": None}
    return make_schedule(network, changes.pop("facts", FACTS), changes.pop("method", METHOD), recipe,
                         **(options | changes))  # fmt: skip


def epochs_of_teacher(costs: TrainingCosts, networks: list[Proposal], epochs: list[float]) -> float:
    """What training the networks costs, in epochs of the full one."""
    return sum(p.padded_macs / costs.network.padded_macs * e for p, e in zip(networks, epochs, strict=True))


def spent(found: Schedule, network: Network) -> dict[str, float]:
    """What probes, drafts and the networks' own training cost, in epochs of the full network's training."""
    costs = TrainingCosts(network=network, facts=FACTS)
    probed = [p.proposal for p in found.probes]
    return {
        "probes": epochs_of_teacher(costs, probed, [w.epochs for w in found.probe_works]),
        "drafts": sum(epochs_of_teacher(costs, list(f.members), list(f.epochs)) for f in found.families),
        "own": epochs_of_teacher(costs, list(found.candidates), [w.epochs for w in found.candidate_works]),
    }


@settings(max_examples=8)
@given(
    price=st.floats(0.2, 3), probe_share=st.floats(0, 0.5), draft_share=st.floats(0, 1), views=st.integers(0, 3),
    probed=st.booleans(),
)  # fmt: skip
def test_all_that_is_trained_costs_no_more_than_the_price(
    price: float, probe_share: float, draft_share: float, views: int, probed: bool
) -> None:
    network = BASIC
    recipe = SharedBudget(epochs=10.0, price=price, probe_share=probe_share, draft_share=draft_share, views=views)
    found = schedule(network, recipe, cull_order=None if probed else ["S1"])
    parts = spent(found, network)
    assert sum(parts.values()) <= price * 10 * (1 + 1e-9)
    assert parts["probes"] <= (probe_share * price * 10 if probed else 0) * (1 + 1e-9) + 1e-12
    assert all(e <= 10 * (1 + 1e-9) for f in found.families for e in f.epochs)


def test_answers_and_judgements_are_paid_from_the_price(network: Network) -> None:
    """With nothing that limits the epochs, training, answering and judging are the price to the last bit."""
    recipe = replace(BUDGET, epochs=20.0, price=0.25, views=2)
    found = schedule(network, recipe)
    costs = TrainingCosts(network=network, facts=FACTS)
    relative = sum(p.padded_macs for p in found.candidates) / network.padded_macs
    judged = relative * (2 * FACTS.val_images + FACTS.test_images) * ANSWER / FACTS.train_images
    assert judged == pytest.approx(sum(costs.judging(found.candidates, tested=tested) for tested in (False, True)))
    assert sum(spent(found, network).values()) + 2 * ANSWER + judged == pytest.approx(0.25 * 20)


def test_judging_leaves_half_of_a_small_budget_to_train_with(network: Network) -> None:
    few = replace(FACTS, train_images=10)
    found = schedule(network, replace(BUDGET, price=0.1), facts=few)
    parts = spent(found, network)
    assert parts["drafts"] + parts["own"] == pytest.approx(0.5 * 0.1 * 10)


def test_shares_are_those_of_the_recipe(network: Network) -> None:
    recipe = replace(BUDGET, price=0.5, probe_share=0.2, draft_share=0.7, views=0)
    parts = spent(schedule(network, recipe), network)
    assert parts["probes"] == pytest.approx(0.2 * 5)
    assert parts["drafts"] / (parts["drafts"] + parts["own"]) == pytest.approx(0.7)


def test_what_is_dropped_leaves_its_epochs_to_those_that_go_on(network: Network) -> None:
    recipe = replace(BUDGET, price=0.3)
    found = schedule(network, recipe)
    costs = TrainingCosts(network=network, facts=FACTS)
    own = spent(found, network)["own"]
    everybody = list(found.candidates)
    for going_on in (everybody, everybody[:2], everybody[-3:]):
        epochs = own_epochs(recipe, found, network, FACTS, going_on)
        assert epochs_of_teacher(costs, going_on, epochs) == pytest.approx(own)
    alone = everybody[-1:]  # so cheap that its epochs are those of the whole recipe
    assert own_epochs(replace(recipe, price=3.0), found, network, FACTS, alone) == [10.0]


def test_the_full_recipe_is_the_teachers_epochs_for_every_network_and_no_drafts(network: Network) -> None:
    found = schedule(network, FullRecipe(epochs=10))
    assert found.families == () and found.draft_works == ()
    assert [w.epochs for w in (*found.probe_works, *found.candidate_works)] == [10] * (
        len(found.probes) + len(found.candidates)
    )


def test_families_are_of_one_size_the_largest_first_and_every_candidate_is_in_one(network: Network) -> None:
    found = schedule(network)
    assert [f.name for f in found.families] == [
        "drafts", "drafts rho 0.5", "drafts alpha 0.5", "drafts alpha 0.5 rho 0.5",
    ]  # fmt: skip
    assert sorted(p.plan_id for f in found.families for p in f.members) == sorted(p.plan_id for p in found.candidates)
    for family in found.families:
        assert len({(p.plan.alpha, p.plan.rho) for p in family.members}) == 1
        assert len(family.epochs) == len(family.members)
    assert len({f.folder for f in found.families}) == len(found.families)


@pytest.mark.parametrize("block", ["basic", "inverted"])
def test_the_networks_of_a_family_can_share_all_their_convolutions(block: str) -> None:
    network = TOYS[block].network()
    for family in schedule(network, method=replace(METHOD, thin_keep="both")).families:
        members = Family([apply_plan(network, p.plan).module for p in family.members]).members
        first = dict(members[0].named_parameters())
        for member in members[1:]:
            for name, parameter in member.named_parameters():
                assert (parameter is first[name]) == (parameter.dim() > 1 and name != "fc.weight"), name


def test_a_shallower_network_is_of_another_family() -> None:
    spec = resolve_spec("resnet18", num_classes=3, width=4)
    network = trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)
    found = schedule(network, method=replace(METHOD, depths=((1, 1, 1, 1),)))
    assert [f.name for f in found.families][-2:] == [
        "drafts alpha 0.5 rho 0.5", "drafts alpha 0.5 rho 0.5 depth 1-1-1-1",
    ]  # fmt: skip


def test_the_works_add_up_to_the_total(network: Network) -> None:
    found = schedule(network)
    works = [found.teacher_work, *found.probe_works, *found.draft_works, *found.candidate_works]
    assert len(found.draft_works) == len(found.families)
    assert found.total_work == pytest.approx(sum(w.total for w in works))
