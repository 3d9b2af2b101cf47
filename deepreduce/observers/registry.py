"""Observers that the config asks for by name (`log: [tensorboard]`): our own, and those of installed packages.

A package offers one by an entry point of the group `deepreduce.observers`: a name, and a class that is made without
arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from deepreduce.errors import UserError, unknown_name
from deepreduce.observers.base import RunObserver
from deepreduce.utils.optional import require_packages

GROUP = "deepreduce.observers"

_BUILT_IN = (
    EntryPoint("tensorboard", "deepreduce.observers.tensorboard:TensorBoardLogger", GROUP),
    EntryPoint("mlflow", "deepreduce.observers.mlflow:MlflowLogger", GROUP),
)
_PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""What the extra of the same name installs."""


def known_observers() -> dict[str, EntryPoint]:
    """Return all observers by name; a built-in one wins over a package's of the same name."""
    return {entry.name: entry for entry in (*entry_points(group=GROUP), *_BUILT_IN)}


def make_observers(names: Sequence[str], *, own: Sequence[RunObserver] = ()) -> tuple[RunObserver, ...]:
    """Return a user's own observers, then one for each of the names, once where a name is repeated. Writes nothing.

    Raises `UserError` for what is no observer, an unknown name, a missing package (naming the extra that installs
    it), and a class that can't be imported or made.
    """
    for number, observer in enumerate(own):
        if not isinstance(observer, RunObserver):
            raise UserError(
                f"observers[{number}] is {observer!r}; give an instance of a subclass of deepreduce.RunObserver"
            )
    known = known_observers()
    return (*own, *(_make(name, known) for name in dict.fromkeys(names)))


def _make(name: str, known: dict[str, EntryPoint]) -> RunObserver:
    if name not in known:
        raise UserError(f"log: {unknown_name('observer', name, sorted(known))}")
    if name in _PACKAGES:
        require_packages(f"log: {name}", *_PACKAGES[name], extra=name)
    try:
        observer = known[name].load()()
        if not isinstance(observer, RunObserver):
            raise TypeError("it is no subclass of deepreduce.RunObserver")
        return observer
    except Exception as error:  # whatever a package may raise when it is imported
        raise UserError(
            f"log: {name} ({known[name].value}) can't be used: {type(error).__name__}: {error}; repair or uninstall"
            " its package, or leave it out of log"
        ) from error
