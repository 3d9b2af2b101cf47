"""A network's channels: which can only be removed together, which must stay, and their indices in the weights."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from deepreduce.network.meta_run import attribute, module_tensors

Ids = NDArray[np.int64]

FIXED, FREE = 0, -1
"""Labels of values whose channel must stay, and of values that belong to no channel."""

OUTPUT = "they are the network's output"
TOGETHER = "they can only be removed all together"


@dataclass(frozen=True, kw_only=True)
class ChannelSet:
    """Interchangeable channels: they pass through the same layers, and any of them can be removed.

    `name` is the layer that outputs them.
    """

    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PinnedChannels:
    """A number of output channels of the layer `name` that must stay, and the reason."""

    name: str
    count: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The channels of a network.

    `tensors` maps (name, dimension) of a parameter or buffer to the channel of every index. `reshaped` maps a graph
    node whose arguments may contain sizes to the channel of every element of its outputs (of its input, for an
    index). Channels in no set stay. `shuffled` are channels that a channel shuffle moves, which is not followed:
    behind it their positions are not those in the weights.
    """

    sets: tuple[ChannelSet, ...]
    pinned: tuple[PinnedChannels, ...]
    tensors: Mapping[tuple[str, int], Ids] = field(repr=False)
    reshaped: Mapping[str, tuple[Ids, ...]] = field(repr=False)
    shuffled: frozenset[int] = frozenset()


