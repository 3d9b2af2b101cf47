"""Named things of deepreduce and of installed packages: entry points by group, loaded when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from deepreduce.errors import UserError, unknown_name


def known_plugins(group: str, built_in: Mapping[str, str]) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, deepreduce's own first.

    `built_in` maps deepreduce's own names to "module:attribute"; they win over those of a package.
    """
    own = {name: EntryPoint(name, value, group) for name, value in built_in.items()}
    return own | {entry.name: entry for entry in entry_points(group=group) if entry.name not in own}


def load_plugin(kind: str, name: str, group: str, built_in: Mapping[str, str]) -> Any:
    """Return what the entry point called `name` refers to; errors call it a `kind`, as in "objective".

    Raises `UserError` for an unknown name, and for one that can't be imported.
    """
    # deepreduce's own names win, so that they are known without reading what all installed packages offer
    known = {name: EntryPoint(name, built_in[name], group)} if name in built_in else known_plugins(group, built_in)
    if name not in known:
        raise UserError(unknown_name(kind, name, list(known)))
    try:
        return known[name].load()
    except Exception as error:  # whatever importing a package may raise
        raise UserError(
            f"{kind} {name!r} ({known[name].value}) can't be used: {type(error).__name__}: {error}; repair or"
            " uninstall its package"
        ) from error
