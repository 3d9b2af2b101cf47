"""The state of a user's module around a trace: what is refused before, and what is put back after."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.network.tracing.failures import Unfollowable

_MOST_CONTAINERS = 100_000
_SIMPLE = (int, float, complex, str, bytes, bool, type(None), Tensor, type, ModuleType, torch.jit.ScriptModule)


@contextmanager
def untouched(root: nn.Module) -> Iterator[None]:
    """Put modes, attributes, buffers and hooks of a module, what its hooks store, and the random state back."""
    kept = Kept([root])
    tensors = [(t, _version(t), t.detach().clone()) for t in root.buffers() if not t.is_meta]
    modes = {m: m.training for m in root.modules()}
    states = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        kept.put_back()
        for tensor, version, value in tensors:
            if _version(tensor) != version:
                tensor.detach().copy_(value)
        for m, mode in modes.items():
            m.training = mode
        torch.set_rng_state(states[0])
        random.setstate(states[1])


def buffer_writes(root: nn.Module) -> Callable[[], dict[str, int]]:
    """Return a function that says how often each buffer was written to, or replaced, since."""
    before = {name: (buffer, _version(buffer)) for name, buffer in _buffers(root)}

    def written() -> dict[str, int]:
        now = dict(_buffers(root))
        times = {
            name: _version(buffer) - version if now.get(name) is buffer else 1
            for name, (buffer, version) in before.items()
        }
        return {name: count for name, count in times.items() if count}

    return written


def _buffers(root: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, m in root.named_modules():
        for name, buffer in m._buffers.items():
            if buffer is not None:
                yield f"{path}.{name}" if path else name, buffer


def _version(tensor: Any) -> int:
    return int(tensor._version) if isinstance(tensor, Tensor) and not tensor.is_inference() else 0


def check_followable(root: nn.Module) -> None:
    """Raise `Unfollowable` for hooks of the backward pass and for TorchScript, of which a graph keeps nothing."""
    for path, m in root.named_modules():
        what = f"{path} ({type(m).__name__})" if path else type(m).__name__
        if isinstance(m, torch.jit.ScriptModule):
            raise Unfollowable(
                f"{what} is TorchScript, whose inside a graph does not see: build the network from the module that"
                " was scripted",
                line="",
            )
        if m._backward_hooks or m._backward_pre_hooks:
            raise Unfollowable(
                f"{what} has backward hooks, which a graph does not keep: remove them (the handle's remove())",
                line="",
            )
        for name, parameter in m._parameters.items():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise Unfollowable(
                    f"the {name} of {what} has no shape yet: run one batch through the lazy module first", line=""
                )
            if parameter is not None and (
                parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
            ):
                raise Unfollowable(
                    f"the {name} of {what} has hooks on its gradient, which copies of it do not keep: remove them",
                    line="",
                )


def hooks_of(m: nn.Module) -> list[Any]:
    """Return the functions that a module calls before and after its forward."""
    return [*m._forward_pre_hooks.values(), *m._forward_hooks.values()]


class Kept:
    """The contents of all containers and objects that can be reached from some values, by reference."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self._seen: set[int] = set()
        self._contents: list[tuple[Any, Any]] = []
        self._cells: list[tuple[Any, Any]] = []
        waiting = list(roots)
        while waiting and len(self._seen) < _MOST_CONTAINERS:
            value = waiting.pop()
            if isinstance(value, _SIMPLE) or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            waiting.extend(self._keep(value))

    def _keep(self, value: Any) -> list[Any]:
        """Remember a value's contents and return them."""
        if isinstance(value, dict):
            self._contents.append((value, dict(value)))
            return list(value.values())
        if isinstance(value, (list, set)):
            self._contents.append((value, list(value)))
            return list(value)
        if isinstance(value, (tuple, frozenset)):
            return list(value)
        if isinstance(value, MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, partial):
            return [value.func, value.args, value.keywords]
        if isinstance(value, FunctionType):
            return self._keep_function(value)
        of_torch = type(value).__module__.split(".")[0] in ("torch", "builtins") and not isinstance(value, nn.Module)
        return [] if of_torch or not hasattr(value, "__dict__") else [vars(value)]

    def _keep_function(self, function: FunctionType) -> list[Any]:
        found: list[Any] = []
        for cell in function.__closure__ or ():
            try:
                self._cells.append((cell, cell.cell_contents))
            except ValueError:  # not assigned yet
                continue
            found.append(cell.cell_contents)
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, (dict, list, set)):
                found.append(value)
        return found

    def has_changed(self) -> bool:
        """Return True if a number, text or flag was put there, not the result of a call, and not by the trace."""
        new = [item for held, before in self._contents for item in _new_items(held, before)]
        new += [cell.cell_contents for cell, before in self._cells if cell.cell_contents is not before]
        return any(type(item) in (int, float, complex, str, bytes, bool) for item in new)

    def put_back(self) -> None:
        """Give every container the contents that it had."""
        for held, before in self._contents:
            if isinstance(held, dict):
                if not _is_alike(list(held.items()), list(before.items())):
                    held.clear()
                    held.update(before)
            elif isinstance(held, list):
                if not _is_alike(held, before):
                    held[:] = before
            elif held != set(before):
                held.clear()
                held.update(before)
        for cell, value in self._cells:
            cell.cell_contents = value


def _is_alike(one: list[Any], other: list[Any]) -> bool:
    if len(one) != len(other):
        return False
    return all(
        a is b or (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and _is_alike(list(a), list(b)))
        for a, b in zip(one, other, strict=True)
    )


def _new_items(held: Any, before: Any) -> list[Any]:
    if isinstance(held, dict):
        items = [(key, value) for key, value in held.items() if key != "training"]
        return [value for key, value in items if key not in before or value is not before[key]]
    known = {id(item) for item in before}
    return [item for item in held if id(item) not in known]
