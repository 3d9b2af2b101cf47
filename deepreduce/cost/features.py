"""Features of layers: the counts that a layer's cost under a protocol is linear in.

A convolution runs as a matrix product (m x k) by (k x n), by im2col: m output positions, k weights of a filter, n
filters; a linear layer has m = 1. The images of a query lie one below the other in the left matrix, so that m counts
the positions of all, and the weights to the right are there once. Groups save nothing: SPU widens a grouped
convolution's filters with zeros to all channels. What then costs depends on the protocol:

- Secret sharing with Beaver triples (Semi2k) opens both masked matrices, m*k + k*n ring elements, and works on m*n.
- Homomorphic encryption (Cheetah, USENIX Security 2022, section 3) packs blocks of the matrices into polynomials of
  8,192 coefficients. The party whose matrix takes fewer of them encrypts and sends it, the other encodes its own and
  multiplies; partial results are packed before they are returned. Its cost is in polynomials, not elements.
- Garbled circuits (DELPHI) pay per comparison and, ahead of the query, per multiply-accumulate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deepreduce.cost.layers import (
    ACTIVATION,
    AVG_POOL,
    COMPARING,
    CONV,
    MAX_POOL,
    MULTIPLYING,
    PRODUCT,
    RELU,
    RELU6,
    SCALE,
    SQUARE,
    Layer,
)

POLYNOMIAL = 8_192
"""Coefficients of a polynomial that SPU's Cheetah packs 64-bit values into."""

# the costs by which SPU chooses a packing: of a ciphertext sent, a rotation, and a product of polynomials
_SENDING, _ROTATING, _MULTIPLYING = 1000.0, 1.0, 0.1

_PANEL, _ROWS_TO_SHARE = 320, 16

QUERY = "query"
"""The feature that every network has once, and no layer."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Counts of a matrix product under Cheetah: polynomials sent, returned, encoded and multiplied; rotations."""

    sent: int
    returned: int
    encoded: int
    multiplied: int
    rotated: int


