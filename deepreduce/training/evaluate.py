"""Evaluate a trained network in float32, the arithmetic in which its saved weights will be used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepreduce.data import Split
from deepreduce.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predicted and true classes of the images of a split, in the split's order: (images,) int64 each, on the CPU."""

    predicted: Tensor
    labels: Tensor

    @property
    def accuracy(self) -> float:
        """Share of images whose predicted class is right."""
        return float((self.predicted == self.labels).double().mean())


@torch.inference_mode()
def predict(module: nn.Module, split: Split, *, batch_size: int, device: str | torch.device = "cpu") -> Predictions:
    """Predict the class of every image of `split`; `module` keeps its training or evaluation mode."""
    was_training = module.training
    module.eval()
    predicted, labels = [], []
    try:
        for images, truth in split.eval_batches(batch_size=batch_size, device=torch.device(device)):
            predicted.append(module(images).argmax(dim=1).cpu())  # (batch, classes) -> (batch,)
            labels.append(truth.cpu())
    finally:
        module.train(was_training)
    return Predictions(predicted=torch.cat(predicted), labels=torch.cat(labels))


def churn(a: Predictions, b: Predictions) -> float:
    """Return the share of images for which two networks predict different classes.

    Raises `UserError` for predictions of different splits.
    """
    if not torch.equal(a.labels, b.labels):
        raise UserError("churn compares predictions for the same images; these are of different splits")
    return float((a.predicted != b.predicted).double().mean())
