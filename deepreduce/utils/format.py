"""Format counts, seconds and bytes for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Step:
    """The format of amounts from `least` on: in multiples of `size`, followed by `suffix`.

    `places` is the largest number of decimals; None: three significant digits.
    """

    least: float
    size: float
    suffix: str
    places: int | None = None


@dataclass(frozen=True)
class Unit:
    """A unit that formats an amount in the first step that the amount reaches, and 0 in the step of size 1."""

    steps: tuple[Step, ...]

    def text(self, amount: float) -> str:
        """Return the amount as a short text: "28.7K", "1.27 s", "332 MB"."""
        reached = (step for step in self.steps if (step.size == 1 if amount == 0 else amount >= step.least))
        step = next(reached, self.steps[-1])
        value = amount / step.size
        if step.places is None:
            number = f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
        else:
            number = f"{value:.{step.places}f}"
        if "." in number and "e" not in number:
            number = number.rstrip("0").rstrip(".")
        return number + step.suffix

    def to_json(self) -> list[dict[str, Any]]:
        """Return the steps as JSON values, for the page's script, which formats amounts in the same way."""
        return [asdict(step) for step in self.steps]


# each step begins where the one below would round to 1,000
COUNT = Unit(
    (
        Step(least=999.995e6, size=1e9, suffix="G", places=2),
        Step(least=999_950, size=1e6, suffix="M", places=2),
        Step(least=999.5, size=1e3, suffix="K", places=1),
        Step(least=0, size=1, suffix="", places=0),
    )
)
"""At most one decimal of K, or two of M and G: 512, 28.7K, 557.1K, 1.23M."""

SECONDS = Unit(
    (
        Step(least=600, size=60, suffix=" min"),
        Step(least=0.1, size=1, suffix=" s"),
        Step(least=0, size=1e-3, suffix=" ms"),
    )
)
"""Three digits: 4.2 ms, 0.112 s, 8.49 s, 51.6 s, 15.4 min."""

BYTES = Unit(
    (
        Step(least=999.5e9, size=1e12, suffix=" TB"),
        Step(least=999.5e6, size=1e9, suffix=" GB"),
        Step(least=999.5e3, size=1e6, suffix=" MB"),
        Step(least=999.5, size=1e3, suffix=" kB"),
        Step(least=0, size=1, suffix=" B", places=0),
    )
)
"""Three digits with a decimal unit: 512 B, 1.21 MB, 332 MB, 10.6 GB."""


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


def printable(text: str) -> str:
    """Return a text from a file or a network as a terminal may show it: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
