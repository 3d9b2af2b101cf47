"""Site actions: what a plan does at a ReLU site, one action per file."""

from deepreduce.sites.base import Annealing, SiteAction, SiteCall, actions_in, rewrite_sites
from deepreduce.sites.channel_mask import ChannelMask
from deepreduce.sites.identity import IDENTITY, Identity
from deepreduce.sites.keep import KEEP, Keep
from deepreduce.sites.pixel_mask import PixelMask
from deepreduce.sites.registry import action_kinds, action_of

__all__ = [
    "IDENTITY",
    "KEEP",
    "Annealing",
    "ChannelMask",
    "Identity",
    "Keep",
    "PixelMask",
    "SiteAction",
    "SiteCall",
    "action_kinds",
    "action_of",
    "actions_in",
    "rewrite_sites",
]
