"""Recompute batch-norm statistics for the weights that a training ended with."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from deepreduce.data import ImageData
from deepreduce.training.recipe import Precision

_NORMS = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def recompute_statistics(
    module: nn.Module,
    data: ImageData,
    *,
    batches: int,
    batch_size: int,
    seed: int,
    precision: Precision,
    device: torch.device,
) -> None:
    """Replace the running mean and variance of every batch-norm by plain averages over `batches` augmented batches.

    A training keeps decaying averages while the weights change, so after a short training they belong to earlier
    weights. `module` keeps its mode; norms without statistics stay as they are.
    """
    norms = [m for m in module.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    if not norms:
        return
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    was_training = module.training
    module.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain average over all batches
            norm.train()
        stream = data.train.train_batches(batch_size=batch_size, seed=seed, epoch=0, device=device)
        for images, _, _ in itertools.islice(stream, batches):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision.bf16):
                module(images.contiguous(memory_format=precision.memory_format))
    finally:
        module.train(was_training)
        for norm, momentum, training in before:
            norm.momentum = momentum
            norm.train(training)
