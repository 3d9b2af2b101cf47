"""Feature maps: the attention loss is the formula, at the ends of the stages, and only the student learns by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.methods.features import MatchAttention, TeacherFeatures, stage_ends
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import PixelMask
from tests.helpers.learners import TINY, at, prepared


class TwoStages(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.one, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
            self.three, self.fc = nn.Conv2d(5, 7, 3, stride=2, padding=1), nn.Linear(7, 3)
            self.hidden, self.relu = nn.Linear(7, 7), nn.ReLU(inplace=True)

    def maps(self, x: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Outputs of the sites; `keep` are the ReLUs of the third, None: all."""
        first = F.relu(self.one(x))
        second = F.relu(self.two(first))
        z = self.three(second)
        return [first, second, F.relu(z) if keep is None else torch.where(keep, F.relu(z), z)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.three(F.relu(self.two(F.relu(self.one(x))))))
        logits: Tensor = self.fc(F.relu(self.hidden(x.mean((2, 3)))))
        return logits


KEPT = torch.rand((7, 4, 4), generator=torch.Generator().manual_seed(1)) > 0.5
NETWORK = trace_network(TwoStages(0), (3, 8, 8), name="two stages")
ENDS = (NETWORK.sites[1].name, NETWORK.sites[2].name)


def attention(student: list[Tensor], teacher: list[Tensor]) -> float:
    """The formula, written out."""
    loss = 0.0
    for own, taught in zip(student, teacher, strict=True):
        maps = []
        for f in (own.detach().numpy().astype(np.float64), taught.numpy().astype(np.float64)):
            flat = (f**2).mean(axis=1).reshape(len(f), -1)
            maps.append(flat / np.sqrt((flat**2).sum(axis=1, keepdims=True)))
        loss += ((maps[0] - maps[1]) ** 2).mean()
    return loss


def test_the_attention_loss_is_the_formula_and_its_gradient_reaches_the_student_alone() -> None:
    assert stage_ends(NETWORK) == ENDS  # not the vector at the head
    plan = ReductionPlan(sites=((ENDS[1], PixelMask.of(KEPT)),))
    teacher = trace_network(TwoStages(5), (3, 8, 8)).module
    student = prepared(NETWORK, plan, teacher=teacher)
    own = student.module
    callback = MatchAttention(weight=3.0, at=ENDS).build(student)
    assert student.module is not own
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    student.module.train()(x)
    term = callback.loss_term(at(0, student.module), x)
    with torch.no_grad():
        taught = TwoStages(5).maps(x)[1:]
    assert float(term.detach()) == pytest.approx(3.0 * attention(TwoStages(0).maps(x, KEPT)[1:], taught), rel=1e-5)
    term.backward()
    before = {name: weight.grad for name, weight in student.module.named_parameters()}
    assert before["three.weight"] is not None and before["fc.weight"] is None
    assert all(weight.grad is None for weight in teacher.parameters())
    with torch.no_grad():
        student.module.get_parameter("one.weight").zero_()
    callback.on_end(at(1, student.module))
    assert not own.get_parameter("one.weight").any()


def test_the_teachers_features_are_read_at_every_site_though_it_is_not_computed_to_the_end() -> None:
    teacher = trace_network(TwoStages(5), (3, 8, 8)).module
    features = TeacherFeatures(prepared(NETWORK, teacher=teacher), [site.name for site in NETWORK.sites[:3]])
    x, found = torch.randn(2, 3, 8, 8), {}
    features.read(x, lambda name, value: found.update({name: value.clone()}), bf16=False)
    for site, expected in zip(NETWORK.sites[:3], TwoStages(5).maps(x), strict=True):
        assert torch.equal(found[site.name], expected), site.name


def test_without_a_teacher_there_are_no_features_to_match() -> None:
    student = prepared()
    student.teacher = None
    with pytest.raises(PlanError, match="has no teacher"):
        MatchAttention(weight=1.0, at=(TINY.sites[-1].name,)).build(student)
