"""The table of operations refuses every argument that it would ignore."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import fx
from torch._ops import OpOverload

from deepreduce.private.lowering.operations import ARGUMENTS, operation_of
from deepreduce.private.lowering.program import UnsupportedError


def overloads() -> Iterator[tuple[str, OpOverload]]:
    """Yield every way to call the operations of the table with tensors."""
    for name in (*ARGUMENTS, "max_pool2d_with_indices", "expand_copy"):
        packet = getattr(torch.ops.aten, name)
        for overload in map(packet.__getattr__, packet.overloads()):
            types = [str(argument.type) for argument in overload._schema.arguments]
            writes = any(a.alias_info is not None and a.alias_info.is_write for a in overload._schema.arguments)
            is_vec = overload._overloadname == "vec"  # names its tensor otherwise, so it is refused as a whole
            if any("Tensor" in kind for kind in types) and not writes and not is_vec:
                yield name, overload


OTHERS = {"int": 7, "bool": True, "float": 0.25, "number": 3, "str": "floor", "Optional[str]": "floor"}


def another(argument: Any) -> Any:
    """Return a value for an argument that is not its default."""
    kind, default = str(argument.type), argument.default_value
    if argument.name in ("dtype", "out_dtype"):
        return torch.float64
    return not default if kind == "bool" else OTHERS.get(kind, [7])


def call_with(overload: OpOverload, changed: str) -> fx.Node:
    """Return a call with that argument changed and all others at their defaults, if they have any."""
    graph = fx.Graph()
    given = {
        argument.name: graph.placeholder(argument.name)
        if "Tensor" in str(argument.type)
        else another(argument)
        if argument.name == changed
        else argument.default_value
        for argument in overload._schema.arguments
    }
    named = {a.name for a in overload._schema.arguments if a.kwarg_only}
    args = tuple(value for name, value in given.items() if name not in named)
    return graph.call_function(overload, args, {name: given[name] for name in named})


def test_an_argument_that_the_functions_ignore_must_be_at_its_default() -> None:
    # in a process of its own: listing overloads loads them, which breaks torch.export later in the process
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        refused = process.submit(refused_arguments).result()
    assert {("div", "rounding_mode"), ("sum", "dtype"), ("mean", "dtype"), ("view", "dtype")} <= refused


def refused_arguments() -> set[tuple[str, str]]:
    """Return (operation, argument) for every argument that is refused; check every other one."""
    harmless = {"memory_format", "layout", "device", "pin_memory", "non_blocking", "implicit"}
    refused = set()
    for called, overload in overloads():
        for argument in overload._schema.arguments:
            if "Tensor" in str(argument.type):
                continue
            node = call_with(overload, argument.name)
            name = {"max_pool2d_with_indices": "max_pool2d", "expand_copy": "expand"}.get(called, called)
            if argument.name in ARGUMENTS[name] or argument.name in harmless:
                _, taken = operation_of(node)
                assert list(taken) == [a.name for a in overload._schema.arguments if a.name in ARGUMENTS[name]]
                assert argument.name in harmless or taken[argument.name] == another(argument)
                continue
            with pytest.raises(UnsupportedError, match=f"computes {called} with {argument.name}="):
                operation_of(node)
            refused.add((called, argument.name))
    return refused


def test_an_operation_that_is_not_in_the_table_is_refused() -> None:
    graph = fx.Graph()
    with pytest.raises(UnsupportedError, match="computes erf, which is not supported"):
        operation_of(graph.call_function(torch.ops.aten.erf.default, (graph.placeholder("x"),)))
