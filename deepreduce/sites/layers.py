"""The layers of masked sites: y = m * relu(x) + (1 - m) * x, at once or on the way there."""

from __future__ import annotations

from typing import Any

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


class _RectifyAbove(torch.autograd.Function):
    """max(x, floor), with gradient 0 where x is at or below the floor.

    A floor of 0 makes a ReLU, one of minus infinity the identity. Selecting between the two takes four times as long
    on a CPU, since `torch.where` is not vectorised for broadcast masks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: Tensor) -> Tensor:
        y = torch.maximum(x, floor)
        ctx.save_for_backward(y, floor)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, floor = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y - floor, 0), None


class MaskedRectifier:
    """Compute the ReLU of masked elements, fast where gradients are needed.

    It keeps the floor of the last mask, device, number type and memory layout that it met.
    """

    def __init__(self) -> None:
        self._mask: Tensor | None = None
        self._floor: Tensor | None = None
        self._made_for: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskedRectifier:
        return MaskedRectifier()

    def __reduce__(self) -> tuple[Any, ...]:
        return MaskedRectifier, ()

    def __call__(self, x: Tensor, mask: Tensor, cap: float | None) -> Tensor:
        """Return the ReLU of x where `mask` is true, x elsewhere. `mask` broadcasts to x: (batch, ...)."""
        is_trained = type(x) is Tensor and x.requires_grad and torch.is_grad_enabled()  # and not traced or exported
        if cap is not None or not is_trained:
            return select(mask, rectify(x, cap), x)
        return _RectifyAbove.apply(x, self._floor_for(x, mask))  # type: ignore[no-any-return]

    def _floor_for(self, x: Tensor, mask: Tensor) -> Tensor:
        layout = torch.contiguous_format
        if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        wanted = (mask._version, x.shape[1:], x.dtype, x.device, layout)
        if self._floor is None or self._mask is not mask or self._made_for != wanted:
            floor = torch.zeros(1, *x.shape[1:], dtype=x.dtype, device=x.device)
            floor.masked_fill_(~mask, -torch.inf)
            self._mask, self._floor, self._made_for = mask, floor.contiguous(memory_format=layout), wanted
        return self._floor


class MaskedRelu(SiteLayer):
    """The ReLU of some elements, the identity for the others. `mask` broadcasts to (batch, *shape of the site)."""

    mask: Tensor

    def __init__(self, action: Action, site: ReluSite, mask: Tensor, *, inplace: bool) -> None:
        super().__init__(action, site, inplace=inplace)
        # no weight: the plan holds it, and networks of other masks exchange weights
        self.register_buffer("mask", mask, persistent=False)
        self._rectify = MaskedRectifier()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, *shape of the site)."""
        y = self._rectify(x, self.mask, self.cap)
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
