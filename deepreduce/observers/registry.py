"""Observers that the config asks for by name (`log: [tensorboard]`): our own, and those of installed packages.

A package offers one by an entry point of the group `deepreduce.observers`: a name, and a class that is made without
arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepreduce.errors import UserError
from deepreduce.observers.base import RunObserver
from deepreduce.utils.optional import require_packages
from deepreduce.utils.plugins import load_plugin

GROUP = "deepreduce.observers"

_BUILT_IN = {
    "tensorboard": "deepreduce.observers.tensorboard:TensorBoardLogger",
    "mlflow": "deepreduce.observers.mlflow:MlflowLogger",
}
_PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Packages that the extra of the same name installs."""


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
    return (*own, *map(_make, dict.fromkeys(names)))


def _make(name: str) -> RunObserver:
    require_packages(f"log: {name}", *_PACKAGES.get(name, ()), extra=name)
    found = load_plugin("observer", name, GROUP, _BUILT_IN)
    try:
        observer = found()
    except Exception as error:  # whatever a package's class may raise
        raise UserError(
            f"observer {name!r} can't be made: {type(error).__name__}: {error}; repair its package"
        ) from error
    if not isinstance(observer, RunObserver):
        raise UserError(
            f"observer {name!r} ({found!r}) is no subclass of deepreduce.RunObserver; leave it out of log"
        )
    return observer
