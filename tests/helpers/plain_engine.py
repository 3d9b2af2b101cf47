"""Run a program in plain JAX, without secure computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepreduce.network import Network
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.lowering.lower import Lowered, lower


def lowered(network: Network, *, batch: int = 1) -> Lowered:
    """Return the prepared and lowered network."""
    return lower(prepare(network), batch=batch)


def logits_of(found: Lowered, images: Tensor) -> np.ndarray[Any, Any]:
    """Return the program's logits (N, classes) for the images (N, C, H, W) of a query."""
    from deepreduce.private.spu.layer_function import layer_function

    program = found.program
    values: dict[str, Any] = dict(found.weights)
    values[program.image] = images.permute(0, 2, 3, 1).numpy()
    for layer in program.layers:
        given = [values[name] for name in (*layer.inputs, *layer.weights)]
        values.update(zip(layer.outputs, layer_function(layer, found.masks)(*given), strict=True))
    return np.asarray(values[program.logits])


def calibrated(module: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Give the module batch-norm statistics of random images; return it in evaluation mode."""
    torch.manual_seed(0)
    module.train()
    with torch.no_grad():
        for _ in range(10):
            module(torch.randn(16, *shape))
    return module.eval()


def assert_agrees(network: Network, *, images: int = 2) -> None:
    """Check that the network, lowered for a query of `images`, computes what the network does for each of them."""
    found = lowered(network, batch=images)
    network.module.eval()
    torch.manual_seed(1)
    batch = torch.randn(images, *network.input_shape)
    with torch.no_grad():
        expected = torch.cat([network.module(image[None]) for image in batch]).numpy()
    np.testing.assert_allclose(logits_of(found, batch), expected, rtol=1e-3, atol=1e-4)
