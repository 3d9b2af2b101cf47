"""Scale the channels of any network by alpha: cut out the least important ones.

Of every set of interchangeable channels (`channels_of`) the share alpha stays, at least one channel. The number
depends on the network and alpha only, so that a saved network is rebuilt without its weights. The choice depends on
the weights: a channel's importance is the sum of squares of all weights that produce, scale or read it, each tensor
in units of its own mean, as in torch-pruning's magnitude importance (DepGraph, CVPR 2023, section 3.3); of equally
important channels the earlier ones stay. On the meta device, without weights, the leading channels stay.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from deepreduce.errors import ModelError, PlanError
from deepreduce.network.copying import copy_module
from deepreduce.network.meta_run import module_tensors, on_meta
from deepreduce.network.network import Network
from deepreduce.network.observe import observe
from deepreduce.transforms.width.channel_sets import Channels, ChannelSet, find_workable, index_tensors
from deepreduce.transforms.width.propagate import channels_of

_LARGEST_DENOMINATOR = 1024


def simplest_alpha(network: Network, alpha: float) -> float:
    """Return the fraction of smallest denominator that keeps as many channels of each set as `alpha` does."""
    sizes = np.unique([len(s.channels) for s in channels_of(network).sets])
    if not len(sizes):
        return alpha
    wanted = [_count(size, alpha) for size in sizes]
    for denominator in range(1, _LARGEST_DENOMINATOR):
        for numerator in (int(alpha * denominator), int(alpha * denominator) + 1):
            simple = numerator / denominator
            if 0 < simple <= 1 and [_count(size, simple) for size in sizes] == wanted:
                return simple
    return alpha


def narrow(network: Network, alpha: float) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """Return a copy of the network's module with channels times `alpha`, and notes on what could not be scaled.

    Raises `PlanError` if no channel can be removed.
    """
    channels = channels_of(network)
    wanted = [s for s in channels.sets if _count(len(s.channels), alpha) < len(s.channels)]
    workable = _find_workable(network, wanted, alpha)
    notes = _notes(channels, [s for s in wanted if s not in workable])
    if not workable:
        reasons = "; ".join(notes) or "each of its layers has one channel"
        raise PlanError(f"alpha {alpha:g} changes no channel of {network.name}: {reasons}")
    module = copy_module(network.module)
    importance = _importance(module, channels)
    dropped = [c for s in workable for c in _least_important(s, alpha, importance)]
    _cut(module, channels, dropped)
    return module, notes


def _count(size: int, alpha: float) -> int:
    return max(1, round(size * alpha))


def _notes(channels: Channels, failed: Sequence[ChannelSet]) -> tuple[str, ...]:
    layers: dict[str, dict[str, int]] = {}  # reason -> layer -> channels
    for pin in channels.pinned:
        layers.setdefault(pin.reason, {})[pin.name] = pin.count
    for channel_set in failed:
        counts = layers.setdefault("the forward pass fails with fewer", {})
        counts[channel_set.name] = counts.get(channel_set.name, 0) + len(channel_set.channels)
    return tuple(f"not scaled: {_list_layers(counts)}, because {reason}" for reason, counts in layers.items())


def _list_layers(counts: Mapping[str, int]) -> str:
    first = ", ".join(f"{layer} ({count} channels)" for layer, count in list(counts.items())[:3])
    return first if len(counts) <= 3 else f"{first} and {len(counts) - 3} more"


def _find_workable(network: Network, wanted: Sequence[ChannelSet], alpha: float) -> list[ChannelSet]:
    """Return the sets that can be narrowed such that the network runs and its outputs keep their shapes."""
    module = on_meta(network.module)
    whole = observe(module, network.input_shape, name=network.name).outputs

    def runs(sets: Sequence[ChannelSet]) -> bool:
        trial = copy_module(module)
        _cut(trial, channels_of(network), [c for s in sets for c in s.channels[_count(len(s.channels), alpha) :]])
        try:
            return observe(trial, network.input_shape, name=network.name).outputs == whole
        except ModelError:
            return False

    return find_workable(wanted, runs)


# -- choosing channels --------------------------------------------------------------------------------------


@torch.no_grad()
def _importance(module: fx.GraphModule, channels: Channels) -> NDArray[np.float64]:
    tensors = dict(module_tensors(module))
    size = 1 + max((int(labels.max()) for labels in channels.tensors.values() if labels.size), default=0)
    importance = np.zeros(size)
    for (name, dim), labels in channels.tensors.items():
        tensor = tensors[name]
        if tensor.is_meta or not isinstance(tensor, nn.Parameter):
            continue
        squares = tensor.detach().movedim(dim, 0).reshape(tensor.shape[dim], -1).square().sum(1, dtype=torch.float64)
        share = (squares / squares.mean().clamp_min(1e-30)).cpu().numpy()
        np.add.at(importance, labels[labels >= 0], share[labels >= 0])
    return importance


def _least_important(channel_set: ChannelSet, alpha: float, importance: NDArray[np.float64]) -> list[int]:
    channels = np.asarray(channel_set.channels)
    order = np.argsort(-importance[channels], kind="stable")
    return [int(c) for c in channels[order][_count(len(channels), alpha) :]]


# -- cutting channels out -----------------------------------------------------------------------------------


def _cut(module: fx.GraphModule, channels: Channels, dropped: Sequence[int]) -> None:
    """Remove the channels from every tensor, layer and size argument of the graph."""
    gone = np.asarray(sorted(dropped), dtype=np.int64)
    stays = {place: ~np.isin(labels, gone) for place, labels in channels.tensors.items()}
    index_tensors(module, {place: np.flatnonzero(each) for place, each in stays.items() if not each.all()})
    for owner in module.modules():
        _set_sizes(owner)
    for node in module.graph.nodes:
        if channels.reshaped.get(node.name):
            _set_size_arguments(node, [~np.isin(labels, gone) for labels in channels.reshaped[node.name]])
    module.recompile()


def _set_sizes(layer: nn.Module) -> None:
    """Set a layer's attributes of size, such as `out_channels`, from its weights."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        made, taken = (1, 0) if layer.transposed else (0, 1)
        if 1 < layer.groups == layer.in_channels and weight.shape[1] == 1:  # depthwise
            layer.groups = weight.shape[0] // (layer.out_channels // layer.groups)
            layer.out_channels, layer.in_channels = weight.shape[0], layer.groups
        else:
            scale = 1 if layer.transposed else layer.groups
            layer.out_channels, layer.in_channels = weight.shape[made], weight.shape[taken] * scale
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        known = weight if isinstance(weight, Tensor) else layer.running_mean
        layer.num_features = layer.num_features if known is None else len(known)
    elif isinstance(layer, nn.GroupNorm) and isinstance(weight, Tensor):
        if layer.num_groups == layer.num_channels:
            layer.num_groups = len(weight)
        layer.num_channels = len(weight)
    elif isinstance(layer, nn.LayerNorm) and isinstance(weight, Tensor):
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)


