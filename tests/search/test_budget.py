"""What a run trains and what it costs: the price is kept, whatever the networks and the data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
from deepreduce.search.budget import Budget, FullBudget, SharedBudget, WarmFullBudget
from deepreduce.search.schedule import Schedule, make_schedule, preview_search
from deepreduce.training.timing import EVALUATION_BATCH, FORWARD_SHARE
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
) -> Schedule:
    """The schedule of DeepReDuce's networks, before anything is trained."""
    budget = budget_for(network, values, facts)
    context = SearchContext(budget=budget, val_images=facts.val_images, limits=limits)
    chosen = options.model_copy(update={"cull_order": None if cull_order is None else tuple(cull_order)})
    preview = preview_search(DeepReduce().search(without_weights(network), chosen, context))
    return make_schedule(preview.proposals, preview.requests, budget, COUNT_OF_RELUS, teacher_epochs=10)


def seconds(network: Network | Proposal, batch_size: int) -> float:
    """Counted apart: what a forward pass takes for each image, in multiply-accumulates."""
    return network.compute_cost.macs + 2e6 * network.compute_cost.operations / batch_size


def spent(found: Schedule, network: Network, values: dict[str, Any] = shared()) -> dict[str, float]:  # noqa: B008
    """What all trainings cost, in epochs of the full network's training: counted from networks and epochs alone."""
    batch_size, student = values["batch_size"], values["student_batch_size"]
    whole = seconds(network, batch_size)

    def of(pairs: Iterable[tuple[Proposal, float]], batch_size: int) -> float:
        return sum(epochs * seconds(p, batch_size) / whole for p, epochs in pairs)

    return {
        "probes": of(((r.proposal, r.epochs) for r in found.requests), batch_size // student * student),
        "path": of(found.epochs.items(), student),
    }


# -- the price --------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(
    price=st.floats(0.2, 3), probe_share=st.floats(0, 0.5), views=st.integers(0, 3), probed=st.booleans(),
    batch=st.integers(10, 64),
)  # fmt: skip
def test_all_that_is_trained_costs_no_more_than_the_price(
    price: float, probe_share: float, views: int, probed: bool, batch: int
) -> None:
    recipe = shared(price=price, probe_share=probe_share, schedule_epochs=views, student_batch_size=batch)
    found = schedule(BASIC, recipe, cull_order=None if probed else ["S1"])
    parts = spent(found, BASIC, recipe)
    assert sum(parts.values()) <= price * 10 * (1 + 1e-9)
    assert parts["probes"] <= (probe_share * price * 10 if probed else 0) * (1 + 1e-9) + 1e-12
    assert all(0 < e <= 10 * (1 + 1e-9) for e in found.epochs.values())


def test_answers_and_judgements_are_paid_from_the_price(network: Network) -> None:
    """With nothing that limits the epochs, training, answering and judging are the price to the last bit."""
    recipe = shared(epochs=60.0, price=0.25, schedule_epochs=2, student_batch_size=64)
    found = schedule(network, recipe)
    trained = [*found.epochs, *(r.proposal for r in found.requests)]
    relative = sum(seconds(p, EVALUATION_BATCH) for p in trained) / seconds(network, recipe["batch_size"])
    # statistics over 1,000 images (there are no more), two validations and a test
    judged = relative * (1000 + 2 * FACTS.val_images + FACTS.test_images) * FORWARD_SHARE / FACTS.train_images
    assert sum(spent(found, network, recipe).values()) + 2 * FORWARD_SHARE + judged == pytest.approx(0.25 * 60)


def test_judging_leaves_half_of_a_small_budget_to_train_with(network: Network) -> None:
    few = replace(FACTS, train_images=10)
    recipe = shared(price=0.1, student_batch_size=64)
    parts = spent(schedule(network, recipe, facts=few, cull_order=["S1"]), network, recipe)
    assert parts["path"] == pytest.approx(0.5 * 0.1 * 10)


def test_no_price_is_spent_twice_on_probes(network: Network) -> None:
    recipe = shared(price=0.5, probe_share=1.0, schedule_epochs=0)
    assert sum(spent(schedule(network, recipe), network, recipe).values()) <= 5 * (1 + 1e-9)


def test_probes_have_their_share_of_the_price(network: Network) -> None:
    recipe = shared(epochs=60.0, price=0.3, probe_share=0.2, schedule_epochs=0, student_batch_size=64)
    assert spent(schedule(network, recipe), network, recipe)["probes"] == pytest.approx(0.2 * 18)


