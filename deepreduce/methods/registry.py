"""Methods by name: those of deepreduce, and those that installed packages register as entry points."""

from __future__ import annotations

from typing import Any

from deepreduce.errors import UserError
from deepreduce.methods.base import Method
from deepreduce.utils.plugins import known_plugins, load_plugin

GROUP = "deepreduce.methods"
"""Group of the entry points by which a package offers a method."""

_BUILT_IN = {
    "deepreduce": "deepreduce.methods.deepreduce:DeepReduce",
    "given": "deepreduce.methods.given:Given",
    "levers": "deepreduce.methods.levers:Levers",
    "taylor": "deepreduce.methods.taylor:Taylor",
    "snl": "deepreduce.methods.snl:Snl",
    "autorep": "deepreduce.methods.autorep:AutoRep",
    "senet": "deepreduce.methods.senet:Senet",
    "relupruner": "deepreduce.methods.relupruner:ReluPruner",
    "bcd": "deepreduce.methods.bcd:Bcd",
}

_FACTS = ("paper", "unit", "epochs")
"""Attributes that a method may lack: short texts for readers."""


def built_in_methods() -> list[str]:
    """Return the names of deepreduce's own methods."""
    return list(_BUILT_IN)


def method_names() -> list[str]:
    """Return the names of all methods, the built-in ones first."""
    return list(known_plugins(GROUP, _BUILT_IN))


def method_named(name: str) -> Method[Any]:
    """Return the method called `name`.

    Raises `UserError` for a name that nobody registered, and for a registered one that can't be imported or is no
    method.
    """
    found = load_plugin("method", name, GROUP, _BUILT_IN)
    missing = [part for part in ("name", "summary", "Options", "search") if not hasattr(found, part)]
    if missing or found.name != name:
        wrong = f"it lacks {', '.join(missing)}" if missing else f"it calls itself {found.name!r}"
        raise UserError(f"method {name!r} ({found!r}) is no method: {wrong}; see deepreduce.methods.base.Method")
    for fact in _FACTS:
        said = getattr(found, fact, "")
        if not isinstance(said, str):
            raise UserError(f"method {name!r} has {fact} = {said!r}; give a short text, or leave it out")
    method: Method[Any] = found()
    return method


def facts_of(method: Method[Any]) -> dict[str, str]:
    """Return what a method says of itself for readers: `paper`, `unit`, `epochs`, as far as it says them."""
    return {fact: text for fact in _FACTS if (text := getattr(method, fact, ""))}
