"""What is done to a network: a complete description that can be saved, hashed and applied."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deepreduce.errors import PlanError, unknown_name

ACTIONS = ("keep", "identity")
"""What a plan can do with a ReLU site."""

_FIELDS = ("sites", "alpha", "rho", "depth", "pad_once")


@dataclass(frozen=True, kw_only=True)
class ReductionPlan:
    """A reduced network, described relative to the original it is applied to.

    `sites` maps a ReLU site's name to its action (given as a mapping or pairs; kept as sorted pairs, without
    the sites that are simply kept). `alpha` scales all channels, `rho` the resolution of the feature maps
    (DeepReDuce, section 3.3); both lie in (0, 1]. `depth` is the number of blocks per stage, or None to leave
    it. `pad_once` does the zero padding of regions that have become linear at their entries, so that they collapse
    exactly (`deepreduce.transforms.collapse.pad_once`). Equal plans hash equal; `eval(repr(plan))` and
    `from_json(to_json())` give the plan back. Raises `PlanError` for an unknown action or a scale outside (0, 1].
    """

    sites: tuple[tuple[str, str], ...] = ()
    alpha: float = 1.0
    rho: float = 1.0
    depth: tuple[int, ...] | None = None
    pad_once: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", _normalised_sites(self.sites))
        for name in ("alpha", "rho"):
            value = getattr(self, name)
            if not _is_number(value) or not math.isfinite(value) or not 0 < value <= 1:
                raise PlanError(f"{name} is {value!r}; it scales the network down, so give a number in (0, 1]")
            object.__setattr__(self, name, float(value))
        if self.depth is not None:
            depth = tuple(self.depth)
            if not depth or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in depth):
                raise PlanError(f"depth is {self.depth!r}; give one positive block count per stage")
            object.__setattr__(self, "depth", depth)
        if not isinstance(self.pad_once, bool):
            raise PlanError(f"pad_once is {self.pad_once!r}; give true or false")

    @property
    def is_empty(self) -> bool:
        """True for the plan that leaves the network as it is."""
        return self == ReductionPlan()

    @property
    def linearized(self) -> tuple[str, ...]:
        """Names of the sites whose ReLU becomes the identity."""
        return tuple(name for name, action in self.sites if action == "identity")

    @property
    def plan_id(self) -> str:
        """Short hash that names the candidate's folder: equal for equal plans, on every machine."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]

    def merge(self, other: ReductionPlan) -> ReductionPlan:
        """This plan and `other` together. Raises `PlanError` where both set one value differently."""
        sites = dict(self.sites)
        for name, action in other.sites:
            if sites.setdefault(name, action) != action:
                raise PlanError(f"site {name!r} is {sites[name]!r} in one plan and {action!r} in the other")
        return ReductionPlan(
            sites=tuple(sites.items()),
            alpha=_merged("alpha", self.alpha, other.alpha, 1.0),
            rho=_merged("rho", self.rho, other.rho, 1.0),
            depth=_merged("depth", self.depth, other.depth, None),
            pad_once=self.pad_once or other.pad_once,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: `sites` (name -> action), `alpha`, `rho`, `depth`, and `pad_once` where set."""
        value = {
            "sites": dict(self.sites),
            "alpha": self.alpha,
            "rho": self.rho,
            "depth": list(self.depth) if self.depth is not None else None,
        }
        # left out where it is not set, so that plans keep the ids they had before there was such a thing
        return value | {"pad_once": True} if self.pad_once else value

    @classmethod
    def from_json(cls, value: Any) -> ReductionPlan:
        """The plan that `to_json` described. Raises `PlanError` for anything else."""
        if not isinstance(value, Mapping):
            raise PlanError(f"a plan is a JSON object, not {type(value).__name__}")
        for key in value:
            if key not in _FIELDS:
                raise PlanError(unknown_name("plan key", key, _FIELDS))
        depth = value.get("depth")
        if depth is not None and not isinstance(depth, (list, tuple)):
            raise PlanError(f"depth is {depth!r}; give a list of block counts or null")
        return cls(
            sites=value.get("sites", ()),
            alpha=value.get("alpha", 1.0),
            rho=value.get("rho", 1.0),
            depth=None if depth is None else tuple(depth),
            pad_once=value.get("pad_once", False),
        )


def _normalised_sites(sites: Any) -> tuple[tuple[str, str], ...]:
    pairs: Iterable[Any] = sites.items() if isinstance(sites, Mapping) else sites
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise PlanError(f"sites is {sites!r}; give a mapping from site name to action")
    actions: dict[str, str] = {}
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise PlanError(f"{pair!r} is not a (site name, action) pair")
        name, action = pair
        if action not in ACTIONS:
            raise PlanError(f"site {name!r}: " + unknown_name("action", action, ACTIONS))
        if actions.setdefault(name, action) != action:
            raise PlanError(f"site {name!r} has two actions: {actions[name]!r} and {action!r}")
    return tuple(sorted((name, action) for name, action in actions.items() if action != "keep"))


def _merged(name: str, a: Any, b: Any, neutral: Any) -> Any:
    if a != neutral and b != neutral and a != b:
        raise PlanError(f"{name} is {a!r} in one plan and {b!r} in the other")
    return b if a == neutral else a


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