def _set_size_arguments(node: fx.Node, stays: Sequence[NDArray[np.bool_]]) -> None:
    """Reduce the sizes among a call's arguments; `stays` marks the elements that stay of the tensors concerned."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in ("view", "reshape", "expand"):
        listed = isinstance(node.args[1], (tuple, list)) if len(node.args) > 1 else False
        sizes = list(node.args[1]) if listed else list(node.args[1:])  # type: ignore[arg-type]
        for place, size in enumerate(sizes):
            if isinstance(size, int) and size > 1 and place < stays[0].ndim:
                sizes[place] = _remaining(stays[0], place)
        node.args = (node.args[0], tuple(sizes)) if listed else (node.args[0], *sizes)
    elif name == "split" and len(node.args) > 1:
        dim: Any = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
        if isinstance(dim, int) and isinstance(node.args[1], (int, tuple, list)):
            node.args = (node.args[0], [_remaining(part, dim) for part in stays], *node.args[2:])
    elif node.target is operator.getitem and isinstance(node.args[1], tuple):
        bounds = [_bounds(bound, stays[0], dim) for dim, bound in enumerate(node.args[1])]
        if not any(bound is Ellipsis or bound is None for bound in node.args[1]):
            node.args = (node.args[0], tuple(bounds))
    elif name == "layer_norm" and len(node.args) > 1 and isinstance(node.args[1], (tuple, list)):
        if len(node.args[1]) == 1:
            node.args = (node.args[0], (_remaining(stays[0], -1),), *node.args[2:])


def _remaining(stays: NDArray[np.bool_], dim: int) -> int:
    """Return the number of indices of a dimension with an element that stays."""
    moved = np.moveaxis(stays, dim, 0)
    return int(moved.reshape(len(moved), -1).any(axis=1).sum())


def _bounds(bound: Any, stays: NDArray[np.bool_], dim: int) -> Any:
    if not isinstance(bound, slice) or dim >= stays.ndim:
        return bound

    def shift(at: Any) -> Any:
        if not isinstance(at, int) or at == 0:
            return at
        before = np.moveaxis(stays, dim, 0)[:at] if at > 0 else np.moveaxis(stays, dim, 0)[at:]
        count = _remaining(before, 0) if len(before) else 0
        return count if at > 0 else -count

    return slice(shift(bound.start), shift(bound.stop), bound.step)
