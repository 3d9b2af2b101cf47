"""Rewrite operations that move or mix positions into the few that the engine computes.

Padding by reflection or replication, flips, rolls, repetitions and nearest-neighbour upsampling pick positions axis
by axis. PyTorch itself says which: the operation runs on the positions' numbers. Other interpolation mixes the
positions of each axis by weights, which are what the operation makes of unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from deepreduce.private.lowering.program import Ref, UnsupportedError


class Emitter(Protocol):
    """Takes the operations that a graph node is rewritten to."""

    def emit(self, node: fx.Node, name: str, args: Sequence[Any], shape: tuple[int, ...]) -> Ref:
        """Append an operation to the node's layer; return its output, of `shape` in PyTorch."""

    def public(self, node: fx.Node, tensor: Tensor) -> Ref:
        """Store numbers that follow from the shapes alone; return a reference to them."""


_Rewrite = Callable[[fx.Node, Mapping[str, Any], Emitter], Ref]


def rewrite(node: fx.Node, name: str, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    """Emit the operations that compute a node's operation of `REWRITES`; return their result."""
    return REWRITES[name](node, given, emitter)


def _sizes(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(n) for n in node.meta["val"].shape)


def _pick_axes(
    node: fx.Node, source: Any, sizes: Sequence[int], call: Callable[[Tensor], Tensor], emitter: Emitter
) -> Ref:
    """Emit a selection along each axis on which `call` moves positions of a tensor of `sizes`."""
    found, shape = source, list(sizes)
    places = [_places(call, sizes, axis) for axis in range(len(sizes))]
    numbers = torch.arange(math.prod(sizes), dtype=torch.float64).view(*sizes)
    _check_equal(numbers[torch.meshgrid(*places, indexing="ij")], call(numbers))
    for axis, indices in enumerate(places):
        if indices.tolist() == list(range(sizes[axis])):
            continue
        shape[axis] = len(indices)
        found = emitter.emit(node, "index_select", [found, axis, emitter.public(node, indices)], tuple(shape))
    return found if isinstance(found, Ref) else emitter.emit(node, "view", [source, list(sizes)], tuple(sizes))


def _places(call: Callable[[Tensor], Tensor], sizes: Sequence[int], axis: int) -> Tensor:
    """Return the positions of an axis that the result of `call` has along it, from a tensor that holds them."""
    numbers = torch.arange(sizes[axis], dtype=torch.float64)
    numbered = numbers.view([-1 if other == axis else 1 for other in range(len(sizes))]).expand(*sizes)
    moved = call(numbered.contiguous())
    first = moved[tuple(slice(None) if other == axis else 0 for other in range(moved.dim()))]
    return first.round().long()


def _check_equal(found: Tensor, expected: Tensor) -> None:
    """Raise `UnsupportedError` where the operation does not treat one axis after the other."""
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-5, atol=1e-8):
        raise UnsupportedError("mixes positions in a way that is not supported")


