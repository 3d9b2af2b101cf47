"""Build a program operation by operation: group operations into layers and describe each layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deepreduce.cost.layers import ADD, KINDS, PRODUCT, RELU, RELU6, SCALE, SQUARE
from deepreduce.network.operations import OPERATIONS
from deepreduce.private.lowering.constants import Array, Constants
from deepreduce.private.lowering.program import Argument, Op, Program, ProgramLayer, Ref, refs

NORM = "batch_norm"
"""Name of a batch-norm in a draft; `fold_batchnorm` replaces it, so that no program has it."""


@dataclass
class Draft:
    """The operations of a layer that is being built."""

    name: str
    ops: list[Op] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A batch-norm in evaluation mode: `factor * x + offset` for each channel, both (channels,) in float64."""

    factor: Array
    offset: Array


class ProgramBuilder:
    """Collects operations in order; consecutive operations of the same layer form one draft."""

    def __init__(self) -> None:
        self.layers: list[Draft] = []
        self.norms: dict[str, Norm] = {}
        self._numbers = itertools.count()

    def add(self, layer: str, name: str, args: Sequence[Argument], shape: tuple[int, ...]) -> str:
        """Append an operation to a layer; return the name of its output."""
        if not self.layers or self.layers[-1].name != layer:
            self.layers.append(Draft(layer))
        output = f"{layer}/{next(self._numbers)}"
        self.layers[-1].ops.append(Op(name=name, args=tuple(args), output=output, shape=shape))
        return output

    def add_norm(self, layer: str, source: str, norm: Norm, shape: tuple[int, ...]) -> str:
        """Append a batch-norm to a layer; return the name of its output."""
        output = self.add(layer, NORM, [Ref(source)], shape)
        self.norms[output] = norm
        return output


def build_program(
    drafts: Sequence[Draft],
    constants: Constants,
    *,
    network: str,
    image: str,
    image_shape: tuple[int, ...],
    logits: str,
) -> Program:
    """Return the program that the drafts describe; values that nothing reads have no shape in it."""
    used = {name for draft in drafts for op in draft.ops for name in refs(op.args)} | {logits}
    shapes = {image: stored_shape(image_shape)}
    shapes |= {op.output: stored_shape(op.shape) for draft in drafts for op in draft.ops}
    shapes |= {name: array.shape for name, array in (constants.weights | constants.masks).items()}
    return Program(
        network=network,
        image=image,
        logits=logits,
        layers=tuple(_build_layer(draft, drafts, constants, logits=logits) for draft in drafts),
        shapes={name: shape for name, shape in shapes.items() if name in used or name == image},
    )


def _build_layer(draft: Draft, drafts: Sequence[Draft], constants: Constants, *, logits: str) -> ProgramLayer:
    used = list(dict.fromkeys(name for op in draft.ops for name in refs(op.args)))
    own = {op.output for op in draft.ops}
    used_elsewhere = {name for other in drafts if other is not draft for op in other.ops for name in refs(op.args)}
    return ProgramLayer(
        name=draft.name,
        kind=_kind(draft, constants),
        ops=tuple(draft.ops),
        inputs=tuple(n for n in used if n not in {*own, *constants.weights, *constants.masks}),
        weights=tuple(n for n in used if n in constants.weights),
        outputs=tuple(op.output for op in draft.ops if op.output in used_elsewhere or op.output == logits),
    )


def _kind(draft: Draft, constants: Constants) -> str:
    kinds = {kind_of(op, constants.weights, constants.masks) for op in draft.ops}
    return next(kind for kind in KINDS if kind in kinds)


def kind_of(op: Op, weights: Mapping[str, Array], masks: Mapping[str, Array]) -> str:
    """Return the kind of an operation; multiplying by a public number is as cheap as adding."""
    if op.name == "mul":
        others = [value.name if isinstance(value, Ref) else None for value in op.args[:2]]
        if None not in others and others[0] == others[1]:
            return SQUARE
        if None in others or any(name in masks for name in others):
            return ADD
        return SCALE if any(name in weights for name in others) else PRODUCT
    if op.name == "clamp" and op.args[1] == 0:
        return RELU6 if len(op.args) > 2 and op.args[2] is not None else RELU
    if op.name == "pow" and op.args[1] == 2:
        return SQUARE
    return RELU if op.name == "clamp_min" and op.args[1] == 0 else OPERATIONS[op.name].layer


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape as stored: (batch, channels, height, width) becomes channels-last, others are unchanged."""
    return (shape[0], shape[2], shape[3], shape[1]) if len(shape) == 4 else shape
