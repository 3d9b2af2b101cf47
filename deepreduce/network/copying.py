"""Copy modules of any kind, also such as hold tensors that are computed from parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def copy_module(module: AnyModule) -> AnyModule:
    """Return a deep copy of a module.

    `copy.deepcopy` fails where a layer holds the result of a computation with its parameters, as `torch.nn.utils`'
    pruning, weight norm and spectral norm do. The copy holds the value of such a result, until the layer computes it
    anew.
    """
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in plain_tensors(module) if not t.is_leaf})


def copy_to_meta(module: AnyModule) -> AnyModule:
    """Return a copy of a module on the meta device, without allocating or copying weights."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    for tensor in [*module.buffers(), *plain_tensors(module)]:
        memo.setdefault(id(tensor), tensor.detach().to("meta"))
    return copy.deepcopy(module, memo)


def plain_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors that the attributes of a module and its children hold without registering them."""
    for m in module.modules():
        for name, value in vars(m).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from _tensors(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
