"""Pixel mask: some elements of a site keep their ReLU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deepreduce.cost.layers import moved_elements
from deepreduce.errors import PlanError
from deepreduce.network.network import ReluSite
from deepreduce.sites.base import SiteAction
from deepreduce.sites.channel_mask import ChannelMask
from deepreduce.sites.mask import Mask


@dataclass(frozen=True, kw_only=True)
class PixelMask(Mask):
    """Keep the ReLU of the elements that are true: one ReLU each, whichever the channel.

    `PixelMask.of(mask)` takes booleans (C, H, W).
    """

    kind: ClassVar[str] = "pixel_mask"
    ranks: ClassVar[tuple[int, ...]] = (3,)

    @classmethod
    def _checked(cls, array: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if array.ndim != 3:
            raise PlanError(f"a pixel mask of shape {array.shape} is given; give one boolean per element: (C, H, W)")
        return array

    def normalised(self, site: ReluSite) -> SiteAction:
        """Return the channel mask that does the same, where there is one."""
        simpler = super().normalised(site)
        array = self._array()
        whole = bool((array == array[:, :1, :1]).all())
        return ChannelMask.of(array[:, 0, 0]) if simpler is self and whole else simpler

    def text(self, site: ReluSite) -> str:
        """Return how many elements are kept of how many."""
        return f"{self.kept:,} of {site.elements:,} pixels"

    def kept_of(self, shape: tuple[int, ...]) -> int:
        """Return the elements that are kept."""
        return self.kept

    def moved_of(self, shape: tuple[int, ...]) -> int:
        """Return the elements that are kept, which are taken out, and all, among which they are put back."""
        return moved_elements(math.prod(shape), [self.kept])
