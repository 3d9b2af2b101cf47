"""Reduction plans: complete descriptions of reduced networks that can be saved, hashed and applied."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepreduce.errors import PlanError, unknown_name
from deepreduce.sites import IDENTITY, KEEP, SiteAction, action_of

_FIELDS = ("sites", "alpha", "rho", "depth", "pad_once")


@dataclass(frozen=True, kw_only=True)
class ReductionPlan:
    """A reduced network, described relative to the original it is applied to.

    `sites` maps a ReLU site's name to its action (`deepreduce.sites`; given as a mapping or pairs, "keep" and
    "identity" by their names; kept as sorted pairs, without the sites that are simply kept). Masks are over the
    channels and pixels that alpha, rho and depth leave. `alpha` scales all channels, `rho` the resolution of the
    feature maps (DeepReDuce, section 3.3); both lie in (0, 1]. `depth` is the number of blocks per stage, or None to
    leave it. `pad_once` does the zero padding of regions that have become linear at their entries, so that they
    collapse exactly (`deepreduce.transforms.collapse.pad_once`). Equal plans hash equal. `from_json(to_json(),
    tensors=mask_tensors())` gives the plan back; `to_json()` alone, as `repr`, names masks by their digests. Raises
    `PlanError` for an unknown action or a scale outside (0, 1].
    """

    sites: tuple[tuple[str, SiteAction], ...] = ()
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
        return tuple(name for name, action in self.sites if action == IDENTITY)

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
            if action.is_complete:
                sites[name] = action
        return ReductionPlan(
            sites=tuple(sites.items()),
            alpha=_merged("alpha", self.alpha, other.alpha, 1.0),
            rho=_merged("rho", self.rho, other.rho, 1.0),
            depth=_merged("depth", self.depth, other.depth, None),
            pad_once=self.pad_once or other.pad_once,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values: `sites` (name -> action), `alpha`, `rho`, `depth`, and `pad_once` where set."""
        value = {
            "sites": {name: action.to_json() for name, action in self.sites},
            "alpha": self.alpha,
            "rho": self.rho,
            "depth": list(self.depth) if self.depth is not None else None,
        }
        # left out where it is not set, so that plans keep the ids they had before there was such a thing
        return value | {"pad_once": True} if self.pad_once else value

    def mask_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that `to_json` names by their digests, by site: (C,) or (C, H, W) of booleans for masks.

        Raises `PlanError` for a mask that is known by its digest alone.
        """
        found = {name: action.tensor() for name, action in self.sites}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def is_complete(self) -> bool:
        """Return False where a mask is known by its digest alone: such a plan can be named but not applied."""
        return all(action.is_complete for _, action in self.sites)

    @classmethod
    def from_json(cls, value: Any, *, tensors: Mapping[str, Tensor] | None = None) -> ReductionPlan:
        """Return the plan that `to_json` described, with the `tensors` of `mask_tensors`.

        Without them (None), masks are known by their digests alone. Raises `PlanError` for anything else, and where
        the tensors are not those of the plan.
        """
        if not isinstance(value, Mapping):
            raise PlanError(f"a plan is a JSON object, not {type(value).__name__}")
        for key in value:
            if key not in _FIELDS:
                raise PlanError(unknown_name("plan key", key, _FIELDS))
        depth = value.get("depth")
        if depth is not None and not isinstance(depth, (list, tuple)):
            raise PlanError(f"depth is {depth!r}; give a list of block counts or null")
        return cls(
            sites=_sites_from_json(value.get("sites", ()), tensors),
            alpha=value.get("alpha", 1.0),
            rho=value.get("rho", 1.0),
            depth=None if depth is None else tuple(depth),
            pad_once=value.get("pad_once", False),
        )


def _normalised_sites(sites: Any) -> tuple[tuple[str, SiteAction], ...]:
    actions: dict[str, SiteAction] = {}
    for name, given in _pairs(sites):
        action = _action(name, given, None)
        if actions.setdefault(name, action) != action:
            raise PlanError(f"site {name!r} has two actions: {actions[name]!r} and {action!r}")
    return tuple((name, actions[name]) for name in sorted(actions) if actions[name] != KEEP)


def _sites_from_json(sites: Any, tensors: Mapping[str, Tensor] | None) -> tuple[tuple[str, SiteAction], ...]:
    known = tensors or {}
    pairs = tuple((name, _action(name, value, known.get(name))) for name, value in _pairs(sites))
    missing = [name for name, action in pairs if not action.is_complete] if tensors is not None else []
    if missing:
        raise PlanError(f"the mask of site {missing[0]!r} is missing")
    return pairs


def _pairs(sites: Any) -> Iterator[tuple[str, Any]]:
    pairs: Iterable[Any] = sites.items() if isinstance(sites, Mapping) else sites
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise PlanError(f"sites is {sites!r}; give a mapping from site name to action")
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise PlanError(f"{pair!r} is not a (site name, action) pair")
        yield pair[0], pair[1]


def _action(name: str, value: Any, tensor: Tensor | None) -> SiteAction:
    try:
        return action_of(value, tensor)
    except PlanError as error:
        raise PlanError(f"site {name!r}: {error}") from error


def _merged(name: str, a: Any, b: Any, neutral: Any) -> Any:
    if a != neutral and b != neutral and a != b:
        raise PlanError(f"{name} is {a!r} in one plan and {b!r} in the other")
    return b if a == neutral else a


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
