"""Order the channels of a network such that the channels which masks keep follow each other, and are slices.

A permutation of interchangeable channels (`deepreduce.transforms.width`) goes into the weights, batch-norms and masks
that meet them: it costs nothing, and neither the logits nor the image change. A set of channels that one mask meets
has the kept channels first. One that several meet (a residual trunk, a part of concatenations) is ordered by the
channels' membership in the masks: along a Gray code, or from each to the most similar one, whichever makes fewer runs
of kept channels.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from deepreduce.errors import ModelError
from deepreduce.network import Network
from deepreduce.network.copying import copy_module
from deepreduce.network.meta_run import module_tensors
from deepreduce.network.site_layer import SiteLayer
from deepreduce.sites.mask import Mask
from deepreduce.transforms.width.channel_sets import Channels, ChannelSet, Ids, find_workable, index_tensors
from deepreduce.transforms.width.propagate import channels_of

log = logging.getLogger(__name__)

Membership = NDArray[np.bool_]
"""(channels, masks): which channels of a set each mask keeps."""


def order_channels(network: Network) -> Network:
    """Return the network with its channels in an order in which masks keep few runs of them.

    Every change is checked on a random image. Channels stay where they are if they meet the image, the logits or an
    operation that is not followed.
    """
    masks = _channel_masks(network) if network.output_shape is not None else {}
    if not masks:
        return network
    try:
        channels = channels_of(replace(network, module=_with_channel_masks(network.module)))
    except ModelError as error:  # its graph can't run without data, so that no channel can be followed
        log.info("%s: its channels keep their order (%s)", network.name, error)
        return network
    wanted = [move for each in channels.sets if (move := _move_of(each, channels, masks)) is not None]
    if not wanted:
        return network
    moves = {id(move.channels): move for move in wanted}
    check = _Check(network)

    def works(sets: Sequence[ChannelSet]) -> bool:
        return check.agrees(_moved(network.module, channels, [moves[id(each)] for each in sets]))

    accepted = find_workable([move.channels for move in wanted], works)
    if not accepted:
        return network
    return replace(network, module=_moved(network.module, channels, [moves[id(each)] for each in accepted]))


# -- the masks ----------------------------------------------------------------------------------------------


def _channel_masks(network: Network) -> dict[str, NDArray[np.bool_]]:
    """Return the public masks by name, as (channels,): of a mask of pixels, the channels that keep any."""
    module = _with_channel_masks(network.module)
    masks = {name: tensor for name, tensor in module_tensors(module) if tensor.dtype == torch.bool}
    return {
        name: tensor.flatten().cpu().numpy()
        for name, tensor in masks.items()
        if sum(size > 1 for size in tensor.shape) == 1 and bool(tensor.any()) and not bool(tensor.all())
    }


def _with_channel_masks(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy whose sites have masks of whole channels, so that masks of pixels bind channels alone."""
    copied = copy_module(module)
    for layer in copied.modules():
        if isinstance(layer, SiteLayer):
            for name, mask in layer.named_buffers(recurse=False):
                if mask.dtype == torch.bool and mask.dim() == 4:
                    setattr(layer, name, mask.flatten(2).any(2)[..., None, None])
    return copied


# -- the order ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Move:
    """New channels of a set: `sources[i]` takes the place of `channels.channels[i]`."""

    channels: ChannelSet
    sources: Ids


def _move_of(each: ChannelSet, channels: Channels, masks: dict[str, NDArray[np.bool_]]) -> _Move | None:
    """Return the order of a set's channels that its masks ask for; None where they stay."""
    if channels.shuffled & set(each.channels):
        return None
    order = best_order(_membership(each, channels, masks))
    if np.array_equal(order, np.arange(len(order))):
        return None
    return _Move(channels=each, sources=np.asarray(each.channels)[order])


def _membership(each: ChannelSet, channels: Channels, masks: dict[str, NDArray[np.bool_]]) -> Membership:
    columns = [np.zeros((len(each.channels), 0), np.bool_)]
    for (name, _), labels in channels.tensors.items():
        if name in masks and len(labels) == len(masks[name]):
            places = np.flatnonzero(np.isin(labels, each.channels))
            places = places[np.argsort(labels[places], kind="stable")]
            columns.append(masks[name][places].reshape(len(each.channels), -1))
    return np.concatenate(columns, axis=1)


