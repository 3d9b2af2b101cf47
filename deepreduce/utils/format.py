"""Format counts, seconds and bytes for people."""

from __future__ import annotations


def short_count(relu_count: float) -> str:
    """Format a count with at most one decimal of K, or two of M: 512, 28.7K, 557.1K, 1.23M."""
    if round(relu_count) < 1000:
        return f"{relu_count:.0f}"
    # 999,950 and more would round to 1000K
    if relu_count < 999_950:
        return f"{relu_count / 1000:.1f}".removesuffix(".0") + "K"
    return f"{relu_count / 1e6:.2f}".rstrip("0").rstrip(".") + "M"


def short_seconds(seconds: float) -> str:
    """Format seconds with three digits and a unit: 0 s, 4.2 ms, 0.112 s, 8.49 s, 51.6 s, 15.4 min."""
    if seconds >= 600:
        return f"{_digits(seconds / 60)} min"
    return f"{_digits(seconds)} s" if seconds >= 0.1 or seconds == 0 else f"{_digits(1000 * seconds)} ms"


def duration(seconds: float) -> str:
    """Return a time in its two largest units, as in 2 h 05 min or 40 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def short_bytes(count: float) -> str:
    """Format bytes with three digits and a decimal unit: 512 B, 1.21 MB, 332 MB, 10.6 GB."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.9995 * power:
            return f"{_digits(count / power)} {unit}"
    return f"{count:.0f} B"


def _digits(value: float) -> str:
    text = f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
