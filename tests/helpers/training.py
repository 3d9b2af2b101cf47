"""A tiny network with everything that training has to keep: weights, running statistics, dropout, a shared layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.data import ImageData
from deepreduce.training import Precision, Recipe, Snapshot, TrainingSummary, train
from tests.helpers.images import CPU

FP32 = Precision(bf16=False, channels_last=False)
RECIPE = Recipe(epochs=2, batch_size=18, learning_rate=0.1, warmup_epochs=0.5, label_smoothing=0.1)


class Tiny(nn.Module):
    def __init__(self, *, dropout: float = 0.2, channels: int = 3, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.twice, self.dropout = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(dropout)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return self.fc(self.dropout(x.mean(dim=(2, 3))))


def tiny(seed: int = 0, **options: Any) -> Tiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tiny(**options)


def fit(module: nn.Module, data: ImageData, recipe: Recipe = RECIPE, **options: Any) -> TrainingSummary:
    """Call `train` with what most tests don't care about."""
    return train(module, data, recipe, **({"seed": 0, "precision": FP32, "device": CPU} | options))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules are bit-equal, running statistics included."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def curve(trained: TrainingSummary) -> list[tuple[Any, ...]]:
    """Return the history without what a clock measured."""
    return [(r.epoch, r.learning_rate, r.train_loss, r.val_accuracy) for r in trained.history]


class StopAfter:
    """Ask a training to stop after `steps` steps, and keep its snapshot: `fit(..., **stopper.options())`."""

    def __init__(self, steps: int) -> None:
        self.left, self.snapshot = steps, Snapshot(tensors={}, values={})

    def options(self) -> dict[str, Any]:
        """Return keyword arguments of `train`."""
        return {"save": self._keep, "stop": self._stop}

    def _stop(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def _keep(self, snapshot: Snapshot) -> None:
        tensors: Mapping[str, Tensor] = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.snapshot = Snapshot(tensors=tensors, values=snapshot.values)