def test_what_was_spent_before_is_no_longer_there_for_the_path(network: Network) -> None:
    recipe = shared(epochs=60.0, price=0.5, schedule_epochs=0)
    networks, budget = list(schedule(network, recipe).epochs), budget_for(network, recipe)
    costs = [seconds(p, 32) / seconds(network, 64) for p in networks]
    before, after = (
        sum(c * e for c, e in zip(costs, budget.path_epochs(networks, spent=x), strict=True)) for x in (0.0, 3.0)
    )
    assert before - after == pytest.approx(3.0)
    assert set(budget.path_epochs(networks, spent=31.0)) == {0.0}


def test_epochs_go_with_their_worth(network: Network) -> None:
    recipe = shared(epochs=600.0, price=0.05)
    networks = list(schedule(network, recipe).epochs)
    worth = [1.0 + n for n in range(len(networks))]
    epochs = budget_for(network, recipe).path_epochs(networks, worth)
    assert [e / epochs[0] for e in epochs] == pytest.approx(worth)


# -- who is trained how -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FullBudget, WarmFullBudget])
def test_the_full_recipe_is_the_teachers_epochs_for_every_network_from_none_before_it(
    network: Network, kind: type[Budget]
) -> None:
    found = schedule(network, {**FULL, "kind": kind})
    assert set(found.epochs.values()) == {10} and set(found.parents.values()) == {None}
    assert found.levels == [list(found.epochs)]
    assert [r.epochs for r in found.requests] == [10] * len(found.requests) != []
    assert {w.batch_size for w in (found.teacher_work, *found.request_works, *found.works.values())} == {64}


def test_what_a_probe_trained_in_full_is_not_trained_again_and_all_else_once(network: Network) -> None:
    """The last network that is culled has ReLUs in one stage alone, as its probe has."""
    in_full, briefly = schedule(network, FULL), schedule(network)
    probes = {r.proposal.plan_id for r in in_full.requests}
    again = [p.plan_id for p in in_full.candidates if p.plan_id in probes]
    assert len(again) == 1
    assert sorted([p.plan_id for p in in_full.epochs] + again) == sorted(p.plan_id for p in in_full.candidates)
    assert set(briefly.epochs) == set(briefly.candidates)
    assert all(r.epochs < 10 for r in briefly.requests)


def test_networks_follow_the_one_that_has_most_in_common_the_most_expensive_first(wide: Network) -> None:
    found = schedule(wide, cull_order=["S1", "S2"])
    counts = [p.relu_count for p in found.epochs]
    assert counts == sorted(counts, reverse=True)
    labels = {p.label: None if parent is None else parent.label for p, parent in found.parents.items()}
    assert labels["cull S1"] is None
    assert labels["cull S1, thin"] == "cull S1"
    assert labels["cull S1 S2, thin, alpha 0.5"] == "cull S1, thin, alpha 0.5"


def test_batches_of_trials_are_whole_ones_of_the_others() -> None:
    for whole, part, expected in ((64, 32, 64), (33, 16, 32), (64, 64, 64), (10, 4, 8), (3, 1, 3)):
        values = shared(batch_size=whole, student_batch_size=part)
        assert budget_for(BASIC, values).trial_batch_size == expected


@pytest.mark.parametrize(("values", "validations"), [(FULL, 11), (shared(price=30.0), 2)], ids=["full", "shared"])
def test_the_works_add_up_to_the_total(network: Network, values: dict[str, Any], validations: int) -> None:
    """Forward and backward passes of a step count three forward passes; validations, statistics and tests one."""
    found = schedule(network, values)

    def work(of: Network | Proposal, batch_size: int, judged: int) -> float:
        images = judged * FACTS.val_images + FACTS.test_images
        return 10 * FACTS.train_images * 3 * seconds(of, batch_size) + images * seconds(of, EVALUATION_BATCH)

    expected = work(network, 64, 11)
    expected += sum(work(r.proposal, 64, validations) for r in found.requests)
    expected += sum(work(p, values["student_batch_size"], validations) for p in found.epochs)
    if values is not FULL:  # statistics on 20 batches, of 32 images or of 64: there are 1,000
        expected += sum(1000 * seconds(r.proposal, EVALUATION_BATCH) for r in found.requests)
        expected += sum(640 * seconds(p, EVALUATION_BATCH) for p in found.epochs)
    assert {*found.epochs.values(), *(r.epochs for r in found.requests)} == {10}
    assert found.total_work == pytest.approx(expected)
    assert found.count == 1 + len(found.requests) + len(found.epochs)


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
