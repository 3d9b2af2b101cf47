"""Which stage and block a ReLU site belongs to.

The user may give stages as patterns over the sites' names. Without, zoo networks declare their stages by their
modules' names, and elsewhere a stage is a run of consecutive sites of
one feature-map resolution; sites on 1x1 maps beside larger ones (squeeze-and-excitation) do not end a run.

A block is what thinning alternates in: the innermost module of the network's own classes around the call
(torchvision's `BasicBlock`, `Bottleneck`, `InvertedResidual`, `_DenseLayer`, ...). Such a module counts as a
block when branches meet in it (the residual addition) or when it holds at most two sites; a longer one
without a join is a chain, and so are the sites directly in the network itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from deepreduce.errors import ModelError, nearest_name


@dataclass(frozen=True, kw_only=True)
class SiteDraft:
    """A site before it has a stage: its graph node, name, owning module (None: the root) and output shape."""

    node: str
    name: str
    owner: str | None
    shape: tuple[int, ...]


def assign_stages(
    drafts: Sequence[SiteDraft],
    joins: set[str],
    *,
    declared: bool,
    patterns: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str | None]]:
    """(stage, block) of every draft; `joins` are the modules in which branches meet.

    `patterns` are the user's stages: for each, patterns of site names as in a shell. Raises `ModelError`
    where one matches nothing, and where a site has two stages or none.
    """
    if patterns is not None:
        stages = _given_stages(drafts, patterns)
    else:
        stages = _declared_stages(drafts) if declared else _inferred_stages(drafts)
    blocks = _blocks(drafts, joins, stages)
    return list(zip(stages, blocks, strict=True))


def _given_stages(drafts: Sequence[SiteDraft], patterns: Mapping[str, Sequence[str]]) -> list[str]:
    names = [draft.name for draft in drafts]
    claims: dict[str, dict[str, str]] = {name: {} for name in names}  # site -> stage -> its first pattern
    mistakes = []
    for stage, listed in patterns.items():
        for pattern in listed:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            for name in matched:
                claims[name].setdefault(stage, pattern)
            if not matched:
                near = nearest_name(pattern, names)
                hint = f"did you mean {near!r}? " if near else ""
                mistakes.append(f"{pattern!r} of {stage} matches no ReLU site; {hint}sites: {_shown(names)}")
    twice = {name: claim for name, claim in claims.items() if len(claim) > 1}
    if twice:
        name, claim = next(iter(twice.items()))
        both = " and ".join(f"{stage} ({pattern!r})" for stage, pattern in claim.items())
        others = f", and {len(twice) - 1} other sites so" if len(twice) > 1 else ""
        mistakes.append(f"{name!r} is claimed by {both}{others}; a site has one stage: narrow one of the patterns")
    free = [name for name, claim in claims.items() if not claim]
    if free:
        mistakes.append(f"no stage claims {_shown(free)}; add {free[0]!r}, or a pattern that matches, to one of them")
    if mistakes:
        raise ModelError(f"model.stages: {'; '.join(mistakes)}")
    return [next(iter(claims[name])) for name in names]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _declared_stages(drafts: Sequence[SiteDraft]) -> list[str]:
    numbers: list[int] = []
    for draft in drafts:
        match = re.match(r"stage(\d+)\.", draft.name)
        # a stem comes before the first stage and belongs to it, a head comes after the last
        numbers.append(int(match.group(1)) if match else (numbers[-1] if numbers else 1))
    return [f"S{number}" for number in numbers]


def _inferred_stages(drafts: Sequence[SiteDraft]) -> list[str]:
    sizes = [math.prod(draft.shape[1:]) for draft in drafts]
    stages: list[str] = []
    number, current = 0, -1
    for index, size in enumerate(sizes):
        if size == 1:  # a gate beside larger maps belongs to what comes next
            size = max(sizes[index:])
        if size != current:
            number, current = number + 1, size
        stages.append(f"S{number}")
    return stages


def _blocks(drafts: Sequence[SiteDraft], joins: set[str], stages: Sequence[str]) -> list[str | None]:
    held = Counter(draft.owner for draft in drafts)
    spanned: dict[str | None, set[str]] = {}
    for draft, stage in zip(drafts, stages, strict=True):
        spanned.setdefault(draft.owner, set()).add(stage)

    def is_block(owner: str | None) -> bool:
        # a block changes resolution at most once
        return owner is not None and len(spanned[owner]) <= 2 and (owner in joins or held[owner] <= 2)

    return [draft.owner if is_block(draft.owner) else None for draft in drafts]
