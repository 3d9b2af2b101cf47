"""What is known of a network's channels: which go together, which must stay, and where they sit in its weights."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]

FIXED, FREE = 0, -1
"""Labels of values that must stay, and of values that belong to no channel."""

OUTPUT = "they are the network's output"
TOGETHER = "they can only go all together"


@dataclass(frozen=True, kw_only=True)
class ChannelSet:
    """Channels that pass through the same layers, any of which may go. `name` is the layer that makes them."""

    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PinnedChannels:
    """Channels of the layer `name` that have to stay, and why."""

    name: str
    count: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The channels of a network.

    `tensors` gives the channel of every index of a parameter's or buffer's dimension, by (name, dimension);
    `reshaped` the channel of every element that a node of the graph gives or takes, where that node may
    name sizes in figures. Channels that appear in no set stay.
    """

    sets: tuple[ChannelSet, ...]
    pinned: tuple[PinnedChannels, ...]
    tensors: Mapping[tuple[str, int], Ids] = field(repr=False)
    reshaped: Mapping[str, tuple[Ids, ...]] = field(repr=False)


class ChannelBook:
    """Labels given out so far, which of them go together, which are pinned, and where they sit in weights."""

    def __init__(self) -> None:
        self.born = ["the image"]  # by label: the tensor that makes it
        self.edges: list[NDArray[np.int64]] = []
        self.reasons: dict[int, str] = {}
        self.tensors: dict[tuple[str, int], Tensor] = {}
        self.made: dict[str, int] = {}  # the dimension of a layer's weight that counts what it makes
        self.opaque: list[PinnedChannels] = []
        self.segments: list[Ids] = []

    def fresh(self, count: int, name: str) -> Tensor:
        """(count,): new labels, of channels that the tensor `name` makes."""
        first = len(self.born)
        self.born += [name] * count
        return torch.arange(first, first + count)

    def made_by(self, name: str, dim: int, count: int) -> Tensor:
        """(count,): the labels of what a layer makes, by its weight's name and dimension."""
        if (name, dim) not in self.tensors:
            self.tensors[name, dim] = self.fresh(count, name)
            self.made[name] = dim
        return self.tensors[name, dim]

    def join(self, a: Tensor, b: Tensor) -> None:
        """Both tensors of one shape: labels at the same place go together."""
        for dim in range(a.dim()):
            if a.stride(dim) == 0 and b.stride(dim) == 0 and a.shape[dim] > 1:
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        different = (a != b) & (a != FREE) & (b != FREE)
        if bool(different.any()):
            pairs = torch.stack([a[different], b[different]]).numpy()
            self.edges.append(np.unique(pairs, axis=1))

    def pin(self, labels: Tensor, reason: str) -> None:
        """These have to stay."""
        for label in np.unique(labels.numpy()).tolist():
            if label > FIXED:
                self.reasons.setdefault(label, reason)

    def bind(self, name: str, dim: int, labels: Tensor) -> None:
        """Index i of the tensor's dimension belongs to labels[i]."""
        known = self.tensors.get((name, dim))
        if known is None:
            self.tensors[name, dim] = labels.clone()
        else:
            self.join(known, labels)

    def segment(self, labels: Tensor) -> None:
        """These are a part of a tensor, and are scaled apart from the others of it."""
        self.segments.append(np.unique(labels.numpy()))

    def closed(self, reshaped: Mapping[str, tuple[Tensor, ...]]) -> Channels:
        """The finished account: labels that go together become one channel."""
        root = self._roots()
        born = np.asarray(self.born)
        tensors = {key: _mapped(labels, root) for key, labels in self.tensors.items()}
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
            reshaped={node: tuple(_mapped(t, root) for t in labels) for node, labels in reshaped.items()},
        )

    def _roots(self) -> Ids:
        """The smallest label of each label's component."""
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
        """A hash of where each channel sits: channels of equal signature are interchangeable."""
        signatures = np.zeros(len(root), dtype=np.uint64)
        for (name, dim), labels in tensors.items():
            channels, counts = np.unique(labels[labels >= 0], return_counts=True)
            signatures[channels] += _hashed(f"{name} {dim}") * (2 * counts.astype(np.uint64) + np.uint64(1))
        for number, segment in enumerate(self.segments):
            channels, counts = np.unique(root[segment[segment >= 0]], return_counts=True)
            signatures[channels] += _hashed(f"segment {number}") * (2 * counts.astype(np.uint64) + np.uint64(1))
        return signatures


def _hashed(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _mapped(labels: Tensor, root: Ids) -> Ids:
    values = labels.numpy().astype(np.int64)
    return np.where(values >= 0, root[values], values)


def _layer(tensor: str) -> str:
    return tensor.removesuffix(".weight") if tensor != "weight" else "the network"
