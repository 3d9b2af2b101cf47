"""Estimate the memory of a training step, so that a batch that can't fit is refused before anything is trained."""

from __future__ import annotations

import torch

from deepreduce.errors import ModelError
from deepreduce.network import Network
from deepreduce.utils.format import BYTES
from deepreduce.utils.memory import check_memory

_BYTES_PER_RELU = 4
"""A backward pass needs each ReLU's output and what the layer before it was given, in 2 bytes each at the least."""


def check_batch_fits(network: Network, *, batch_size: int, device: torch.device) -> None:
    """Raise `ModelError` if what a training step keeps for its backward pass exceeds the device's free memory.

    What it keeps is taken to be 4 bytes for each ReLU and each input value, which is less than what it really is.
    """
    channels, height, width = network.input_shape
    needed = float(batch_size * _BYTES_PER_RELU * (network.relu_count + channels * height * width))
    what = f"a batch of {batch_size:,} images of {channels}x{height}x{width} through {network.name}"
    repair = "lower training.batch_size, data.image_size or model.width"
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if needed > free:
            raise ModelError(
                f"{what} needs {BYTES.text(needed)} or more, and {device} has {BYTES.text(free)} free; {repair}"
            )
        return
    check_memory(needed, what, repair=repair, error=ModelError)
