"""An estimate, from counts alone, of the time to compute a network: the unit in which training is budgeted."""

from __future__ import annotations

from dataclasses import dataclass

OPERATION_MACS = 2e6
"""The overhead of starting one operation on a batch of any size, as the multiply-accumulates that fit into that time.

A training step of ResNet-18 takes at least 11 ms, however narrow the network: three passes of 68 operations, at 20
to 60 billion multiply-accumulates per second and core (docs/performance.md).
"""


@dataclass(frozen=True, kw_only=True)
class ComputeCost:
    """The multiply-accumulates of a network for one image, and the number of operations in one forward pass.

    In `macs`, the channels of dense convolutions are rounded up to the hardware's vector width.
    """

    macs: float
    operations: int

    def per_image(self, batch_size: int) -> float:
        """Return the cost per image of a forward pass, in MACs: `macs + operations * OPERATION_MACS / batch_size`."""
        return self.macs + self.operations * OPERATION_MACS / batch_size
