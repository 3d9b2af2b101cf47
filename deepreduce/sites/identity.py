"""Identity: the ReLU is dropped and its input passes through (DeepReDuce, sections 3.1 and 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepreduce.network.network import ReluSite
from deepreduce.sites.base import Annealing, SiteAction, SiteCall, Units, select_of
from deepreduce.sites.layers import Fading


@dataclass(frozen=True, repr=False)
class Identity(SiteAction):
    """Drop the ReLU. A plan takes "identity" for it."""

    kind: ClassVar[str] = "identity"
    fixes: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return repr(self.kind)

    def units(self) -> Units:
        """Return that no element keeps its ReLU."""
        return np.array(False)

    def relu_count(self, site: ReluSite) -> int:
        """Return 0."""
        return 0

    def rewrite(self, call: SiteCall) -> None:
        """Take the ReLU out of the graph."""
        call.bypass()

    def annealed(self, site: ReluSite, *, before: SiteAction, copies: bool) -> Annealing | None:
        """Return a layer whose slope for negative inputs rises from 0 to 1."""
        return Fading(before=select_of(before, site), copies=copies)


IDENTITY = Identity()