def best_order(kept: Membership) -> Ids:
    """Return the order, of two and the given one, in which the masks keep the fewest runs of channels."""
    orders = [np.arange(len(kept)), _gray_order(kept), _neighbour_order(kept)]
    return min(orders, key=lambda order: run_count(kept[order]))


def run_count(kept: Membership) -> int:
    """Return in how many runs the masks keep channels, in all."""
    begins = kept & ~np.concatenate([np.zeros_like(kept[:1]), kept[:-1]])
    return int(begins.sum())


def _gray_order(kept: Membership) -> Ids:
    """Return the order of the rows along a reflected Gray code, in which the first mask's channels come first."""
    ranks = np.cumsum(kept, axis=1) % 2  # the Gray code's binary number, most significant digit first
    digits = [*(1 - ranks.T[::-1]), np.zeros(len(kept), np.int64)][: max(kept.shape[1], 1)]
    order: Ids = np.lexsort(digits)
    return order


def _neighbour_order(kept: Membership) -> Ids:
    """Return an order that goes on from each row to one that differs in the fewest masks."""
    patterns, group = np.unique(kept, axis=0, return_inverse=True)
    group = group.reshape(-1)
    left = list(range(len(patterns)))
    path = [left.pop(int(patterns.sum(axis=1).argmax()))]
    while left:
        differing = (patterns[left] != patterns[path[-1]]).sum(axis=1)
        path.append(left.pop(int(differing.argmin())))
    return np.concatenate([np.flatnonzero(group == pattern) for pattern in path])


# -- in the weights -----------------------------------------------------------------------------------------


def _moved(module: fx.GraphModule, channels: Channels, moves: Sequence[_Move]) -> fx.GraphModule:
    """Return a copy of the module with the sets' channels in their new order."""
    size = 1 + max((int(labels.max(initial=0)) for labels in channels.tensors.values()), default=0)
    source = np.arange(size)
    for move in moves:
        source[list(move.channels.channels)] = move.sources
    indices = {place: _places(labels, source) for place, labels in channels.tensors.items()}
    moved = {place: index for place, index in indices.items() if not np.array_equal(index, np.arange(len(index)))}
    copied = copy_module(module)
    index_tensors(copied, moved)
    _describe_masks(copied)
    return copied


def _places(labels: Ids, source: Ids) -> Ids:
    """Return, for each index of a dimension, the index whose entry moves there.

    Where a channel has several indices (one per pixel, or per copy), the k-th entry moves to the k-th index.
    """
    wanted = np.where(labels >= 0, source[labels], labels)
    places = np.empty(len(labels), np.int64)
    places[np.argsort(wanted, kind="stable")] = np.argsort(labels, kind="stable")
    assert np.array_equal(labels[places], wanted), "channels of a set are not interchangeable"
    return places


def _describe_masks(module: fx.GraphModule) -> None:
    """Let the sites' actions be those of the masks that were moved."""
    for layer in module.modules():
        mask = getattr(layer, "mask", None)
        if isinstance(layer, SiteLayer) and isinstance(layer.action, Mask) and isinstance(mask, Tensor):
            layer.action = type(layer.action).of(mask[0])


class _Check:
    """Compares networks with the one given by their logits of a random image, in double precision."""

    def __init__(self, network: Network) -> None:
        generator = torch.Generator().manual_seed(0)
        self._image = torch.randn(1, *network.input_shape, generator=generator)
        self._type = torch.float64
        try:
            self._expected = self._logits(network.module)
        except RuntimeError:  # the code of forward names a number type
            self._type = torch.float32
            self._expected = self._logits(network.module)

    def agrees(self, module: fx.GraphModule) -> bool:
        """Return whether the module returns the same logits, up to rounding."""
        largest = float(self._expected.abs().max())
        error = float((self._logits(module) - self._expected).abs().max())
        return error <= (1e-9 if self._type == torch.float64 else 1e-4) * max(largest, 1e-6)

    def _logits(self, module: fx.GraphModule) -> Tensor:
        copied = copy.deepcopy(module).cpu().to(self._type).eval()
        with torch.no_grad():
            return copied(self._image.to(self._type))  # type: ignore[no-any-return]