def product_of(layer: Layer) -> tuple[int, int, int]:
    """Return (m, k, n) of the layer's matrix product.

    A convolution in which every output sees the whole input is compiled to one product with all of it, (images,
    inputs, outputs). A product of two activations counts as (m, macs / (m*n), n), for each image one.
    """
    if layer.kind == CONV:
        sizes = zip(layer.kernel, layer.in_shape[1:], layer.out_shape[1:], strict=True)
        if all(kernel >= before + after - 1 for kernel, before, after in sizes):
            return layer.images, math.prod(layer.in_shape), math.prod(layer.out_shape)
        positions = layer.images * math.prod(layer.out_shape[1:])
        return positions, layer.in_shape[0] * math.prod(layer.kernel), layer.out_shape[0]
    n = layer.out_shape[-1] if layer.out_shape else 1
    m = max(1, layer.outputs // n // _products(layer))
    return m, max(1, layer.macs // (m * n * _products(layer))), n


def _products(layer: Layer) -> int:
    """Return the number of matrix products: a layer that multiplies by weights takes all images in one."""
    return layer.images if layer.kind == PRODUCT else 1


@lru_cache(maxsize=4096)
def packing_of(m: int, k: int, n: int) -> Packing:
    """Return Cheetah's packing of (m x k) by (k x n): the block shape that costs SPU's implementation least."""
    rows = np.arange(1, min(POLYNOMIAL, m) + 1)
    best: tuple[float, Packing] | None = None
    depth = 1
    while depth <= min(k, POLYNOMIAL):
        d0 = rows[rows * depth <= POLYNOMIAL]
        d2 = np.minimum(n, POLYNOMIAL // d0 // depth)
        blocks0, blocks1, blocks2 = -(-m // d0), -(-k // depth), -(-n // d2)
        sent = np.minimum(blocks0, blocks2) * blocks1
        returned = -(-(blocks0 * blocks2) // depth)
        multiplied = blocks0 * blocks1 * blocks2
        rotated = -(-(m * n) // POLYNOMIAL) * depth
        # SPU counts rotations for a product with a vector too; its measured cost shows none
        costs = (sent + returned) * _SENDING + rotated * _ROTATING + multiplied * _MULTIPLYING
        at = len(costs) - 1 - int(np.argmin(costs[::-1]))  # of equal costs the last
        if best is None or costs[at] <= best[0]:
            encoded = int(np.maximum(blocks0, blocks2)[at] * blocks1)
            packing = Packing(
                sent=int(sent[at]), returned=int(returned[at]), encoded=encoded, multiplied=int(multiplied[at]),
                rotated=rotated if m > 1 else 0,
            )  # fmt: skip
            best = float(costs[at]), packing
        depth *= 2
    assert best is not None
    return best[1]


def _of_products(count: Callable[[Layer], float]) -> Callable[[Layer], float]:
    return lambda layer: count(layer) if layer.kind in MULTIPLYING else 0.0


def _of_packing(part: str) -> Callable[[Layer], float]:
    return _of_products(lambda layer: _products(layer) * getattr(packing_of(*product_of(layer)), part))


def _of_dimensions(*which: int) -> Callable[[Layer], float]:
    """Return the feature that is the product of some of (m, k, n)."""
    return _of_products(lambda layer: _products(layer) * math.prod(product_of(layer)[place] for place in which))


def _panels(layer: Layer) -> float:
    """Return how often the threads of a product wait for each other.

    Eigen, with which SPU multiplies, cuts k into panels of 320 and shares the rows of a panel among threads; products
    of fewer than 16 rows are left to one.
    """
    m, k, _ = product_of(layer)
    return -(-k // _PANEL) - 1 if m >= _ROWS_TO_SHARE else 0


def _levels(layer: Layer) -> float:
    """Return the number of comparisons one after another: log2 of a max-pool's window, 2 of a ReLU6."""
    return {RELU: 1, RELU6: 2, ACTIVATION: layer.levels, MAX_POOL: math.ceil(math.log2(math.prod(layer.kernel)))}.get(
        layer.kind, 0
    )


def _is_other(layer: Layer) -> bool:
    return layer.kind not in (*MULTIPLYING, *COMPARING, AVG_POOL, SCALE, SQUARE)


FEATURES: Mapping[str, Callable[[Layer], float]] = {
    "comparisons": lambda layer: layer.comparisons,
    "selections": lambda layer: layer.selections,
    "comparing_layers": _levels,
    "macs": lambda layer: layer.macs,
    "multiplying_layers": _of_products(lambda layer: 1.0),
    "panels": _of_products(_panels),
    "left": _of_dimensions(0, 1),
    "right": _of_dimensions(1, 2),
    "made": _of_dimensions(0, 2),
    "multiplications": _of_dimensions(0, 1, 2),
    "read": _of_products(lambda layer: layer.inputs),
    "sent": _of_packing("sent"),
    "returned": _of_packing("returned"),
    "encoded": _of_packing("encoded"),
    "multiplied": _of_packing("multiplied"),
    "rotated": _of_packing("rotated"),
    "pool_layers": lambda layer: float(layer.kind == AVG_POOL),
    "pooled_elements": lambda layer: layer.outputs if layer.kind == AVG_POOL else 0,
    "scaling_layers": lambda layer: float(layer.kind == SCALE),
    "scaled_elements": lambda layer: layer.computed if layer.kind == SCALE else 0,
    "squaring_layers": lambda layer: float(layer.kind == SQUARE),
    "squared_elements": lambda layer: layer.computed if layer.kind == SQUARE else 0,
    "scaled_polynomials": lambda layer: -(-layer.computed // POLYNOMIAL) if layer.kind == SCALE else 0,
    "moved_elements": lambda layer: layer.moved,
    "other_layers": lambda layer: float(_is_other(layer)),
    "other_elements": lambda layer: layer.inputs if _is_other(layer) else 0,
    QUERY: lambda layer: 0.0,
}
"""Name -> feature of a layer. A ReLU is a comparison and a selection for each element that is compared: those that a
mask keeps. `comparing_layers` counts comparisons that follow each other; `moved_elements` are those that a mask of
single elements makes each party move. Of a matrix product, `left`, `right` and `made` are the elements of its
matrices (m*k, k*n, m*n), `multiplications` m*k*n, which are more than `macs` where there are groups; `sent` to
`rotated` are Cheetah's polynomials, and so are `scaled_polynomials`."""


def feature(name: str, layer: Layer) -> float:
    """Return the feature called `name` of a layer."""
    return float(FEATURES[name](layer))
