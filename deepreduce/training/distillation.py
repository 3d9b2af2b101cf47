"""The loss of knowledge distillation: match the labels, and match the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Knowledge distillation (Hinton et al., arXiv 1503.02531): temperature, and weight of the teacher's term."""

    temperature: float = 4.0
    weight: float = 0.9


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    distillation: Distillation,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return `weight * T^2 * KL(teacher || student, both at temperature T) + (1 - weight) * cross-entropy`.

    Logits are (batch, classes), labels (batch,); the loss is a scalar, the mean over the batch. T^2 makes the size of
    the gradients independent of T.
    """
    temperature = distillation.temperature
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    hard = F.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)
    return distillation.weight * temperature**2 * soft + (1 - distillation.weight) * hard
