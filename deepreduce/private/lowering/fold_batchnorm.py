"""Fold batch-norms into the convolutions and linear layers before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from deepreduce.private.lowering.builder import NORM, Draft, Norm
from deepreduce.private.lowering.constants import Constants
from deepreduce.private.lowering.program import Argument, Op, Ref, refs


def fold_batchnorms(
    drafts: Sequence[Draft], norms: Mapping[str, Norm], constants: Constants, *, logits: str
) -> tuple[list[Draft], str]:
    """Return the layers without batch-norms, and the name of the logits; changes the weights in `constants`.

    A batch-norm is folded into the convolution or linear layer before it: `weight * factor`, `bias * factor +
    offset`. If there is none, or something else reads its output too, the batch-norm becomes a product and a sum.
    """
    readers = Counter(name for draft in drafts for op in draft.ops for name in refs(op.args))
    readers[logits] += 1
    names: dict[str, str] = {}  # output of a folded batch-norm -> output of the layer that it is folded into
    products: dict[str, tuple[list[Op], int]] = {}  # output of a convolution or linear layer -> its position
    found = []
    for draft in drafts:
        ops: list[Op] = []
        for op in draft.ops:
            op = replace(op, args=_rename(op.args, names))
            if op.name != NORM:
                if op.name in ("convolution", "addmm"):
                    products[op.output] = ops, len(ops)
                ops.append(op)
                continue
            (source,) = refs(op.args)
            if source in products and readers[source] == 1:
                place, index = products[source]
                place[index] = _fold(place[index], norms[op.output], constants)
                names[op.output], readers[source] = source, readers[op.output]
            else:
                ops += _scale_and_shift(op, norms[op.output], constants, draft.name)
        found.append(Draft(draft.name, ops))
    return [draft for draft in found if draft.ops], names.get(logits, logits)


def _rename(args: tuple[Argument, ...], names: Mapping[str, str]) -> tuple[Argument, ...]:
    def rename(argument: Argument) -> Argument:
        if isinstance(argument, Ref):
            return Ref(names.get(argument.name, argument.name))
        return tuple(rename(item) for item in argument) if isinstance(argument, tuple) else argument

    return tuple(rename(argument) for argument in args)


def _fold(product: Op, norm: Norm, constants: Constants) -> Op:
    """Return the convolution or linear layer (image, weight, bias, ...) with the batch-norm folded into it."""
    image, weight, bias, *options = product.args
    assert isinstance(weight, Ref)
    weights = constants.weights
    weights[weight.name] = (weights[weight.name].astype(np.float64) * norm.factor).astype(np.float32)
    if isinstance(bias, Ref):
        shifted = weights[bias.name].astype(np.float64) * norm.factor + norm.offset
        weights[bias.name] = shifted.astype(np.float32)
        return product
    layer = product.output.rpartition("/")[0]
    return replace(product, args=(image, weight, Ref(constants.store_weight(norm.offset, layer)), *options))


def _scale_and_shift(op: Op, norm: Norm, constants: Constants, layer: str) -> list[Op]:
    """Return the product and the sum that compute the batch-norm."""
    # channels-last if four dimensions, else channels are the second dimension
    rank = len(op.shape)
    wide = (1, 1, 1, -1) if rank == 4 else (1, -1) + (1,) * (rank - 2)
    factor, offset = (Ref(constants.store_weight(a.reshape(wide), layer)) for a in (norm.factor, norm.offset))
    scaled = f"{op.output}/scaled"
    return [
        replace(op, name="mul", args=(op.args[0], factor), output=scaled),
        replace(op, name="add", args=(Ref(scaled), offset, 1)),
    ]
