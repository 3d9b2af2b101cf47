"""The layers of masked sites: y = m * relu(x) + (1 - m) * x, at once or on the way there."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from deepreduce.network.network import ReluSite
from deepreduce.network.site_layer import Action, SiteLayer
from deepreduce.sites.base import Annealing


@fx.wrap
def select(mask: Tensor, kept: Tensor, others: Tensor) -> Tensor:
    """Return `kept` where the mask (1, C, ...) is true, `others` elsewhere, in the memory format of `others`.

    The first operand decides the layout of the result: a mask of another format would push all activations behind it
    out of channels-last.
    """
    if others.dim() == 4:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            if others.is_contiguous(memory_format=memory_format):
                mask = mask.contiguous(memory_format=memory_format)
                break
    return torch.where(mask, kept, others)


def rectify(x: Tensor, cap: float | None) -> Tensor:
    """Return the ReLU of x, capped where there is a cap."""
    return F.relu(x) if cap is None else F.hardtanh(x, 0.0, cap)


class MaskedRelu(SiteLayer):
    """The ReLU of some elements, the identity for the others. `mask` broadcasts to (batch, *shape of the site)."""

    mask: Tensor

    def __init__(self, action: Action, site: ReluSite, mask: Tensor, *, inplace: bool) -> None:
        super().__init__(action, site, inplace=inplace)
        # no weight: the plan holds it, and networks of other masks exchange weights
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, *shape of the site)."""
        y = select(self.mask, rectify(x, self.cap), x)
        return x.copy_(y) if self.inplace else y


class Fading(Annealing):
    """ReLUs on their way out: negative inputs are multiplied by `share`, 0 for a ReLU and 1 for the identity.

    Elements in `kept` (None: none) stay ReLUs, and those not in `before` (None: all are) had none to begin with.
    """

    kept: Tensor | None
    before: Tensor | None

    def __init__(
        self, *, kept: Tensor | None = None, before: Tensor | None = None, cap: float | None = None, copies: bool
    ) -> None:
        super().__init__()
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("before", before, persistent=False)
        self._cap, self._copies = cap, copies

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, *shape of the site)."""
        if self.kept is None and self.share >= 1 and not self._copies:
            return x
        y = F.leaky_relu(x, self.share)
        if self.kept is not None:
            y = select(self.kept, rectify(x, self._cap), y)
        return y if self.before is None else select(self.before, y, x)
