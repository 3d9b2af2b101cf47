"""The distillation loss against the formula written out, and in its limits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deepreduce.training import Distillation, distillation_loss
from deepreduce.utils.seed import derived_generator


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(5, 4, generator=derived_generator(seed), dtype=torch.float64)


STUDENT, TEACHER, LABELS = logits(0), logits(1), torch.tensor([0, 3, 1, 1, 2])


def by_hand(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, weight: float, smoothing: float
) -> float:
    total = 0.0
    for s, t, label in zip(student, teacher, LABELS, strict=True):
        p = torch.exp(t / temperature) / torch.exp(t / temperature).sum()
        q = torch.exp(s / temperature) / torch.exp(s / temperature).sum()
        divergence = sum(float(p[c]) * (float(p[c].log()) - float(q[c].log())) for c in range(4))
        wanted = [smoothing / 4 + (1 - smoothing) * (c == int(label)) for c in range(4)]
        likely = torch.exp(s) / torch.exp(s).sum()
        entropy = -sum(wanted[c] * float(likely[c].log()) for c in range(4))
        total += weight * temperature**2 * divergence + (1 - weight) * entropy
    return total / 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_formula(temperature: float, weight: float, smoothing: float) -> None:
    loss = distillation_loss(
        STUDENT,
        TEACHER,
        LABELS,
        distillation=Distillation(temperature=temperature, weight=weight),
        label_smoothing=smoothing,
    )
    assert loss.shape == ()
    assert float(loss) == pytest.approx(by_hand(STUDENT, TEACHER, temperature, weight, smoothing))


def test_without_weight_only_the_labels_count_and_with_all_of_it_only_the_teacher() -> None:
    labels_only = distillation_loss(STUDENT, TEACHER, LABELS, distillation=Distillation(weight=0.0))
    assert torch.equal(labels_only, F.cross_entropy(STUDENT, LABELS))
    teacher_only = Distillation(weight=1.0)
    assert float(distillation_loss(TEACHER, TEACHER, LABELS, distillation=teacher_only)) == pytest.approx(
        0, abs=1e-12
    )
    one, other = (distillation_loss(STUDENT, TEACHER, y, distillation=teacher_only) for y in (LABELS, 3 - LABELS))
    assert torch.equal(one, other)


def test_the_size_of_gradients_hardly_depends_on_a_high_temperature() -> None:
    sizes = []
    for temperature in (20.0, 40.0):
        student = STUDENT.clone().requires_grad_()
        distillation = Distillation(temperature=temperature, weight=1.0)
        distillation_loss(student, TEACHER, LABELS, distillation=distillation).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_logits_far_apart_give_a_finite_loss() -> None:
    far = torch.tensor([[1e4, -1e4, 0.0, 0.0]] * 5)
    assert bool(torch.isfinite(distillation_loss(far, -far, LABELS, distillation=Distillation(temperature=1.0))))
