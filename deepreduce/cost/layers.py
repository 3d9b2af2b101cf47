"""What a layer is to a cost: plain values, so that a cost knows no network."""

from __future__ import annotations

import math
from dataclasses import dataclass

CONV, LINEAR, MATMUL = "conv", "linear", "matmul"
RELU, RELU6, MAX_POOL = "relu", "relu6", "max_pool"
BATCH_NORM, POOL, ADD = "batch_norm", "pool", "add"
OTHER = "other"

MULTIPLYING = (CONV, LINEAR, MATMUL)
"""Kinds of layers that multiply what is secret with weights (or with each other)."""

COMPARING = (RELU, RELU6, MAX_POOL)
"""Kinds of layers that compare secrets."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a network, for one image.

    `kind` is one of this module's names. Shapes are without the batch dimension: (C, H, W) of a feature map,
    (features,) of a vector. `kernel` is (height, width) of a convolution's or a pool's window; `macs` are
    multiply-accumulates. `kept` is how many elements of a ReLU a mask keeps, None where there is no mask.
    """

    name: str
    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    groups: int = 1
    macs: int = 0
    kept: int | None = None

    @property
    def inputs(self) -> int:
        """Elements read."""
        return math.prod(self.in_shape)

    @property
    def outputs(self) -> int:
        """Elements made."""
        return math.prod(self.out_shape)

    @property
    def weights(self) -> int:
        """Weights of a convolution or linear layer, its bias not counted; 0 for other kinds."""
        if self.kind == CONV:
            return self.out_shape[0] * self.in_shape[0] // self.groups * math.prod(self.kernel)
        return self.out_shape[-1] * self.in_shape[-1] if self.kind == LINEAR else 0

    @property
    def comparisons(self) -> int:
        """Comparisons of secrets: one per element of a ReLU, two of a ReLU6, k*k - 1 of a max-pool of k x k."""
        each = {RELU: 1, RELU6: 2, MAX_POOL: math.prod(self.kernel) - 1}
        return each.get(self.kind, 0) * self.outputs

    @property
    def kept_comparisons(self) -> int:
        """Comparisons whose result is used: those of the elements that a mask keeps."""
        return self.comparisons if self.kept is None else self.comparisons * self.kept // self.outputs


def conv_macs(out_shape: tuple[int, ...], in_channels: int, *, kernel: tuple[int, int], groups: int) -> int:
    """Multiply-accumulates of a convolution for one image: each output meets one filter's weights."""
    return math.prod(out_shape) * (in_channels // groups) * math.prod(kernel)
