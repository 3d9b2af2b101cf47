"""The complete, serializable description of an original network's architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from deepreduce.errors import ModelError, unknown_name

FACTORY = re.compile(r"\.py:[A-Za-z_]\w*$")
"""The end of a model's name that is FILE.py:FACTORY."""

_MOST, _MOST_BLOCKS = 2**20, 2**10
"""Largest number of channels or classes, and of blocks in a stage, in a spec that is read; no network has as many."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The description from which `build_model` builds a network, without its weights.

    `name` is a zoo name, `torchvision:NAME` or `FILE.py:FACTORY`. `width` (channels of the stem) and `blocks`
    (per stage) are set for zoo networks only.
    """

    name: str
    num_classes: int
    in_channels: int = 3
    width: int | None = None
    blocks: tuple[int, ...] | None = None

    @property
    def runs_file(self) -> str | None:
        """The Python file that `build_model` runs for this network, None where it runs none."""
        return self.name.rsplit(":", 1)[0] if FACTORY.search(self.name) else None

    @property
    def is_zoo(self) -> bool:
        """True if width and blocks per stage can be scaled by building another network."""
        return self.width is not None

    def scaled(self, *, alpha: float, depth: tuple[int, ...] | None) -> ModelSpec:
        """Return the spec with all channels times `alpha` and `depth` blocks per stage (None: unchanged).

        Raises `ModelError` for a network outside the zoo, for more blocks than the network has, and for an `alpha`
        that rounds to no channel or to the present number of channels.
        """
        if self.width is None or self.blocks is None:
            raise ModelError(
                f"{self.name} has no width and depth to scale; alpha and depth work for the zoo's networks"
                " (see 'deepreduce models')"
            )
        width = round(self.width * alpha)
        if width < 1 or (alpha != 1 and width == self.width):
            raise ModelError(f"alpha {alpha} of {self.width} stem channels gives {width}; choose another alpha")
        blocks = self.blocks if depth is None else depth
        if len(blocks) != len(self.blocks):
            raise ModelError(
                f"depth {list(blocks)} has {len(blocks)} stages, {self.name} has {len(self.blocks)}:"
                f" {list(self.blocks)}"
            )
        if any(new > old for new, old in zip(blocks, self.blocks, strict=True)):
            raise ModelError(f"depth {list(blocks)} has more blocks than {self.name}: {list(self.blocks)}")
        return replace(self, width=width, blocks=blocks)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return asdict(self) | {"blocks": list(self.blocks) if self.blocks is not None else None}

    @classmethod
    def from_json(cls, value: Any) -> ModelSpec:
        """Return the spec of a value of `to_json`. Raises `ModelError` for any other value."""
        if not isinstance(value, Mapping):
            raise ModelError(f"a model's spec is a JSON object, not {type(value).__name__}")
        known = [f.name for f in fields(cls)]
        for key in value:
            if key not in known:
                raise ModelError(unknown_name("key of a model's spec", key, known))
        for key in ("name", "num_classes"):
            if key not in value:
                raise ModelError(f"the model's spec lacks {key!r}")
        blocks, width = value.get("blocks"), value.get("width")
        counts = [value["num_classes"], value.get("in_channels", 3), *([] if width is None else [width])]
        if isinstance(blocks, (list, tuple)):
            counts += blocks
        elif blocks is not None:
            raise ModelError(f"the model's spec has blocks {blocks!r}; it needs a list of counts or null")
        if (
            not isinstance(value["name"], str)
            or any(type(n) is not int or not 1 <= n <= _MOST for n in counts)
            or (max(blocks or (1,)) > _MOST_BLOCKS)
        ):
            raise ModelError(
                f"the model's spec {str(dict(value))[:200]} needs a name in text and whole numbers, 1 to {_MOST:,}"
            )
        return cls(**{**value, "blocks": tuple(blocks) if blocks is not None else None})
