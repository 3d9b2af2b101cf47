"""How long it takes to compute a network, as far as counts can tell: what its training is paid by."""

from __future__ import annotations

from dataclasses import dataclass

OPERATION_MACS = 2e6
"""What starting one operation takes, whatever the batch, in the multiply-accumulates that fit into that time.

A step of ResNet-18 takes 11 ms however narrow it is: three passes of 68 operations, at 20 to 60 billion
multiply-accumulates a second and core (docs/performance.md).
"""


@dataclass(frozen=True, kw_only=True)
class ComputeCost:
    """Of a network: `macs` of one image as hardware sees them, and the `operations` that a batch passes through.

    `macs` have channels rounded up to what hardware takes at once.
    """

    macs: float
    operations: int

    def per_image(self, batch_size: int) -> float:
        """What a forward pass of a batch takes for each of its images, in multiply-accumulates."""
        return self.macs + self.operations * OPERATION_MACS / batch_size
