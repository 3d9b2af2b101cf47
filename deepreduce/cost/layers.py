"""Layers as plain values: what cost models and secure computation need to know of them, without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

CONV, LINEAR, PRODUCT = "convolution", "linear", "product"
RELU, RELU6, CLAMP, MAX_POOL = "relu", "relu6", "clamp", "max_pool"
ACTIVATION, SQUARE = "activation", "square"
SCALE, AVG_POOL, ADD = "scale", "avg_pool", "add"
MOVE, REVEAL, OTHER = "move", "reveal", "other"

KINDS = (
    CONV, LINEAR, RELU, RELU6, CLAMP, ACTIVATION, MAX_POOL, AVG_POOL, PRODUCT, SQUARE, SCALE,
    ADD, MOVE, REVEAL, OTHER,
)  # fmt: skip
"""Kinds of layers by what they cost a protocol. A layer whose operations are of several kinds has the first of them.

`activation` is any other than ReLU and ReLU6 (leaky ReLU, hardswish, sigmoid, softmax). `product` multiplies
activations with each other (gates, attention), `square` with themselves (polynomials), `scale` with the server's
numbers (a batch-norm that no convolution takes in); `add` sums, or multiplies by public numbers; `move` reorders
values; `reveal` is the last step of a query, in which the client learns the logits.
"""

MULTIPLYING = (CONV, LINEAR, PRODUCT)
"""Kinds of layers that multiply secrets with weights or with each other."""

COMPARING = (RELU, RELU6, ACTIVATION, MAX_POOL)
"""Kinds of layers that compare secrets."""

LOCAL = (ADD, MOVE)
"""Kinds of layers that each party computes without communication."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a network, for one image or for the `images` of a query (`for_images`).

    `kind` is one of `KINDS`. Shapes are without the batch dimension: (C, H, W) of a feature map,
    (features,) of a vector. `kernel` is (height, width) of a convolution's or a pool's window; `macs` are
    multiply-accumulates. `kept` is how many of its outputs an element-wise layer (ReLU, activation, square, scale)
    computes under a mask; None: all. `moved` is how many elements each party moves one by one because the mask is no
    slice of channels. An output of an activation costs as much as `compared` comparisons, `levels` of which follow
    each other. `selected` is how many outputs secret signs select, where they are not as many as the comparisons:
    channels that share the sign of another. All counts are those of all images.
    """

    name: str
    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    groups: int = 1
    macs: int = 0
    kept: int | None = None
    compared: int = 0
    levels: int = 0
    moved: int = 0
    selected: int | None = None
    images: int = 1

    def for_images(self, images: int) -> Layer:
        """Return this layer of one image for a query of `images` images."""
        assert self.images == 1, self.images
        if images == 1:
            return self
        kept = None if self.kept is None else images * self.kept
        selected = None if self.selected is None else images * self.selected
        return replace(
            self, images=images, macs=images * self.macs, kept=kept, moved=images * self.moved, selected=selected
        )

    @property
    def inputs(self) -> int:
        """Elements of the input."""
        return self.images * math.prod(self.in_shape)

    @property
    def outputs(self) -> int:
        """Elements of the output."""
        return self.images * math.prod(self.out_shape)

    @property
    def weights(self) -> int:
        """Weights of a convolution or linear layer without its bias; 0 for other kinds."""
        if self.kind == CONV:
            return self.out_shape[0] * self.in_shape[0] // self.groups * math.prod(self.kernel)
        return self.out_shape[-1] * self.in_shape[-1] if self.kind == LINEAR else 0

    @property
    def computed(self) -> int:
        """Outputs that are computed: those that a mask keeps, all without a mask."""
        return self.outputs if self.kept is None else self.kept

    @property
    def comparisons(self) -> int:
        """Comparisons of secrets: 1 per output of a ReLU, 2 of a ReLU6, k*k - 1 of a k x k max-pool."""
        each = {RELU: 1, RELU6: 2, ACTIVATION: self.compared, MAX_POOL: math.prod(self.kernel) - 1}
        return each.get(self.kind, 0) * self.computed

    @property
    def selections(self) -> int:
        """Multiplexers per image: one for each comparison, unless `selected` says otherwise."""
        return self.comparisons if self.selected is None else self.selected

    @property
    def whole(self) -> Layer:
        """The layer computed for all of its outputs, of which none moves: what to do where moving costs more."""
        return replace(self, kept=None, moved=0) if self.moved else self


def conv_macs(out_shape: tuple[int, ...], in_channels: int, *, kernel: tuple[int, int], groups: int) -> int:
    """Return the multiply-accumulates of a convolution for one image: outputs times the weights of one filter."""
    return math.prod(out_shape) * (in_channels // groups) * math.prod(kernel)


def moved_elements(elements: int, computed: Sequence[int]) -> int:
    """Return how many elements a selection by a mask moves one by one: those computed, and all to put them back.

    `computed` holds the elements of each side of the selection for which something is computed.
    """
    return elements + sum(computed)
