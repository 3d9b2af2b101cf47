"""Method snl: the derivative of its alphas, its penalty, its path of counts, and its two trainings of each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepreduce
from deepreduce.cost.objective import objective_named
from deepreduce.errors import PlanError
from deepreduce.methods.base import Answers, TrainingAnswer, TrainingRequest, run_search
from deepreduce.methods.mask_learning import Unit
from deepreduce.methods.snl import AlphaLearner, LearnAlphas, Snl, SnlOptions, SoftGate
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import PreparedStudent, TrainingState
from deepreduce.training.loop import train
from deepreduce.transforms import apply_plan
from tests.helpers.images import CPU, striped
from tests.helpers.independent import executed_relus
from tests.helpers.runs import TINY as RUN
from tests.helpers.training import FP32, RECIPE, tiny
from tests.methods.test_base import CONTEXT

TINY = trace_network(tiny(dropout=0.0), (3, 8, 8), name="tiny")
UNITS: list[Unit] = ["pixel", "channel"]


def built(learner: LearnAlphas) -> tuple[AlphaLearner, PreparedStudent]:
    network = apply_plan(TINY, ReductionPlan())
    student = PreparedStudent(original=TINY, plan=ReductionPlan(), seed=0, network=network, module=network.module)
    return learner.build(student), student


def state(module: nn.Module, *, step: int = 0, total: int = 100_000) -> TrainingState:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    return TrainingState(
        module=module, optimizer=optimizer, step=step, total_steps=total, epoch=0
    )  # fmt: skip


# -- alphas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_the_derivative_of_alpha_is_that_of_finite_differences_and_of_the_formula(unit: Unit) -> None:
    torch.manual_seed(0)
    learner, student = built(LearnAlphas(budget=10, unit=unit))
    module = student.module.double().eval()
    learner.on_start(state(module))
    name, layer = list(learner.network.layers.items())[1]
    gate = layer.gate
    assert isinstance(gate, SoftGate)
    alpha = (0.2 + 0.6 * torch.rand_like(learner.alphas[name], dtype=torch.float64)).requires_grad_()
    gate.alpha = alpha
    z: list[Tensor] = []
    outputs: list[Tensor] = []

    def record(x: Tensor, cap: float | None) -> Tensor:
        y = gate(x, cap)
        y.retain_grad()
        z.append(x.detach())
        outputs.append(y)
        return y

    x, labels = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    layer.gate = record
    F.cross_entropy(module(x), labels).backward()
    layer.gate = gate
    assert alpha.grad is not None and outputs[0].grad is not None
    by_formula = -(outputs[0].grad * z[0].clamp(max=0)).sum(0)  # dL/dy (relu(z) - z), summed over the batch
    if unit == "channel":
        by_formula = by_formula.sum((1, 2), keepdim=True)
    assert torch.allclose(alpha.grad[0], by_formula, rtol=1e-9, atol=1e-15)

    step = 1e-6
    for place in (0, 3, 7):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                alpha.view(-1)[place] += sign * step
                losses.append(float(F.cross_entropy(module(x), labels)))
                alpha.view(-1)[place] -= sign * step
        assert float(alpha.grad.reshape(-1)[place]) == pytest.approx(
            (losses[0] - losses[1]) / (2 * step), rel=1e-4, abs=1e-10
        )


@pytest.mark.parametrize("unit", UNITS)
def test_soft_units_at_1_and_at_0_are_relu_and_identity(unit: Unit) -> None:
    learner, student = built(LearnAlphas(budget=10, unit=unit))
    learner.on_start(state(student.module))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(student.module.eval()(x), TINY.module.eval()(x))
    z = torch.randn(2, 8, 8, 8)
    assert torch.equal(SoftGate(torch.zeros(1, 8, 1, 1))(z, None), z)
    half = SoftGate(torch.full((1, 8, 1, 1), 0.5))(8 * z, 6.0)
    assert torch.allclose(half, 0.5 * (F.relu6(8 * z) + 8 * z))


@pytest.mark.parametrize("unit", UNITS)
def test_the_penalty_costs_lambda_for_every_relu_of_a_unit(unit: Unit) -> None:
    """From a loss that does not depend on them, alphas fall by the penalty alone: SGD shows its gradient."""
    learner, student = built(LearnAlphas(budget=10, unit=unit, penalty=1e-3))
    view = state(student.module)
    learner.on_start(view)
    learner._optimizer = torch.optim.SGD(learner.alphas.values(), lr=1.0)  # type: ignore[assignment]
    for alpha in learner.alphas.values():
        alpha.grad = torch.zeros_like(alpha)
    learner.on_backward_end(view)
    relus = 1 if unit == "pixel" else 64
    for alpha in learner.alphas.values():
        assert torch.allclose(alpha, torch.tensor(1 - 1e-3 * relus)) and alpha.grad is None
    for alpha in learner.alphas.values():
        alpha.grad = torch.full_like(alpha, 2.0)
    learner.on_backward_end(view)
    assert all(float(alpha.detach().abs().max()) == 0 for alpha in learner.alphas.values())  # not below 0


# -- in a training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_lambda_drives_the_count_to_the_budget_and_masks_of_the_largest_alphas_follow(unit: Unit) -> None:
    budget = TINY.relu_count // 4
    learner, student = built(LearnAlphas(budget=budget, unit=unit))
    own = student.network.module
    recipe = replace(RECIPE, epochs=25, optimizer="adam", learning_rate=1e-3, weight_decay=0.0, decay="constant")
    train(student.module, striped(), recipe, seed=1, precision=FP32, device=CPU, callbacks=[learner])
    assert budget / 2 < learner.count() < 1.25 * budget and not learner.is_soft

    reduced = apply_plan(TINY, learner.learned_plan())
    assert budget - (64 if unit == "channel" else 1) < reduced.relu_count <= budget
    kept = torch.cat([learner.alphas[n][layer.mask].detach() for n, layer in learner.network.layers.items()])
    lost = torch.cat([learner.alphas[n][~layer.mask].detach() for n, layer in learner.network.layers.items()])
    assert float(kept.min()) >= float(lost.max())
    reduced.module.load_state_dict(own.state_dict())
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(reduced.module.eval()(x), student.module.eval()(x))


def test_the_path_of_counts_falls_from_all_relus_to_the_budget() -> None:
    learner, _ = built(LearnAlphas(budget=100))
    path = [learner.target(share / 20) for share in range(21)]
    assert path[0] == TINY.relu_count and path == sorted(path, reverse=True) and path[18:] == [100] * 3


def test_a_training_of_one_step_meets_its_budget() -> None:
    learner, student = built(LearnAlphas(budget=200))
    recipe = replace(RECIPE, epochs=0.25, warmup_epochs=0.0)
    train(student.module, striped(), recipe, seed=1, precision=FP32, device=CPU, callbacks=[learner])
    assert apply_plan(TINY, learner.learned_plan()).relu_count == 200


# -- the search -------------------------------------------------------------------------------------------------


def trained(requests: Sequence[TrainingRequest]) -> Answers:
    return {r: TrainingAnswer(val_accuracy=0.5, proposal=r.proposal) for r in requests}


def search(context: Any = CONTEXT, train: Any = trained, **options: Any) -> Any:
    return run_search(Snl().search(TINY, SnlOptions(**options), context), train)


def test_each_budget_has_a_search_and_then_a_finetuning_of_its_own() -> None:
    asked: list[TrainingRequest] = []

    def train(requests: Sequence[TrainingRequest]) -> Answers:
        asked.extend(requests)
        return trained(requests)

    found = search(train=train, budgets=(640, 128), search_epochs=30, finetune_epochs=10)
    first, second, *further = asked
    assert [r.learner for r in (first, second)] == [LearnAlphas(budget=640), LearnAlphas(budget=128)]
    assert [r.after for r in asked] == [None, None, first, second] and all(r.learner is None for r in further)
    whole = CONTEXT.budget.path_epochs([first.proposal, second.proposal])
    assert [r.epochs for r in asked] == [0.75 * whole[0], 0.75 * whole[1], 0.25 * whole[0], 0.25 * whole[1]]
    changes = [r.changes for r in (first, further[0]) if r.changes]
    assert [(c.optimizer, c.learning_rate, c.weight_decay) for c in changes] == [
        ("adam", 1e-3, 0),
        ("sgd", 1e-3, 5e-4),
    ]
    assert found.trained == {p.plan_id for p in found.networks} and len(found.networks) == 2


def test_a_failed_training_leaves_its_budget_out_and_no_other() -> None:
    def fail(requests: Sequence[TrainingRequest]) -> Answers:
        return {r: TrainingAnswer() if "640" in r.proposal.label else a for r, a in trained(requests).items()}

    found = search(train=fail, budgets=(640, 128))
    assert [p.relu_count for p in found.networks] == [128]
    (reason,) = found.left_out
    assert "training failed" in reason and "640" in reason


def test_what_it_can_not_do_is_refused() -> None:
    with pytest.raises(PlanError, match=r"method snl removes ReLUs for their number.*take method levers"):
        search(replace(CONTEXT, objective=objective_named("latency", "cheetah-lan")))
    with pytest.raises(PlanError, match="no channel has as few ReLUs"):
        search(budgets=(1,), unit="channel")
    with pytest.raises(PlanError, match=r"method.least is 0.6, more than method.most, 0.5"):
        search(most=0.5, least=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snl", "autorep"])
def test_a_run_ends_with_a_network_of_exactly_each_budget(name: str, tmp_path: Path) -> None:
    method = {"name": name, "budgets": (400, 100), "search_epochs": 2, "finetune_epochs": 1}
    result = deepreduce.optimize(out=tmp_path / "run", **{**RUN, "method": method})
    assert [network.relu_count for network in result.candidates] == [400, 100]
    for network in result.candidates:
        assert sum(executed_relus(network.model, (1, 8, 8))) == network.measurement.relu_count == network.relu_count
        assert network.measurement.val_accuracy > 0.2
    assert len(list((tmp_path / "run" / "candidates").iterdir())) == 4
