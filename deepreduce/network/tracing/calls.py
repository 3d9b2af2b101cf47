"""Layers that a traced graph calls in the place of functions that a graph can't express."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FunctionCall(nn.Module):
    """Calls a `torch.autograd.Function`, whose gradient is its own."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function.apply(*args)

    def extra_repr(self) -> str:
        return self.function.__name__


class UncountedNorm(nn.modules.batchnorm._BatchNorm):
    """A batch-norm for maps of any size that does not count its batches."""

    def forward(self, images: Tensor) -> Tensor:
        return F.batch_norm(
            images, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    _load_from_state_dict = nn.Module._load_from_state_dict  # batch-norm's own adds the counter where it is missing


class ModeCall(nn.Module):
    """Calls a function some of whose arguments are other ones in training than in evaluation."""

    def __init__(
        self, function: Callable[..., Any], *, training: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.function, self.in_training, self.in_evaluation = function, dict(training), dict(evaluation)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs, **(self.in_training if self.training else self.in_evaluation))

    def extra_repr(self) -> str:
        return f"{self.function.__name__}, training={self.in_training}, evaluation={self.in_evaluation}"
