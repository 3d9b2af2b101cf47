"""Reduced networks under real secure computation: each party a process with its own secret, on SPU.

`measure` runs a network and says what each layer costs. The parties' processes import from here too, and do without
PyTorch: names load when they are first used.
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