def _moved(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    """Rewrite an operation that picks positions axis by axis, and keeps the rank."""
    source, *options = given.values()
    return _pick_axes(node, source, _sizes(source), lambda x: node.target(x, *options), emitter)  # type: ignore[operator]


def _rolled(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    """Rewrite a roll; without dimensions it rolls the tensor's values in one row."""
    source, shifts, dims = given.values()
    sizes = _sizes(source)
    if dims:
        return _pick_axes(node, source, sizes, lambda x: torch.roll(x, shifts, dims), emitter)
    row = emitter.emit(node, "view", [source, [-1]], (math.prod(sizes),))
    rolled = _pick_axes(node, row, (math.prod(sizes),), lambda x: torch.roll(x, shifts), emitter)
    return emitter.emit(node, "view", [rolled, list(sizes)], sizes)


def _repeated(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    """Rewrite repetitions; dimensions that are new come first."""
    source, repeats = given.values()
    sizes = (*(1 for _ in range(len(repeats) - source.meta["val"].dim())), *_sizes(source))
    wide = (
        emitter.emit(node, "view", [source, list(sizes)], sizes) if len(sizes) > source.meta["val"].dim() else source
    )
    return _pick_axes(node, wide, sizes, lambda x: x.repeat(repeats), emitter)


def _stacked(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    """Rewrite a stack: its parts get the new dimension and are concatenated."""
    parts, dim = given.values()
    shape = _sizes(node)
    dim %= len(shape)
    one = (*shape[:dim], 1, *shape[dim + 1 :])
    wide = [emitter.emit(node, "unsqueeze", [part, dim], one) for part in parts]
    return emitter.emit(node, "cat", [wide, dim], shape)


def _through(node: fx.Node, source: Any, emitter: Emitter, inner: tuple[int, ...], dims: Sequence[int]) -> Ref:
    """Emit a view of shape `inner`, its dimensions in the order `dims`, and a view of the node's own shape."""
    viewed = emitter.emit(node, "view", [source, list(inner)], inner)
    turned = emitter.emit(node, "permute", [viewed, list(dims)], tuple(inner[dim] for dim in dims))
    return emitter.emit(node, "view", [turned, list(_sizes(node))], _sizes(node))


def _pixels_shuffled(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    source, factor = given.values()
    *batch, channels, height, width = _map_of(source)
    inner = (*batch, channels // factor**2, factor, factor, height, width)
    return _through(node, source, emitter, inner, (0, 1, 4, 2, 5, 3))


def _pixels_unshuffled(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    source, factor = given.values()
    *batch, channels, height, width = _map_of(source)
    inner = (*batch, channels, height // factor, factor, width // factor, factor)
    return _through(node, source, emitter, inner, (0, 1, 3, 5, 2, 4))


def _channels_shuffled(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    source, groups = given.values()
    batch, channels, height, width = _map_of(source)
    inner = (batch, groups, channels // groups, height, width)
    return _through(node, source, emitter, inner, (0, 2, 1, 3, 4))


def _map_of(source: fx.Node) -> tuple[int, ...]:
    sizes = _sizes(source)
    if len(sizes) != 4:
        raise UnsupportedError(f"shuffles a tensor of {len(sizes)} dimensions; give (batch, channels, height, width)")
    return sizes


def _resampled(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    """Rewrite an interpolation of feature maps, which treats height and width alike and one after the other."""
    source, (rows, columns), *options, scale_h, scale_w = given.values()
    *_, height, width = _sizes(source)
    call: Any = node.target
    # two columns, or two rows: PyTorch's antialiased kernels are wrong for one
    tall = torch.eye(height, dtype=torch.float64)[:, None, :, None].repeat(1, 1, 1, 2)
    wide = torch.eye(width, dtype=torch.float64)[:, None, None, :].repeat(1, 1, 2, 1)
    down, across = call(tall, [rows, 2], *options, scale_h, None), call(wide, [2, columns], *options, None, scale_w)
    weights = down[:, 0, :, 0].T, across[:, 0, 0, :].T  # (H', H), (W', W)
    sample = torch.rand(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixed = weights[0] @ sample[0, 0] @ weights[1].T
    _check_equal(mixed, call(sample, [rows, columns], *options, scale_h, scale_w)[0, 0])
    if all(bool(((matrix == 0) | (matrix == 1)).all()) for matrix in weights):
        found, shape = source, list(_sizes(source))
        for axis, matrix in zip((2, 3), weights, strict=True):
            shape[axis] = len(matrix)
            places = emitter.public(node, matrix.argmax(1))
            found = emitter.emit(node, "index_select", [found, axis, places], tuple(shape))
        assert isinstance(found, Ref)
        return found
    mixing = [emitter.public(node, matrix.float()) for matrix in weights]
    return emitter.emit(node, "upsample_bilinear2d", [source, *mixing], _sizes(node))


def _celu(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    source, alpha = given.values()
    return emitter.emit(node, "elu", [source, alpha, 1.0, 1.0 / alpha], _sizes(node))


def _gated(node: fx.Node, given: Mapping[str, Any], emitter: Emitter) -> Ref:
    """Rewrite GLU: the first half of a dimension times the sigmoid of the second."""
    source, dim = given.values()
    shape = _sizes(node)
    half = shape[dim]
    values = emitter.emit(node, "slice", [source, dim, 0, half, 1], shape)
    gates = emitter.emit(
        node, "sigmoid", [emitter.emit(node, "slice", [source, dim, half, 2 * half, 1], shape)], shape
    )
    return emitter.emit(node, "mul", [values, gates], shape)


_PADS = [f"{mode}_pad{dims}d" for mode in ("reflection", "replication") for dims in (1, 2, 3)]

RESAMPLED = (
    "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "_upsample_bilinear2d_aa",
    "upsample_bicubic2d", "_upsample_bicubic2d_aa",
)  # fmt: skip

REWRITES: Mapping[str, _Rewrite] = {
    **dict.fromkeys([*_PADS, "flip"], _moved),
    **dict.fromkeys(RESAMPLED, _resampled),
    "celu": _celu,
    "glu": _gated,
    "roll": _rolled,
    "repeat": _repeated,
    "stack": _stacked,
    "pixel_shuffle": _pixels_shuffled,
    "pixel_unshuffle": _pixels_unshuffled,
    "channel_shuffle": _channels_shuffled,
    "native_channel_shuffle": _channels_shuffled,
}
"""Operation -> the function that rewrites it."""
