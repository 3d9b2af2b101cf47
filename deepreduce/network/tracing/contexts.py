"""Contexts that show a trace what torch.fx does not see: autograd functions, types, compiled functions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import nn

from deepreduce.network.tracing.values import Runs, Value, proxies_in

Record = Callable[[type[torch.autograd.Function], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def autograd_functions(record: Record) -> Iterator[None]:
    """Hand calls of autograd functions with a value of the trace to `record`, within the context.

    Without it their forward would be traced, and their gradient lost.
    """
    base = torch.autograd.Function
    own = vars(base)["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if any(True for _ in proxies_in((args, kwargs))):
            return record(cls, args, kwargs)
        return own.__get__(None, cls)(*args, **kwargs)

    base.apply = classmethod(apply)
    restores = [_record_forward(cls, record) for cls in _subclasses(base)]
    try:
        yield
    finally:
        base.apply = own
        for restore in restores:
            restore()


def _subclasses(cls: Any) -> Iterator[Any]:
    for child in cls.__subclasses__():
        if not child.__module__.startswith("torch."):
            yield child
            yield from _subclasses(child)


def _record_forward(cls: Any, record: Record) -> Callable[[], None]:
    """Let a function's forward be recorded, for `apply` that somebody took before: `step = Step.apply`."""
    before = {name: vars(cls)[name] for name in ("forward", "setup_context") if name in vars(cls)}
    own, has_context = cls.forward, cls.setup_context is not torch.autograd.Function.setup_context

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = args if has_context else args[1:]
        if not any(True for _ in proxies_in((given, kwargs))):
            return own(*args, **kwargs)
        with torch.enable_grad():
            return record(cls, given, kwargs)

    cls.forward = staticmethod(forward)
    if has_context:
        setup = cls.setup_context

        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            if not any(True for _ in proxies_in(inputs)):
                setup(ctx, inputs, output)

        cls.setup_context = staticmethod(setup_context)

    def restore() -> None:
        for name in ("forward", "setup_context"):
            if name in before:
                setattr(cls, name, before[name])
            elif name in vars(cls):
                delattr(cls, name)

    return restore


@contextmanager
def types_asked(runs: Runs) -> Iterator[Callable[[nn.Module], None]]:
    """Answer `isinstance(value, torch.Tensor)` by the type that the value will have, within the context.

    That holds for all imported modules of users that use torch. The context gives a function for the modules of
    classes that are not imported from a file.
    """
    patched: list[dict[str, Any]] = []
    original = torch.is_tensor

    def is_instance(value: Any, classes: Any) -> bool:
        if issubclass(type(value), Value) and not isinstance(value, classes):
            try:
                value = runs.of(value.node)
            except Exception:  # a value that can't be computed without data keeps its own type
                return False
        return isinstance(value, classes)

    def patch(names: Any) -> None:
        theirs = str(names.get("__name__")).split(".")[0] not in ("torch", "deepreduce", "builtins")
        if theirs and "isinstance" not in names and any(name in names for name in ("torch", "nn", "Tensor")):
            names["isinstance"] = is_instance
            patched.append(names)

    def watch(m: nn.Module) -> None:
        forward = getattr(m.forward, "__func__", m.forward)
        patch(getattr(inspect.unwrap(forward), "__globals__", {}))

    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            patch(vars(module))
    torch.is_tensor = lambda value: is_instance(value, torch.Tensor)  # type: ignore[assignment]
    try:
        yield watch
    finally:
        torch.is_tensor = original
        for names in patched:
            del names["isinstance"]


def compiled_functions() -> AbstractContextManager[Any]:
    """Follow functions that torch.compile has wrapped, within the context."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    context: AbstractContextManager[Any] = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    return context
