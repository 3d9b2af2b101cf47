"""The cost that a frontier's networks are compared by: ReLUs, or latency or bytes under a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from deepreduce.cost.estimate import CostEstimate
from deepreduce.errors import UserError, unknown_name
from deepreduce.utils.format import short_bytes, short_count, short_seconds

RELUS, LATENCY, BYTES = "relus", "latency", "bytes"
OBJECTIVES = (RELUS, LATENCY, BYTES)

MEASURED = "measured-"
"""Starts the name of a preset whose prices were measured by 'deepreduce private run': measured-semi2k-loopback."""


class Costed(Protocol):
    """A network whose costs are known: a `Proposal` or a `Candidate`."""

    @property
    def relu_count(self) -> int:
        """ReLUs for one image."""

    @property
    def cost_estimates(self) -> Mapping[str, CostEstimate]:
        """By the name of a preset, as in "cheetah-lan"."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """All that is `Costed`."""

    relu_count: int
    cost_estimates: Mapping[str, CostEstimate]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A cost of one image: `relus`, or `latency` (seconds) or `bytes` (offline included) under `preset`.

    Raises `UserError` for another name, and where a preset is missing or is one too many.
    """

    name: str = RELUS
    preset: str | None = None

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise UserError(unknown_name("objective", self.name, OBJECTIVES))
        if (self.name == RELUS) != (self.preset is None):
            raise UserError(
                f"{self.name} under {self.preset}: latency and bytes are those of a preset, such as cheetah-lan; a"
                " ReLU count is none's"
            )

    def knows(self, network: Costed) -> bool:
        """Whether the network's cost is known."""
        return self.preset is None or self.preset in network.cost_estimates

    def cost(self, network: Costed) -> float:
        """A count, seconds, or bytes. Raises `UserError` where it is not known."""
        if self.preset is None:
            return network.relu_count
        if self.preset not in network.cost_estimates:
            raise UserError(unknown_name("preset of these networks", self.preset, sorted(network.cost_estimates)))
        price = network.cost_estimates[self.preset]
        return price.latency if self.name == LATENCY else price.bytes

    def text(self, cost: float) -> str:
        """A cost for a reader: "28,672 ReLUs", "1.27 s", "332 MB"."""
        if self.name == RELUS:
            return f"{cost:,.0f} {'ReLU' if cost == 1 else 'ReLUs'}"
        return self.short(cost)

    def short(self, cost: float) -> str:
        """The same where room is dear: "28.7K", "1.27 s", "332 MB"."""
        return {RELUS: short_count, LATENCY: short_seconds, BYTES: short_bytes}[self.name](cost)

    @property
    def noun(self) -> str:
        """What is counted, as a column's head has it."""
        return {RELUS: "ReLUs", LATENCY: "latency", BYTES: "bytes"}[self.name]

    @property
    def title(self) -> str:
        """What is counted, in full, as an axis has it."""
        if self.preset is None:
            return "ReLUs for one image"
        return f"{self.noun.capitalize()} for one image, {basis_of(self.preset)}"


def basis_of(preset: str) -> str:
    """Where the prices under a preset are from: "cheetah over lan (estimated)"."""
    protocol, _, link = preset.removeprefix(MEASURED).rpartition("-")
    what = "estimated"
    if preset.startswith(MEASURED):
        what = "measured" if link == "loopback" else "measured; link computed"
    # semi2k, the user's own model of it too, is never shown without a word of its dealer
    dealer = "trusted dealer, a cost reference; " if protocol.rpartition("-")[2] == "semi2k" else ""
    return f"{protocol} over {link} ({dealer}{what})"


COUNT_OF_RELUS = Objective()
"""What frontiers are about unless something else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a network may have: at most `max_relus` ReLUs, and cost at most `max_cost` by the objective; None: any.

    Raises `UserError` for a limit that is no number from 0 on.
    """

    max_relus: float | None = None
    max_cost: float | None = None
    objective: Objective = COUNT_OF_RELUS

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            if not value >= 0:
                raise UserError(f"{name} is {value!r}; give a number, 0 or more")

    @property
    def given(self) -> dict[str, float]:
        """The limits that there are, by name."""
        limits = {"max_relus": self.max_relus, "max_cost": self.max_cost}
        return {name: value for name, value in limits.items() if value is not None}

    def allow(self, network: Costed) -> bool:
        """Whether the network keeps to them. Raises `UserError` where its cost is limited and not known."""
        if self.max_relus is not None and network.relu_count > self.max_relus:
            return False
        return self.max_cost is None or self.objective.cost(network) <= self.max_cost

    def text(self) -> str:
        """For a reader: "at most 28,672 ReLUs and at most 2 s"."""
        texts = {"max_relus": COUNT_OF_RELUS.text, "max_cost": self.objective.text}
        return " and ".join(f"at most {texts[name](value)}" for name, value in self.given.items())


UNLIMITED = Limits()
