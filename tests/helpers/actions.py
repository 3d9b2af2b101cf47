"""A site action that only tests know, an example of every action for any site, and random plans of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepreduce.network import Network, ReluSite
from deepreduce.network.site_layer import SiteLayer
from deepreduce.plan import ReductionPlan
from deepreduce.sites import IDENTITY, KEEP, ChannelMask, PixelMask, SiteAction, registry
from deepreduce.sites.layers import rectify


@dataclass(frozen=True)
class FirstChannels(SiteAction):
    """Keep the ReLU of the first `count` channels; as slices, so that no other is ever computed."""

    kind: ClassVar[str] = "first_channels"

    count: int

    def relu_count(self, site: ReluSite) -> int:
        """Return the elements of those channels."""
        return self.count * site.elements // site.shape[0]

    def layer(self, site: ReluSite, *, inplace: bool) -> SiteLayer:
        """Return the layer of slices."""
        return Sliced(self, site, inplace=inplace)


registry._BUILT_IN[FirstChannels.kind] = f"{__name__}:FirstChannels"  # as an entry point would


class Sliced(SiteLayer):
    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.action, FirstChannels)
        first, others = x[:, : self.action.count], x[:, self.action.count :]
        y = torch.cat([rectify(first, self.cap), others], dim=1)
        return x.copy_(y) if self.inplace else y


def random_mask(shape: tuple[int, ...], draw: random.Random) -> Tensor:
    """Booleans of that shape, of which neither all nor none are true where there are two or more."""
    flat = torch.tensor([draw.random() < 0.4 for _ in range(max(torch.Size(shape).numel(), 1))])
    flat[0], flat[-1] = False, True
    return flat.view(shape)


def pixel_mask(site: ReluSite, draw: random.Random) -> SiteAction:
    """Pixels where there are pixels, else channels."""
    return PixelMask.of(random_mask(site.shape, draw)) if len(site.shape) == 3 else channel_mask(site, draw)


def channel_mask(site: ReluSite, draw: random.Random) -> SiteAction:
    """Some of the channels."""
    return ChannelMask.of(random_mask(site.shape[:1], draw))


EXAMPLES: dict[str, Callable[[ReluSite, random.Random], SiteAction]] = {
    "keep": lambda site, draw: KEEP,
    "identity": lambda site, draw: IDENTITY,
    "channel_mask": channel_mask,
    "pixel_mask": pixel_mask,
    "first_channels": lambda site, draw: FirstChannels(draw.randint(1, site.shape[0])),
}
"""For every kind of action, one that fits a site."""


def random_plan(network: Network, kind: str, seed: int, **scales: Any) -> ReductionPlan:
    """A plan of that kind of action at about two in three of the network's sites, or of all kinds for "any"."""
    draw = random.Random(f"{kind} {seed}")
    kinds = list(EXAMPLES) if kind == "any" else [kind]
    sites = {site.name: EXAMPLES[draw.choice(kinds)](site, draw) for site in network.sites if draw.random() < 0.67}
    return ReductionPlan(sites=tuple(sites.items()), **scales)
