"""Finetune a network whose masks are fixed by labels, logits and feature maps, as SENet and ReLUPruner do."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deepreduce.errors import PlanError
from deepreduce.methods.features import MatchAttention, stage_ends
from deepreduce.methods.options import MethodOptions
from deepreduce.methods.phases import Phase
from deepreduce.network import Network
from deepreduce.training import Distillation, RecipeChanges
from deepreduce.utils.fields import NotNegative, Positive


class MatchingOptions(MethodOptions):
    """Options of the finetuning, whose loss is labels cross-entropy + logits distillation + features attention."""

    finetune_rate: Annotated[Positive, Field(le=100)] = 0.2
    """Learning rate of the finetuning, in the run's (both papers: 0.01, where the teacher has 0.05)."""
    labels: Annotated[Positive, Field(le=1e6)] = 0.5
    """Weight of the cross-entropy with the labels while finetuning."""
    logits: Annotated[NotNegative, Field(le=1e6)] = 0.5
    """Weight of the distillation from the teacher's logits while finetuning (both papers: 0.5)."""
    features: Annotated[NotNegative, Field(le=1e9)] = 1000.0
    """Weight of the attention loss at the end of each stage while finetuning (both papers: 1000); 0 leaves it out,
    which spares a forward pass of the teacher in every step."""
    temperature: Annotated[Positive, Field(ge=1e-3, le=1e6)] = 4.0
    """Temperature of the distillation (both papers), in the place of distill.temperature."""


def finetuning(network: Network, options: MatchingOptions, *, epochs: float) -> Phase:
    """Return the phase of the finetuning, of so many epochs as published.

    The loss is divided by the sum of the weights of labels and logits, by which the learning rate is multiplied: to
    SGD that is the same step. Raises `PlanError` where no feature maps can be matched though they have a weight.
    """
    whole = options.labels + options.logits
    changes = RecipeChanges(
        optimizer="sgd",
        rate=options.finetune_rate * whole,
        distillation=Distillation(temperature=options.temperature, weight=options.logits / whole),
    )
    if not options.features:
        return Phase(epochs=epochs, changes=changes)
    ends = stage_ends(network)
    if not ends:
        raise PlanError(
            f"{network.name} has no ReLU on a feature map of several positions, so there is no attention to match;"
            " give method.features=0"
        )
    match = MatchAttention(weight=options.features / whole, at=ends)
    return Phase(epochs=epochs, changes=changes, callbacks=(match,), extra_forwards=1.0)
