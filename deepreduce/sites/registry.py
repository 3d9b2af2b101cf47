"""Site actions by kind: those of deepreduce, and those that installed packages register as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from deepreduce.errors import PlanError, UserError
from deepreduce.sites.base import SiteAction
from deepreduce.utils.plugins import known_plugins, load_plugin

GROUP = "deepreduce.site_actions"
"""Group of the entry points by which a package offers an action, each under its `kind`."""

_BUILT_IN = {
    "keep": "deepreduce.sites.keep:Keep",
    "identity": "deepreduce.sites.identity:Identity",
    "channel_mask": "deepreduce.sites.channel_mask:ChannelMask",
    "pixel_mask": "deepreduce.sites.pixel_mask:PixelMask",
}


def action_kinds() -> list[str]:
    """Return the kinds of all actions, the built-in ones first."""
    return list(known_plugins(GROUP, _BUILT_IN))


def action_of(value: Any, tensor: Tensor | None = None) -> SiteAction:
    """Return an action: itself, or the one that a kind or a JSON object describes.

    `tensor` is what lies beside the plan for it, if anything. Raises `PlanError` for what describes no action.
    """
    if isinstance(value, SiteAction):
        return value
    fields: dict[str, Any] = {}
    if isinstance(value, Mapping):
        fields = {str(name): item for name, item in value.items()}
        value = fields.pop("kind", None)
    return _class_of(str(value)).from_json(fields, tensor)


@cache  # entry points are read from files, and a table of candidates names thousands of actions
def _class_of(kind: str) -> type[SiteAction]:
    try:
        found: type[SiteAction] = load_plugin("action", kind, GROUP, _BUILT_IN)
    except UserError as error:
        raise PlanError(str(error)) from error
    return found
