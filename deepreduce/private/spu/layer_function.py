"""Turn a layer of a program into a JAX function, which the engine compiles. Imports jax, but not PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from deepreduce.private.lowering.program import Argument, Program, ProgramLayer, Ref, UnsupportedError
from deepreduce.private.spu.kernels import KERNELS
from deepreduce.private.spu.layout import Value


def layer_function(layer: ProgramLayer, masks: Mapping[str, NDArray[Any]]) -> Callable[..., tuple[Value, ...]]:
    """Return a function of the layer's inputs and weights, in that order, that returns its outputs."""

    def run(*given: Value) -> tuple[Value, ...]:
        values: dict[str, Value] = dict(zip((*layer.inputs, *layer.weights), given, strict=True))
        for op in layer.ops:
            args = [_resolve(argument, values, masks) for argument in op.args]
            try:
                values[op.output] = KERNELS[op.name](*args, shape=op.shape)
            except UnsupportedError:
                raise
            except Exception as error:  # JAX's, of any type, for arguments that no kernel checks
                first_line = str(error).strip().partition("\n")[0]
                raise UnsupportedError(
                    f"computes {op.name} in a way that is not supported ({type(error).__name__}: {first_line})"
                ) from error
        return tuple(values[name] for name in layer.outputs)

    return run


def _resolve(argument: Argument, values: Mapping[str, Value], masks: Mapping[str, NDArray[Any]]) -> Any:
    """Replace references in an argument by values; tuples become lists."""
    if isinstance(argument, Ref):
        return values[argument.name] if argument.name in values else masks[argument.name]
    return [_resolve(item, values, masks) for item in argument] if isinstance(argument, tuple) else argument


def example_inputs(program: Program, layer: ProgramLayer) -> list[NDArray[np.float32]]:
    """Return zeros in the shapes of the inputs and weights that the layer's function takes."""
    return [np.zeros(program.shapes[name], np.float32) for name in (*layer.inputs, *layer.weights)]


def check_output_shapes(program: Program, layer: ProgramLayer, masks: Mapping[str, NDArray[Any]]) -> None:
    """Evaluate the shapes of the layer's outputs. Raises `UnsupportedError` if they are not those of the program."""
    outputs = jax.eval_shape(layer_function(layer, masks), *example_inputs(program, layer))
    for name, output in zip(layer.outputs, outputs, strict=True):
        if output.shape != program.shapes[name]:
            ops = ", ".join(op.name for op in layer.ops)
            raise UnsupportedError(
                f"computes {ops} in a way that is not supported (its output is {output.shape}, as stored, and should"
                f" be {program.shapes[name]})"
            )
