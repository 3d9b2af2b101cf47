"""Check that the images of a query do not change each other's logits."""

from __future__ import annotations

import torch

from deepreduce.errors import UserError
from deepreduce.network import Network

_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit: PyTorch's own sums differ by the batch."""


def check_images_apart(network: Network, batch: int) -> None:
    """Run the network on `batch` random images at once and on each of them alone.

    Raises `UserError` if it can't take as many images at once, and if the logits of one depend on the others.
    """
    if batch == 1:
        return
    images = torch.randn(batch, *network.input_shape, generator=torch.Generator().manual_seed(0))
    scales = torch.linspace(0.5, 2.0, batch).view(-1, 1, 1, 1)  # unequal: a mean over the images would be seen
    with torch.no_grad():
        alone = torch.cat([network.module(image[None]) for image in scales * images])  # (batch, classes)
        try:
            together = network.module(scales * images)
        except Exception as error:  # torch's, of any type, where a shape in forward is that of one image
            first_line = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{network.name} can't take {batch} images in one query ({type(error).__name__}: {first_line});"
                " give a batch of 1"
            ) from error
    if together.shape != alone.shape or not _are_close(together, alone):
        raise UserError(
            f"{network.name} computes other logits for an image if others are in its batch; give a batch of 1"
        )


def _are_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    limit = _TOLERANCE * max(float(expected.abs().max()), 1e-3)
    return float((found - expected).abs().max()) <= limit
