"""Estimate how long a run takes: time a few real training steps, and scale by multiply-accumulates (MACs)."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from deepreduce.network import ComputeCost, Network
from deepreduce.network.copying import copy_module
from deepreduce.training import Precision

BACKWARD = 2  # a backward pass computes about twice as much as a forward pass
FORWARD_SHARE = 1 / (1 + BACKWARD)
"""Cost of a forward pass as a share of a training step's."""

EVALUATION_BATCH = 256
"""Batch size of validation and test."""

_TIMED_STEPS = 3
_MACS_PER_STEP = 1e10  # enough to measure the machine's speed, little enough to be quick


@dataclass(frozen=True, kw_only=True)
class Work:
    """Training one network of this compute cost, and computing it for images that it is evaluated on."""

    compute_cost: ComputeCost
    batch_size: int
    epochs: float
    train_images: int
    evaluated_images: float

    @property
    def total(self) -> float:
        """MACs of all passes."""
        trained = (1 + BACKWARD) * self.compute_cost.per_image(self.batch_size)
        evaluated = self.compute_cost.per_image(EVALUATION_BATCH)
        return self.epochs * self.train_images * trained + self.evaluated_images * evaluated


def seconds_per_mac(network: Network, *, batch_size: int, precision: Precision, device: torch.device) -> float:
    """Time some training steps of a copy of `network`, which must have real weights, on images of noise."""
    step = TimedStep(network, batch_size=batch_size, precision=precision, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout draws too
        times = [step() for _ in range(1 + _TIMED_STEPS)]  # the first step also allocates
    macs = step.batch * (1 + BACKWARD) * network.compute_cost.per_image(step.batch)
    return statistics.median(times[1:]) / max(macs, 1)


class TimedStep:
    """A copy of a network; each call takes a training step on `batch` images of noise and returns its seconds."""

    def __init__(self, network: Network, *, batch_size: int, precision: Precision, device: torch.device) -> None:
        form = precision.sound_for(network.module, device).memory_format
        self._module = copy_module(network.module).to(device, memory_format=form).train()  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(self._module.parameters(), lr=1e-6, momentum=0.9, fused=True)
        self._device, self._bf16 = device, precision.bf16
        self.batch = max(2, min(batch_size, int(_MACS_PER_STEP / max(network.macs, 1))))
        generator = torch.Generator(device).manual_seed(0)
        images = torch.randn(self.batch, *network.input_shape, device=device, generator=generator)  # (batch, C, H, W)
        self._images = images.contiguous(memory_format=form)

    def __call__(self) -> float:
        begin = time.perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            logits = self._module(self._images)
        loss = F.cross_entropy(logits.float(), logits.detach().argmax(dim=1))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        float(loss.detach())  # waits for the device
        return time.perf_counter() - begin