def find_workable(wanted: Sequence[ChannelSet], works: Callable[[Sequence[ChannelSet]], bool]) -> list[ChannelSet]:
    """Return the sets that can be changed together such that the network `works`.

    The sets are tried all at once, then by halves.
    """
    accepted: list[ChannelSet] = []

    def accept(candidates: Sequence[ChannelSet]) -> None:
        if not candidates:
            return
        if works([*accepted, *candidates]):
            accepted.extend(candidates)
        elif len(candidates) > 1:
            accept(candidates[: len(candidates) // 2])
            accept(candidates[len(candidates) // 2 :])

    accept(wanted)
    return accepted


def index_tensors(module: fx.GraphModule, indices: Mapping[tuple[str, int], Ids]) -> None:
    """Replace tensors by their entries at the indices of (name, dimension), as in `Channels.tensors`."""
    replaced: dict[int, Tensor] = {}
    for name, tensor in module_tensors(module):
        indexed = tensor.detach()
        for dim in range(tensor.dim()):
            if (name, dim) in indices:
                index = torch.as_tensor(indices[name, dim], device=tensor.device)
                indexed = indexed.index_select(dim, index)
        if any((name, dim) in indices for dim in range(tensor.dim())):
            is_parameter = isinstance(tensor, nn.Parameter)
            replaced[id(tensor)] = nn.Parameter(indexed, tensor.requires_grad) if is_parameter else indexed
    for owner in module.modules():
        kinds: list[dict[str, Any]] = [owner._parameters, owner._buffers]
        for kind in kinds:
            for key, value in kind.items():
                if value is not None and id(value) in replaced:
                    kind[key] = replaced[id(value)]
    for node in module.graph.nodes:
        if node.op == "get_attr" and id(attribute(module, str(node.target))) in replaced:
            owner_path, _, key = str(node.target).rpartition(".")
            owner = attribute(module, owner_path) if owner_path else module
            setattr(owner, key, replaced[id(attribute(module, str(node.target)))])


class ChannelBook:
    """A record of labels while a network runs: which belong together, which are pinned, their indices in weights.

    A label stands for one channel of one tensor; labels that belong together become one channel.
    """

    def __init__(self) -> None:
        self.born = ["the image"]  # by label: the tensor whose channel it was first
        self.edges: list[NDArray[np.int64]] = []
        self.reasons: dict[int, str] = {}
        self.tensors: dict[tuple[str, int], Tensor] = {}
        self.made: dict[str, int] = {}  # by weight: the dimension of the layer's output channels
        self.opaque: list[PinnedChannels] = []
        self.segments: list[Ids] = []
        self.shuffled: list[Ids] = []

    def new_labels(self, count: int, name: str) -> Tensor:
        """Return new labels (count,) for channels of the tensor `name`."""
        first = len(self.born)
        self.born += [name] * count
        return torch.arange(first, first + count)

    def output_labels(self, name: str, dim: int, count: int) -> Tensor:
        """Return the labels (count,) of a layer's output channels, by its weight's name and output dimension."""
        if (name, dim) not in self.tensors:
            self.tensors[name, dim] = self.new_labels(count, name)
            self.made[name] = dim
        return self.tensors[name, dim]

    def join(self, a: Tensor, b: Tensor) -> None:
        """Record that labels at the same position of two tensors of one shape belong together."""
        for dim in range(a.dim()):
            if a.stride(dim) == 0 and b.stride(dim) == 0 and a.shape[dim] > 1:
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        different = (a != b) & (a != FREE) & (b != FREE)
        if bool(different.any()):
            pairs = torch.stack([a[different], b[different]]).numpy()
            self.edges.append(np.unique(pairs, axis=1))

    def pin(self, labels: Tensor, reason: str) -> None:
        """Record that the channels of these labels must stay, and why."""
        for label in np.unique(labels.numpy()).tolist():
            if label > FIXED:
                self.reasons.setdefault(label, reason)

    def bind(self, name: str, dim: int, labels: Tensor) -> None:
        """Record that index i of the tensor's dimension belongs to the label `labels[i]`."""
        known = self.tensors.get((name, dim))
        if known is None:
            self.tensors[name, dim] = labels.clone()
        else:
            self.join(known, labels)

    def segment(self, labels: Tensor) -> None:
        """Record that these labels are a part of a tensor, whose channels are scaled apart from the other parts'."""
        self.segments.append(np.unique(labels.numpy()))

    def shuffle(self, labels: Tensor) -> None:
        """Record that a channel shuffle passes these labels on unchanged."""
        self.shuffled.append(np.unique(labels.numpy()))

    def channels(self, reshaped: Mapping[str, tuple[Tensor, ...]]) -> Channels:
        """Return the channels after the run: labels that belong together become one channel."""
        root = self._roots()
        born = np.asarray(self.born)
        tensors = {key: _map_to_roots(labels, root) for key, labels in self.tensors.items()}
        reasons: dict[int, str] = {int(root[FIXED]): "they meet the image or a constant"}
        for label, reason in self.reasons.items():
            reasons.setdefault(int(root[label]), reason)
        signatures = self._signatures(tensors, root)
        members: dict[int, list[int]] = defaultdict(list)
        pinned: dict[tuple[str, str], int] = defaultdict(int)
        for channel in np.unique(root[1:]).tolist():
            if channel not in reasons and born[channel] in self.made:
                members[int(signatures[channel])].append(channel)
        sizes = {channel: len(channels) for channels in members.values() for channel in channels}
        for name, dim in self.made.items():
            for channel in tensors[name, dim].tolist():
                together = sizes.get(channel) == 1 and len(tensors[name, dim]) > 1
                why = TOGETHER if together else reasons.get(channel)
                if why is not None and why != OUTPUT:
                    pinned[_layer(name), why] += 1
        return Channels(
            sets=tuple(
                ChannelSet(name=_layer(str(born[channels[0]])), channels=tuple(channels))
                for channels in members.values()
            ),
            pinned=(
                *(PinnedChannels(name=name, reason=why, count=count) for (name, why), count in pinned.items()),
                *self.opaque,
            ),
            tensors=tensors,
            reshaped={node: tuple(_map_to_roots(t, root) for t in labels) for node, labels in reshaped.items()},
            shuffled=frozenset(int(root[label]) for labels in self.shuffled for label in labels if label >= 0),
        )

    def _roots(self) -> Ids:
        """Return, for each label, the smallest label that belongs together with it."""
        root: list[int] = list(range(len(self.born)))

        def find(label: int) -> int:
            while root[label] != label:
                root[label] = root[root[label]]
                label = root[label]
            return label

        for pairs in self.edges:
            for a, b in zip(*pairs.tolist(), strict=True):
                low, high = sorted((find(a), find(b)))
                root[high] = low
        return np.asarray([find(label) for label in range(len(root))], dtype=np.int64)

    def _signatures(self, tensors: Mapping[tuple[str, int], Ids], root: Ids) -> NDArray[np.uint64]:
        """Return a hash of each channel's positions in the weights; channels of equal hash are interchangeable."""
        signatures = np.zeros(len(root), dtype=np.uint64)
        for (name, dim), labels in tensors.items():
            channels, counts = np.unique(labels[labels >= 0], return_counts=True)
            signatures[channels] += _hash(f"{name} {dim}") * (2 * counts.astype(np.uint64) + np.uint64(1))
        for number, segment in enumerate(self.segments):
            channels, counts = np.unique(root[segment[segment >= 0]], return_counts=True)
            signatures[channels] += _hash(f"segment {number}") * (2 * counts.astype(np.uint64) + np.uint64(1))
        return signatures


def _hash(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _map_to_roots(labels: Tensor, root: Ids) -> Ids:
    values = labels.numpy().astype(np.int64)
    return np.where(values >= 0, root[values], values)


def _layer(tensor: str) -> str:
    return tensor.removesuffix(".weight") if tensor != "weight" else "the network"
