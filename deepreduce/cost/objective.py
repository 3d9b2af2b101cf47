"""Objectives: the cost of one image by which networks are compared, such as ReLUs, or latency under a protocol.

A new objective is one class, registered under the entry-point group `deepreduce.objectives`:

```python
class Energy(PresetObjective):
    name, noun, phrase, unit = "energy", "energy", "an energy of", JOULES

    def amount(self, estimate: CostEstimate) -> float:
        return 15.0 * estimate.latency
```

Everything that the package says or draws of an objective is a member of it: nothing asks for its name.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from deepreduce.cost.batch import split_batch
from deepreduce.cost.estimate import CostEstimate
from deepreduce.errors import UserError, unknown_name
from deepreduce.utils.format import BYTES, COUNT, SECONDS, Unit
from deepreduce.utils.plugins import known_plugins, load_plugin

GROUP = "deepreduce.objectives"

_BUILT_IN = {
    "relus": "deepreduce.cost.objective:ReluCount",
    "latency": "deepreduce.cost.objective:Latency",
    "bytes": "deepreduce.cost.objective:Bytes",
}

MEASURED = "measured-"
"""Prefix of the presets that 'deepreduce private run' measured, as in measured-semi2k-loopback."""


class Costed(Protocol):
    """A network of known costs, such as a `Proposal` or a `Candidate`."""

    @property
    def relu_count(self) -> int:
        """ReLUs for one image."""

    @property
    def cost_estimates(self) -> Mapping[str, CostEstimate]:
        """The cost of one image by the name of a preset, as in "cheetah-lan"."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The costs of a network, apart from it."""

    relu_count: int
    cost_estimates: Mapping[str, CostEstimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A cost of one image (lower is better), with its unit and its texts.

    `preset` names the protocol and link under which it is a cost; None where it is no cost of a protocol. Raises
    `UserError` where a preset is missing, or given to an objective that has none.
    """

    preset: str | None = None

    name: ClassVar[str]
    """As in `cost.objective` of a config."""
    noun: ClassVar[str]
    """Heads a column: "latency"."""
    phrase: ClassVar[str] = "a cost of"
    """Precedes a cost in a sentence: "a latency of"."""
    comparative: ClassVar[str] = "less"
    """Heads the column of how many times less a network costs than the teacher."""
    cheapest: ClassVar[str] = "the cheapest"
    most_expensive: ClassVar[str] = "most expensive"
    unit: ClassVar[Unit]
    needs_preset: ClassVar[bool] = False
    counts_relus: ClassVar[bool] = False
    """The cost is `relu_count` itself: a ReLU that is removed saves 1 whatever else the network computes."""
    is_whole: ClassVar[bool] = False
    """Costs are whole numbers."""
    least: ClassVar[float] = sys.float_info.min
    """The cost that stands for 0 in logarithms."""

    def __post_init__(self) -> None:
        if self.needs_preset and self.preset is None:
            raise UserError(f"{self.name} needs a preset: the protocol and link that it is a cost of, as cheetah-lan")
        if self.preset is not None and not self.needs_preset:
            raise UserError(f"{self.name} is a cost under no protocol; leave out the preset {self.preset}")

    @abstractmethod
    def knows(self, network: Costed) -> bool:
        """Return whether the network's cost is known."""

    @abstractmethod
    def cost(self, network: Costed) -> float:
        """Return the network's cost. Raises `UserError` where it is not known."""

    @abstractmethod
    def under(self, preset: str) -> Objective:
        """Return this objective under another preset; latency where it has none."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Names an axis: "Latency for one image, cheetah over lan (estimated)"."""

    def short(self, cost: float) -> str:
        """Return a cost as short as possible, as beside a point: "28.7K", "1.27 s", "332 MB"."""
        return self.unit.text(cost)

    def cell(self, cost: float) -> str:
        """Return a cost for a table's column: "28,672", "1.27 s", "332 MB"."""
        return self.short(cost)

    def text(self, cost: float) -> str:
        """Return a cost for a sentence: "28,672 ReLUs", "1.27 s", "332 MB"."""
        return self.short(cost)

    def gain(self, cost: float, full_cost: float | None) -> str:
        """Return what a network has, and how it compares: "a latency of 1.27 s (3.1x less)".

        `full_cost` is the teacher's; None where it is not known.
        """
        less = f" ({full_cost / cost:.1f}\u00d7 {self.comparative})" if full_cost and cost else ""
        return f"{self.phrase} {self.text(cost)}{less}"

    @property
    def key(self) -> str:
        """Tells objectives apart: "relus", "latency cheetah-lan"."""
        return f"{self.name} {self.preset}" if self.preset else self.name

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"name": self.name, "preset": self.preset}


