"""Batch-norms folded into the layers that multiply before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from deepreduce.private.lowering.builder import NORM, Draft, Norm
from deepreduce.private.lowering.constants import Constants
from deepreduce.private.lowering.program import Argument, Op, Ref, refs


def fold_norms(
    drafts: Sequence[Draft], norms: Mapping[str, Norm], constants: Constants, *, logits: str
) -> tuple[list[Draft], str]:
    """The layers without batch-norms, and the name of the logits; weights in `constants` change.

    A batch-norm goes into the convolution or linear layer before it. Where something else reads that layer too, or
    there is none, it scales and shifts.
    """
    readers = Counter(name for draft in drafts for op in draft.ops for name in refs(op.args))
    readers[logits] += 1
    names: dict[str, str] = {}  # what a folded batch-norm gave, the layer before it gives now
    products: dict[str, tuple[list[Op], int]] = {}  # where the operation stands that gave a name
    found = []
    for draft in drafts:
        ops: list[Op] = []
        for op in draft.ops:
            op = replace(op, args=_renamed(op.args, names))
            if op.name != NORM:
                if op.name in ("convolution", "addmm"):
                    products[op.output] = ops, len(ops)
                ops.append(op)
                continue
            (source,) = refs(op.args)
            if source in products and readers[source] == 1:
                place, index = products[source]
                place[index] = _folded(place[index], norms[op.output], constants)
                names[op.output], readers[source] = source, readers[op.output]
            else:
                ops += _scaled(op, norms[op.output], constants, draft.name)
        found.append(Draft(draft.name, ops))
    return [draft for draft in found if draft.ops], names.get(logits, logits)


def _renamed(args: tuple[Argument, ...], names: Mapping[str, str]) -> tuple[Argument, ...]:
    def renamed(argument: Argument) -> Argument:
        if isinstance(argument, Ref):
            return Ref(names.get(argument.name, argument.name))
        return tuple(renamed(item) for item in argument) if isinstance(argument, tuple) else argument

    return tuple(renamed(argument) for argument in args)


def _folded(product: Op, norm: Norm, constants: Constants) -> Op:
    """The convolution or linear layer (image, weight, bias, ...) that does what the batch-norm did as well."""
    image, weight, bias, *options = product.args
    assert isinstance(weight, Ref)
    weights = constants.weights
    weights[weight.name] = (weights[weight.name].astype(np.float64) * norm.factor).astype(np.float32)
    if isinstance(bias, Ref):
        moved = weights[bias.name].astype(np.float64) * norm.factor + norm.offset
        weights[bias.name] = moved.astype(np.float32)
        return product
    layer = product.output.rpartition("/")[0]
    return replace(product, args=(image, weight, Ref(constants.name_weight(norm.offset, layer)), *options))


def _scaled(op: Op, norm: Norm, constants: Constants, layer: str) -> list[Op]:
    # as stored: channels are last in four dimensions, else second
    rank = len(op.shape)
    wide = (1, 1, 1, -1) if rank == 4 else (1, -1) + (1,) * (rank - 2)
    factor, offset = (Ref(constants.name_weight(a.reshape(wide), layer)) for a in (norm.factor, norm.offset))
    scaled = f"{op.output}/scaled"
    return [
        replace(op, name="mul", args=(op.args[0], factor), output=scaled),
        replace(op, name="add", args=(Ref(scaled), offset, 1)),
    ]
