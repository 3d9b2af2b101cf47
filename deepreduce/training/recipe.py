"""Hyperparameters of a training, its learning rate schedule, and its arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from deepreduce.network.network import Network
from deepreduce.training.distillation import Distillation

Decay: TypeAlias = Literal["cosine", "linear", "constant"]
"""How the learning rate falls to zero after the warm-up, or that it stays."""
OptimizerName: TypeAlias = Literal["sgd", "adam"]

PRECISIONS = ("auto", "fp32", "bf16")
"""`auto` is bfloat16 autocast if it is expected to be faster, else float32."""

_BF16_MACS_PER_PARAMETER = 2
"""With fewer, converting the weights costs more than bfloat16 arithmetic gains (docs/training.md)."""

_SOUND_CHANNELS = 16
"""Input channels from which torch trains strided 1x1 convolutions on channels-last maps without damage."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with Nesterov momentum, or Adam, with linear warm-up and then a `decay`.

    `epochs` and `warmup_epochs` may be fractions. `weight_decay` is not applied to norms and biases. `clip_norm`
    bounds the norm of the whole gradient (None: no bound). Every `validate_every`-th epoch is validated.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    clip_norm: float | None = 5.0
    validate_every: int = 1
    decay: Decay = "cosine"
    optimizer: OptimizerName = "sgd"

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return the steps of the whole training: at least one, unless `epochs` is 0."""
        return max(round(self.epochs * steps_per_epoch), 1) if self.epochs else 0


@dataclass(frozen=True, kw_only=True)
class RecipeChanges:
    """Say what a training that a method asks for has otherwise than the run's recipe; None: as the recipe.

    `rate` multiplies the learning rate of the recipe, `learning_rate` takes its place, whatever the batch size.
    `distillation` takes the place of the run's.
    """

    rate: float = 1.0
    learning_rate: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    decay: Decay | None = None
    optimizer: OptimizerName | None = None
    distillation: Distillation | None = None

    def of(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the changes; the loss is not part of it."""
        names = ("learning_rate", "weight_decay", "warmup_epochs", "decay", "optimizer")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        changed = replace(recipe, **{name: value for name, value in given.items() if value is not None})
        return replace(changed, learning_rate=changed.learning_rate * self.rate)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Arithmetic of a training: autocast to bfloat16 or not, and the memory layout of feature maps."""

    bf16: bool
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory layout of images and convolution weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def sound_for(self, module: nn.Module, device: torch.device) -> Precision:
        """Return the arithmetic for training `module`, without channels-last where torch would write out of bounds.

        On a CPU, the backward pass of a 1x1 convolution with a stride and fewer than 16 input channels corrupts
        memory on large channels-last maps (torch 2.14.1: it crashes at 56x56, also in bfloat16).
        """
        if device.type == "cpu" and self.channels_last and any(map(_corrupts_memory, module.modules())):
            return replace(self, channels_last=False)
        return self


def _corrupts_memory(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or layer.groups != 1:
        return False
    return max(layer.stride) > 1 and layer.in_channels < _SOUND_CHANNELS


def choose_precision(name: str, network: Network, *, device: torch.device) -> Precision:
    """Choose the arithmetic for `network` and its reductions from the hardware and the network's shape.

    `name` is one of `PRECISIONS`. Nothing is timed, so a machine always makes the same choice.
    """
    assert name in PRECISIONS
    if device.type == "cuda":
        supported, worthwhile = torch.cuda.is_bf16_supported(including_emulation=False), True
    else:
        parameters = sum(p.numel() for p in network.module.parameters())
        supported = _multiplies_bf16()
        worthwhile = network.macs >= _BF16_MACS_PER_PARAMETER * parameters
    bf16 = name == "bf16" or (name == "auto" and supported and worthwhile)
    return Precision(bf16=bf16, channels_last=worthwhile and (device.type == "cuda" or supported))


def _multiplies_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware: AMX, or AVX-512 with BF16."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # older torch lacks the second
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def learning_rate_at(step: int, *, recipe: Recipe, steps_per_epoch: int) -> float:
    """Return the learning rate of step `step`, counted from 0 over all epochs."""
    total = recipe.num_steps(steps_per_epoch)
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total - 1)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / (total - warmup)
    left = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}
    return recipe.learning_rate * left[recipe.decay]
