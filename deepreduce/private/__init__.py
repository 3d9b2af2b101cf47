"""Run reduced networks under real secure computation: one process per party, each with its own secret, on SPU.

`measure` runs a network and reports what each layer costs. The parties' processes import from this package without
PyTorch, so its names load on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepreduce.private.measuring import measure
    from deepreduce.private.result import PrivateRun

__all__ = ["PrivateRun", "measure"]


def __getattr__(name: str) -> Any:
    if name == "measure":
        from deepreduce.private.measuring import measure

        return measure
    if name == "PrivateRun":
        from deepreduce.private.result import PrivateRun

        return PrivateRun
    raise AttributeError(name)