class ReluCount(Objective):
    """The number of ReLUs."""

    name, noun, comparative, unit = "relus", "ReLUs", "fewer", COUNT
    cheapest, most_expensive = "the one with the fewest ReLUs", "most ReLUs"
    counts_relus = is_whole = True
    least = 1

    def knows(self, network: Costed) -> bool:
        return True

    def cost(self, network: Costed) -> float:
        return network.relu_count

    def under(self, preset: str) -> Objective:
        return Latency(preset=preset)

    @property
    def title(self) -> str:
        return "ReLUs for one image"

    def cell(self, cost: float) -> str:
        return f"{cost:,.0f}"

    def text(self, cost: float) -> str:
        return f"{cost:,.0f} {'ReLU' if cost == 1 else 'ReLUs'}"

    def gain(self, cost: float, full_cost: float | None) -> str:
        return f"{full_cost / cost:.1f}\u00d7 fewer ReLUs" if full_cost and cost else self.text(cost)


class PresetObjective(Objective):
    """A cost under a preset: some amount of the network's cost estimate."""

    needs_preset = True

    @abstractmethod
    def amount(self, estimate: CostEstimate) -> float:
        """Return the cost that the estimate amounts to."""

    def knows(self, network: Costed) -> bool:
        return self.preset in network.cost_estimates

    def cost(self, network: Costed) -> float:
        assert self.preset is not None
        if not self.knows(network):
            raise UserError(unknown_name("preset of these networks", self.preset, sorted(network.cost_estimates)))
        return self.amount(network.cost_estimates[self.preset])

    def under(self, preset: str) -> Objective:
        return replace(self, preset=preset)

    @property
    def title(self) -> str:
        assert self.preset is not None
        return f"{self.noun.capitalize()} for one image, {basis_of(self.preset)}"


class Latency(PresetObjective):
    """Seconds from the image to its logits."""

    name, noun, phrase, unit = "latency", "latency", "a latency of", SECONDS

    def amount(self, estimate: CostEstimate) -> float:
        return estimate.latency


class Bytes(PresetObjective):
    """Bytes that all parties send, online and offline."""

    name, noun, phrase, unit = "bytes", "bytes", "communication of", BYTES

    def amount(self, estimate: CostEstimate) -> float:
        return estimate.bytes


COUNT_OF_RELUS = ReluCount()
"""The objective unless another is asked for."""


def known_objectives() -> list[str]:
    """Return the names of all objectives, deepreduce's own first."""
    return list(known_plugins(GROUP, _BUILT_IN))


def objective_class(name: str) -> type[Objective]:
    """Return the objective called `name`, without a preset. Raises `UserError` for an unknown name."""
    found = load_plugin("objective", name, GROUP, _BUILT_IN)
    if not (isinstance(found, type) and issubclass(found, Objective) and found.name == name):
        raise UserError(f"{found!r} is no objective called {name!r}; see deepreduce.cost.objective")
    return found


def objective_named(name: str, preset: str | None = None) -> Objective:
    """Return the objective called `name` under a preset.

    Raises `UserError` for an unknown name, and for a preset that is missing or one too many.
    """
    return objective_class(name)(preset=preset)


def objectives_under(presets: Iterable[str]) -> list[Objective]:
    """Return every objective there is: first those without a preset, then the others under each of `presets`."""
    classes = [objective_class(name) for name in known_objectives()]
    alone = [each() for each in classes if not each.needs_preset]
    return alone + [each(preset=preset) for preset in presets for each in classes if each.needs_preset]


def basis_of(preset: str) -> str:
    """Return where the costs under a preset come from: "cheetah over lan (estimated)"."""
    given, _, link = preset.removeprefix(MEASURED).rpartition("-")
    protocol, batch = split_batch(given)
    source = "estimated"
    if preset.startswith(MEASURED):
        source = "measured" if link == "loopback" else "measured; link computed"
    # semi2k, the user's own model of it too, is never shown without a word about its dealer
    dealer = "trusted dealer, a cost reference; " if protocol.rpartition("-")[2] == "semi2k" else ""
    images = f"{batch} images a query; " if batch > 1 else ""
    return f"{protocol} over {link} ({images}{dealer}{source})"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a network: at most `max_relus` ReLUs, and a cost of at most `max_cost` by the objective; None: none.

    Raises `UserError` for a limit that is not a number from 0 on.
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
        """The limits that are not None, by name."""
        limits = {"max_relus": self.max_relus, "max_cost": self.max_cost}
        return {name: value for name, value in limits.items() if value is not None}

    def allow(self, network: Costed) -> bool:
        """Return whether the network is within the limits. Raises `UserError` for an unknown cost that is limited."""
        if self.max_relus is not None and network.relu_count > self.max_relus:
            return False
        return self.max_cost is None or self.objective.cost(network) <= self.max_cost

    def text(self) -> str:
        """Return the limits for a sentence: "at most 28,672 ReLUs and at most 2 s"."""
        texts = {"max_relus": COUNT_OF_RELUS.text, "max_cost": self.objective.text}
        return " and ".join(f"at most {texts[name](value)}" for name, value in self.given.items())


UNLIMITED = Limits()
