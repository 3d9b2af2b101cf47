"""Put images into the batches of queries, and judge a batch before anything starts.

A program has a fixed number of images, its batch. A last batch that is not full is filled up with zeros, whose logits
are dropped: compiling a second program would take longer than the query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deepreduce.cost.batch import check_batch
from deepreduce.errors import UserError
from deepreduce.private.lowering.program import Program, ProgramLayer, Ref
from deepreduce.utils.memory import check_memory
from deepreduce.utils.printable import printable

ENGINE_BYTES = 300_000_000
"""Bytes of a party's process with nothing in it."""
_WEIGHT_BYTES, _VALUE_BYTES, _WINDOW_BYTES = 40, 24, 48
"""Bytes for each weight, for each value of a layer, and for each element of a convolution's windows while it runs.

These and `ENGINE_BYTES` are from ResNet-18 under Semi2k with 1, 4 and 16 images: 0.74, 0.85 and 1.71 GB of memory at
the most, 0.81, 1.01 and 1.77 GB by these figures. Shares are of 8 bytes, and several copies are held.
"""


def check_batch_of(count: int, batch: int) -> None:
    """Raise `UserError` for a batch that `count` images would not fill."""
    check_batch(batch)
    if batch > count:
        raise UserError(
            f"the batch is {batch}, and {count} {'image is' if count == 1 else 'images are'} given: the rest of each"
            f" query would be wasted; give a batch of at most {count}, or more images"
        )


def batches_of(images: Tensor | Sequence[Tensor], batch: int) -> list[Tensor]:
    """Return the images (C, H, W) as batches (batch, C, H, W), in their order; the last is filled up with zeros."""
    parts = (images[first : first + batch] for first in range(0, len(images), batch))
    return [_filled(torch.stack(list(part)), batch) for part in parts]


def _filled(images: Tensor, batch: int) -> Tensor:
    if len(images) == batch:
        return images
    return torch.cat([images, images.new_zeros(batch - len(images), *images.shape[1:])])


def query_memory(program: Program, batch: int) -> int:
    """Return about how many bytes one party's process takes for a query of `batch` images.

    Cheetah's takes more (about 3 GB where a batch is small).
    """
    fixed = set(program.weights)
    weights, values = (
        sum(math.prod(shape) for name, shape in program.shapes.items() if (name in fixed) == is_fixed)
        for is_fixed in (True, False)
    )
    windows = max((_windows(program, layer) for layer in program.layers), default=0)
    moving = _VALUE_BYTES * values + _WINDOW_BYTES * windows
    return ENGINE_BYTES + _WEIGHT_BYTES * weights + batch * moving // program.batch


def _windows(program: Program, layer: ProgramLayer) -> int:
    """Return the elements of the largest matrix that a layer multiplies by weights: positions times window."""
    found = [0]
    for op in layer.ops:
        weight = op.args[1] if op.name == "convolution" and len(op.args) > 1 else None
        if isinstance(weight, Ref):  # in a stranger's program it may be anything
            positions = op.shape[:1] + op.shape[2:]
            found.append(math.prod(positions) * math.prod(program.shapes.get(weight.name, ())[:-1]))
    return max(found)


def check_query_fits(program: Program, batch: int, *, parties: int) -> None:
    """Raise `UserError` if a query of `batch` images needs more memory than is free.

    `program` may be of another batch. `parties` is the number of parties on this machine.
    """
    check_memory(
        parties * query_memory(program, batch),
        f"a query of {batch} {'image' if batch == 1 else 'images'} to {printable(program.network)}",
        repair="give a smaller batch",
    )
