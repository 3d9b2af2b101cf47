"""Channel mask: some channels of a site keep their ReLU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deepreduce.errors import PlanError
from deepreduce.network.network import ReluSite
from deepreduce.sites.mask import Mask


@dataclass(frozen=True, kw_only=True)
class ChannelMask(Mask):
    """Keep the ReLU of the channels that are true; of a site (C, H, W), each costs H * W ReLUs, of (C,) one.

    `ChannelMask.of(mask)` takes booleans (C,) or (C, 1, 1).
    """

    kind: ClassVar[str] = "channel_mask"
    ranks: ClassVar[tuple[int, ...]] = (1, 3)
    fixes: ClassVar[tuple[str, ...]] = ("alpha",)

    @classmethod
    def _checked(cls, array: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if array.ndim not in (1, 3) or array.size != len(array):
            raise PlanError(f"a channel mask of shape {array.shape} is given; give one boolean per channel: (C,)")
        return array.reshape(-1)

    def text(self, site: ReluSite) -> str:
        """Return how many channels are kept of how many."""
        return f"{self.kept:,} of {site.shape[0]:,} channels"

    def kept_of(self, shape: tuple[int, ...]) -> int:
        """Return the elements of the channels that are kept."""
        return self.kept * math.prod(shape[1:])
