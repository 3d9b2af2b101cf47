"""A search is a generator: it asks, is answered, and ends with its proposals, whoever answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from deepreduce.errors import PlanError
from deepreduce.methods.base import Answers, Search, SearchContext, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.deepreduce import DeepReduce, DeepReduceOptions, provisional_cull_order
from deepreduce.methods.proposal import Proposal, Proposals
from deepreduce.network import Network
from deepreduce.transforms import cull_plan
from tests.helpers.zoo import TOYS

BASIC = TOYS["basic"].network()


class EveryEpoch:
    """A budget that trains everything for one epoch."""

    def epoch_costs(self, networks: Sequence[Proposal]) -> list[float]:
        return [1.0] * len(networks)

    def trial_epochs(self, networks: Sequence[Proposal]) -> list[float]:
        return [1.0] * len(networks)

    def pays_in_full(self, networks: Sequence[Proposal]) -> bool:
        return True

    def path_epochs(self, networks: Sequence[Proposal], worth: Sequence[float] | None = None) -> list[float]:
        return [1.0] * len(networks)


CONTEXT = SearchContext(budget=EveryEpoch(), val_images=10_000)


def ask_twice(network: Network) -> Search:
    """Ask for one training after the other, and propose the better network."""
    proposals = [Proposal.of(network, cull_plan(network, [stage]), stage) for stage in network.stages[:2]]
    accuracies = {}
    for proposal in proposals:
        request = TrainingRequest(proposal=proposal, epochs=1.0)
        answers = yield [request]
        accuracies[proposal] = answers[request].val_accuracy or 0.0
    return Proposals(networks=(max(accuracies, key=lambda p: accuracies[p]),))


def by_label(accuracies: dict[str, float | None], asked: list[str]) -> object:
    def answer(requests: Sequence[TrainingRequest]) -> Answers:
        asked.extend(request.proposal.label for request in requests)
        return {r: TrainingAnswer(val_accuracy=accuracies[r.proposal.label]) for r in requests}

    return answer


def test_a_search_is_sent_the_results_of_what_it_asks_for_as_often_as_it_asks() -> None:
    for better in ("S1", "S2"):
        asked: list[str] = []
        answer = by_label({"S1": 0.5, "S2": 0.5} | {better: 0.9}, asked)
        proposals = run_search(ask_twice(BASIC), answer)  # type: ignore[arg-type]
        assert [p.label for p in proposals.networks] == [better]
        assert asked == ["S1", "S2"]


def test_a_search_that_needs_no_training_asks_for_none() -> None:
    options = DeepReduceOptions(cull_order=("S2",))
    proposals = run_search(DeepReduce().search(BASIC, options, CONTEXT), pytest.fail)
    assert proposals.cull_order == ("S2",) and proposals.criticality is None
    assert "cull S2" in {p.label for p in proposals.networks}


def test_deepreduce_culls_in_the_order_of_the_accuracies_that_it_is_sent() -> None:
    stages = [s for s, n in BASIC.stage_relu_counts.items() if n]
    accuracies = {f"only {stage}": 0.2 + 0.2 * number for number, stage in enumerate(stages)}
    options = DeepReduceOptions(criticality_exponent=0.0)
    for names in (accuracies, dict(zip(accuracies, reversed(accuracies.values()), strict=True))):
        answer = by_label(names, [])  # type: ignore[arg-type]
        proposals = run_search(DeepReduce().search(BASIC, options, CONTEXT), answer)  # type: ignore[arg-type]
        expected = sorted(stages, key=lambda stage: names[f"only {stage}"])[:-1]
        assert list(proposals.cull_order) == expected
        assert proposals.criticality is not None
        assert proposals.criticality.val_accuracy == {s: names[f"only {s}"] for s in stages}


def test_a_probe_that_failed_counts_as_least_critical(caplog: pytest.LogCaptureFixture) -> None:
    stages = [s for s, n in BASIC.stage_relu_counts.items() if n]
    failed = stages[-1]
    answer = by_label({f"only {s}": None if s == failed else 0.5 for s in stages}, [])
    proposals = run_search(DeepReduce().search(BASIC, DeepReduceOptions(), CONTEXT), answer)  # type: ignore[arg-type]
    assert proposals.cull_order[0] == failed
    assert f"only {failed} could not be trained, so stage {failed} counts as least critical" in caplog.text


def test_without_any_result_the_order_is_the_provisional_one() -> None:
    stages = [s for s, n in BASIC.stage_relu_counts.items() if n]
    answer = by_label({f"only {s}": None for s in stages}, [])
    proposals = run_search(DeepReduce().search(BASIC, DeepReduceOptions(), CONTEXT), answer)  # type: ignore[arg-type]
    assert proposals.cull_order == provisional_cull_order(BASIC) and proposals.criticality is None


def test_what_a_search_raises_reaches_who_runs_it() -> None:
    options = DeepReduceOptions(cull_order=("S9",))
    with pytest.raises(PlanError, match="unknown stage 'S9'"):
        run_search(DeepReduce().search(BASIC, options, CONTEXT), pytest.fail)
