"""Methods by name: those of deepreduce, and those that installed packages register as entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from deepreduce.errors import UserError, unknown_name
from deepreduce.methods.base import Method

GROUP = "deepreduce.methods"

_BUILT_IN = (
    EntryPoint("deepreduce", "deepreduce.methods.deepreduce:DeepReduce", GROUP),
    EntryPoint("levers", "deepreduce.methods.levers:Levers", GROUP),
)


def known_methods() -> dict[str, EntryPoint]:
    """Return all methods by name, the built-in ones first; a built-in one wins over a package's of the same name."""
    built_in = {entry.name: entry for entry in _BUILT_IN}
    return built_in | {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in built_in}


def method_named(name: str) -> Method[Any]:
    """Return the method called `name`.

    Raises `UserError` for a name that nobody registered, and for a registered one that can't be imported or is no
    method.
    """
    known = known_methods()
    if name not in known:
        raise UserError(unknown_name("method", name, list(known)))
    where = f"method {name!r} ({known[name].value})"
    try:
        method: Method[Any] = known[name].load()()
    except Exception as error:  # whatever importing somebody's package may raise
        raise UserError(
            f"{where} can't be used: {type(error).__name__}: {error}; repair or uninstall its package"
        ) from error
    missing = [part for part in ("name", "summary", "Options", "search") if not hasattr(method, part)]
    if missing or method.name != name:
        wrong = f"it lacks {', '.join(missing)}" if missing else f"it calls itself {method.name!r}"
        raise UserError(f"{where} is no method: {wrong}; see deepreduce.methods.base.Method")
    return method
