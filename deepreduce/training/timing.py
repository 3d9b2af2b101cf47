"""How long a run will take: a few real training steps, scaled by multiply-accumulates."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from deepreduce.network import ComputeCost, Network
from deepreduce.training import Precision

BACKWARD = 2  # a backward pass computes about twice what the forward pass does
ANSWER = 1 / (1 + BACKWARD)
"""What an answer to an image costs, in training steps of it."""

JUDGED_BATCH = 256
"""Images that are validated or tested at a time."""

_TIMED_STEPS = 3
_MACS_PER_STEP = 1e10  # enough to see the machine's speed, not enough to wait for


@dataclass(frozen=True, kw_only=True)
class Work:
    """Training one network, in batches of `batch_size`, with a validation after every epoch and one test."""

    load: ComputeCost
    batch_size: int
    epochs: float
    train_images: int
    val_images: int
    test_images: int

    @property
    def total(self) -> float:
        """Multiply-accumulates of all passes."""
        step, judged = (1 + BACKWARD) * self.load.per_image(self.batch_size), self.load.per_image(JUDGED_BATCH)
        return self.epochs * (self.train_images * step + self.val_images * judged) + self.test_images * judged


def seconds_per_mac(network: Network, *, batch_size: int, precision: Precision, device: torch.device) -> float:
    """Measured by training a copy of `network` for some steps on noise; `network` must have real weights."""
    step = TimedStep(network, batch_size=batch_size, precision=precision, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout draws too
        times = [step() for _ in range(1 + _TIMED_STEPS)]  # the first step also allocates
    macs = step.batch * (1 + BACKWARD) * network.compute_cost.per_image(step.batch)
    return statistics.median(times[1:]) / max(macs, 1)


class TimedStep:
    """Takes a training step of `batch` noisy images with a copy of a network, and returns its seconds."""

    def __init__(self, network: Network, *, batch_size: int, precision: Precision, device: torch.device) -> None:
        form = precision.memory_format
        self._module = copy.deepcopy(network.module).to(device, memory_format=form).train()  # type: ignore[call-overload]
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
