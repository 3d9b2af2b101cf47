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
    """A batch-norm for maps of any size whose state does not count its batches."""

    _batches = 0

    def forward(self, images: Tensor) -> Tensor:
        self._batches += self.training
        momentum = 1 / max(1, self._batches) if self.momentum is None else self.momentum
        return F.batch_norm(
            images, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
        )

    def reset_running_stats(self) -> None:
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
        self._batches = 0

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        nn.Module._load_from_state_dict(self, *args, **kwargs)  # batch-norm's own asks for the counter


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
