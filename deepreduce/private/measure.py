"""Measure a network under secure computation: the door of this room."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from deepreduce.network import Network
from deepreduce.private.result import PrivateRun


def measure(
    network: Network,
    images: Tensor,
    *,
    protocol: str = "cheetah",
    repeats: int = 3,
    ports: Sequence[int] | None = None,
    timeout_s: float = 600.0,
) -> PrivateRun:
    """What `network` costs under `protocol`, layer by layer, and its logits for `images` (N, C, H, W) under it.

    Each image is one query, in turn, and at least `repeats` queries are timed after a first one that is not; the
    parties are processes of their own that end with the call. `ports` are one for each party (None: free ones). The
    images are as the network takes them (standardised). Raises `UserError` for what can't be expressed, `RunError`
    where a party dies or a query takes more than `timeout_s` seconds.
    """
    raise NotImplementedError
