"""Random numbers that follow from what they are for, not from what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that follows from `parts` alone, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def derived_generator(*parts: int | str) -> torch.Generator:
    """A generator on the CPU, seeded with `derived_seed(*parts)`."""
    return torch.Generator().manual_seed(derived_seed(*parts))
