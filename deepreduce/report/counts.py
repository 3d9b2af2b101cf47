"""ReLU counts as people print them."""

from __future__ import annotations


def short_count(relu_count: float) -> str:
    """A count with at most one decimal of K, or two of M: 512, 28.7K, 557.1K, 1.23M."""
    if round(relu_count) < 1000:
        return f"{relu_count:.0f}"
    # 999,950 and more would be rounded to 1000K
    if relu_count < 999_950:
        return f"{relu_count / 1000:.1f}".removesuffix(".0") + "K"
    return f"{relu_count / 1e6:.2f}".rstrip("0").rstrip(".") + "M"
