"""Keep: the ReLU stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepreduce.network.network import ReluSite
from deepreduce.sites.base import SiteAction, SiteCall, Units


@dataclass(frozen=True, repr=False)
class Keep(SiteAction):
    """Leave the ReLU as it is. A plan takes "keep" for it, and leaves such sites out."""

    kind: ClassVar[str] = "keep"
    fixes: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return repr(self.kind)

    def units(self) -> Units:
        """Return that every element keeps its ReLU."""
        return np.array(True)

    def relu_count(self, site: ReluSite) -> int:
        """Return all of the site's ReLUs."""
        return site.elements

    def rewrite(self, call: SiteCall) -> None:
        """Leave the graph as it is."""


KEEP = Keep()
