"""Calls of `torch.autograd.Function`, which torch executes below Python: how a trace gets to see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deepreduce.network.tracing.values import proxies_in

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
