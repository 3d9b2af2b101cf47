"""Assign a stage and a block to each ReLU site.

The user may give stages as patterns over the sites' names. Otherwise, zoo networks declare their stages by their
modules' names, and in other networks a stage is a run of consecutive sites of one feature-map resolution; sites on
1x1 maps between larger ones (squeeze-and-excitation) do not end a run.

A block is the unit within which thinning alternates: the innermost module of the network's own classes around the
call (torchvision's `BasicBlock`, `Bottleneck`, `InvertedResidual`, `_DenseLayer`, ...). Such a module is a block if
branches meet in it (a residual addition) or if it holds at most two sites. Sites of a longer module without a join,
and sites called by the network itself, form a chain and belong to no block.
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
    """A site without a stage yet: its graph node, name, owning module (None: the root) and output shape (C, H, W)."""

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
    """Return (stage, block) of every draft; the block is None for a site in no block.

    `joins` are the modules in which branches meet. `declared`: the modules' names give the stages. `patterns` maps
    the user's stages to shell patterns of site names; raises `ModelError` if a pattern matches no site, or if a site
    has several stages or none.
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
    for stage, stage_patterns in patterns.items():
        for pattern in stage_patterns:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            for name in matched:
                claims[name].setdefault(stage, pattern)
            if not matched:
                near = nearest_name(pattern, names)
                hint = f"did you mean {near!r}? " if near else ""
                mistakes.append(f"{pattern!r} of {stage} matches no ReLU site; {hint}sites: {_list_names(names)}")
    twice = {name: claim for name, claim in claims.items() if len(claim) > 1}
    if twice:
        name, claim = next(iter(twice.items()))
        both = " and ".join(f"{stage} ({pattern!r})" for stage, pattern in claim.items())
        others = f" ({len(twice) - 1} more are claimed twice)" if len(twice) > 1 else ""
        mistakes.append(f"{name!r} is claimed by {both}{others}; a site has one stage: narrow one of the patterns")
    free = [name for name, claim in claims.items() if not claim]
    if free:
        mistakes.append(
            f"no stage claims {_list_names(free)}; add {free[0]!r}, or a pattern that matches, to one of them"
        )
    if mistakes:
        raise ModelError(f"model.stages: {'; '.join(mistakes)}")
    return [next(iter(claims[name])) for name in names]


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _declared_stages(drafts: Sequence[SiteDraft]) -> list[str]:
    numbers: list[int] = []
    for draft in drafts:
        match = re.match(r"stage(\d+)\.", draft.name)
        # a stem's sites belong to the first stage, a head's to the last
        numbers.append(int(match.group(1)) if match else (numbers[-1] if numbers else 1))
    return [f"S{number}" for number in numbers]


def _inferred_stages(drafts: Sequence[SiteDraft]) -> list[str]:
    sizes = [math.prod(draft.shape[1:]) for draft in drafts]
    stages: list[str] = []
    number, current = 0, -1
    for index, size in enumerate(sizes):
        if size == 1:  # a gate on 1x1 maps belongs to the larger maps that follow
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
