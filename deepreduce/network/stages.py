"""Assign a stage and a block to each ReLU site.

The user may give stages as patterns over the sites' names. Otherwise, zoo networks declare their stages by their
modules' names, and in other networks stages are inferred:

1. A stage begins where a feature map has at most half the positions of the first map of the stage before. Later ReLUs
   on larger maps (parallel branches, decoders) belong to the stage that has been reached.
2. A block is never cut: all of its ReLUs count with the feature map that the block returns. These blocks are modules
   in whose forward branches meet (`deepreduce.network.branching`) and which change the resolution at most once.
3. Where most ReLUs lie in blocks, those before the first block (the stem) belong to S1, and those on vectors after
   the last block (the head) to the last stage, as in the zoo.
4. ReLUs on 1x1 maps between larger ones (squeeze-and-excitation) begin no stage.

Thinning alternates within smaller units, which are called blocks too.
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
    """A site without a stage yet: its graph node, name, owning module (None: the root) and output shape (C, H, W).

    `modules` are the paths of all modules around the call, outermost first.
    """

    node: str
    name: str
    owner: str | None
    shape: tuple[int, ...]
    modules: tuple[str, ...] = ()

    @property
    def positions(self) -> int:
        """Height * width of the output; 1 of a vector."""
        return math.prod(self.shape[1:])


def assign_stages(
    drafts: Sequence[SiteDraft],
    joins: set[str],
    block_outputs: Mapping[str, int],
    *,
    declared: bool,
    patterns: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str | None]]:
    """Return (stage, block) of every draft; the block is None for a site in no block.

    `joins` are the modules in which branches meet, `block_outputs` the positions of the maps that blocks return, by
    their paths. `declared`: the modules' names give the stages. `patterns` maps
    the user's stages to shell patterns of site names; raises `ModelError` if a pattern matches no site, or if a site
    has several stages or none.
    """
    if patterns is not None:
        stages = _given_stages(drafts, patterns)
    else:
        stages = _declared_stages(drafts) if declared else _inferred_stages(drafts, block_outputs)
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


def _inferred_stages(drafts: Sequence[SiteDraft], block_outputs: Mapping[str, int]) -> list[str]:
    blocks = _whole_blocks(drafts, block_outputs)
    inside = [index for index, block in enumerate(blocks) if block is not None]
    has_stem_and_head = 2 * len(inside) >= len(drafts) > 0
    sizes = [
        draft.positions if block is None else block_outputs[block]
        for draft, block in zip(drafts, blocks, strict=True)
    ]
    if has_stem_and_head:
        sizes[: inside[0]] = [sizes[inside[0]]] * inside[0]
    stages: list[str] = []
    number, first = 0, 0  # positions of the first map of the current stage
    for index, size in enumerate(sizes):
        if size == 1:  # a gate between larger maps, or a head
            size = max(sizes[index:]) if not has_stem_and_head or index <= inside[-1] else first
        if number == 0 or 2 * size <= first:
            number, first = number + 1, size
        stages.append(f"S{number}")
    return stages


def _whole_blocks(drafts: Sequence[SiteDraft], block_outputs: Mapping[str, int]) -> list[str | None]:
    """Return the innermost block around each site that has one resolution or two, and not all of the sites."""
    sizes: dict[str, set[int]] = {}
    held = Counter(path for draft in drafts for path in draft.modules)
    for draft in drafts:
        for path in draft.modules:
            sizes.setdefault(path, set()).update({draft.positions} - {1})

    def is_whole(path: str) -> bool:
        return path in block_outputs and len(sizes[path]) <= 2 and held[path] < len(drafts)

    return [next(filter(is_whole, reversed(draft.modules)), None) for draft in drafts]


def _blocks(drafts: Sequence[SiteDraft], joins: set[str], stages: Sequence[str]) -> list[str | None]:
    held = Counter(draft.owner for draft in drafts)
    spanned: dict[str | None, set[str]] = {}
    for draft, stage in zip(drafts, stages, strict=True):
        spanned.setdefault(draft.owner, set()).add(stage)

    def is_block(owner: str | None) -> bool:
        # a block changes resolution at most once
        return owner is not None and len(spanned[owner]) <= 2 and (owner in joins or held[owner] <= 2)

    return [draft.owner if is_block(draft.owner) else None for draft in drafts]
