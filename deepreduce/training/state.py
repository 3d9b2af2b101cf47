"""State of a training, to be saved, copied and restored: weights, momenta, and the callbacks' state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.training.callbacks import TrainingCallback
from deepreduce.training.events import Snapshot

_OPTIMIZER = {"momentum_buffer": "momentum", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"}
"""What an optimizer keeps for each parameter -> its prefix in a snapshot: of SGD, and of Adam."""


class RestorableState:
    """The weights, batch-norm statistics and momenta of a training, and the state of its callbacks."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, callbacks: TrainingCallback) -> None:
        self._module, self._optimizer, self._callbacks = module, optimizer, callbacks

    def snapshot(self) -> Snapshot:
        """Return the present state; its tensors are the live ones, not copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self._module.state_dict().items()}
        for name, parameter in self._module.named_parameters():
            for kept, value in self._optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"{_OPTIMIZER[kept]}.{name}"] = value
        values: dict[str, Any] = {}
        for name, value in self._callbacks.state_dict().items():
            if isinstance(value, Tensor):
                tensors[f"callbacks.{name}"] = value
            else:
                values[name] = value
        return Snapshot(tensors=tensors, values=values)

    def copy(self) -> Snapshot:
        """Return a copy of the present state, which further training does not change."""
        live = self.snapshot()
        tensors = {name: tensor.clone() for name, tensor in live.tensors.items()}
        return Snapshot(tensors=tensors, values=copy.deepcopy(dict(live.values)))

    def load(self, state: Snapshot) -> None:
        """Go back to a state. Raises `KeyError`, `TypeError`, `ValueError` or `RuntimeError` if it is another's."""
        weights = with_prefix(state.tensors, "model.")
        if weights.keys() != self._module.state_dict().keys():
            raise ValueError("it holds weights of other names")
        self._module.load_state_dict(weights)
        self._optimizer.state.clear()
        for name, parameter in self._module.named_parameters():
            for kept, prefix in _OPTIMIZER.items():
                if (value := state.tensors.get(f"{prefix}.{name}")) is not None:
                    self._optimizer.state[parameter][kept] = _laid_out_as(parameter, value)
        self._callbacks.load_state_dict({**state.values, **with_prefix(state.tensors, "callbacks.")})


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a copy in the memory layout of the parameter, so that arithmetic stays that of one whole training."""
    if value.shape != parameter.shape:  # the number of steps
        return value.clone().to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
