"""From a traced network to the program that the parties run, and the weights that only the server holds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from deepreduce.errors import UserError
from deepreduce.network import Network
from deepreduce.private.lowering.aten_graph import aten_graph, layer_of
from deepreduce.private.lowering.builder import Norm, ProgramBuilder, program_of
from deepreduce.private.lowering.constants import Array as Array
from deepreduce.private.lowering.constants import Constants, number_read
from deepreduce.private.lowering.fold_batchnorm import fold_norms
from deepreduce.private.lowering.operations import NORMS, SAME, SPLITS, operation_of
from deepreduce.private.lowering.program import Argument, Program, Ref, UnsupportedError

IMAGE = "image"


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A network ready for the parties: the public `program` and `masks`, and the server's `weights`, by name."""

    program: Program
    weights: Mapping[str, Array]
    masks: Mapping[str, Array]


def lower(network: Network) -> Lowered:
    """The program of a prepared network (`deepreduce.private.lowering.aten_graph.prepare`), for one image.

    Batch-norms after a convolution or linear layer are folded into it. Floating-point parameters and buffers are the
    server's; integer and boolean buffers are masks of the plan and public. Raises `UserError` that names what can't
    be expressed, and what would make a number of the server's public.
    """
    if network.output_shape is None:
        raise UserError(f"{network.name} gives {len(network.outputs)} outputs; wrap it in a module that returns one")
    read = number_read(network.module)
    if read is not None:
        reason = f"makes a public number of {read[1]}, which is the server's; compute with the tensor itself"
        raise _unsupported(network, read[0], reason)
    try:
        graph = aten_graph(network)
    except Exception as error:  # torch raises what it likes, over values of the image that decide what is computed
        said = str(error).strip().partition("\n")[0]
        raise _unsupported(network, "its graph", f"can't be followed ({type(error).__name__}: {said})") from error
    constants = Constants(graph, network)
    walk = _Walk(constants)
    for node in graph.graph.nodes:
        try:
            walk.follow(node)
        except UnsupportedError as error:
            raise _unsupported(network, layer_of(node), error) from error
    drafts, logits = fold_norms(walk.drafts.layers, walk.drafts.norms, constants, logits=walk.logits)
    program = program_of(
        drafts, constants, network=network.name, image=IMAGE, image_shape=(1, *network.input_shape), logits=logits
    )
    _check(network, program, constants.masks)
    return Lowered(program=program, weights=constants.weights, masks=constants.masks)


def _check(network: Network, program: Program, masks: Mapping[str, Array]) -> None:
    """Follow the shapes through the functions that the parties will run."""
    from deepreduce.private.spu.kernels import output_shapes

    for layer in program.layers:
        try:
            output_shapes(program, layer, masks)
        except UnsupportedError as error:
            raise _unsupported(network, layer.name, error) from error


def _unsupported(network: Network, layer: str, reason: object) -> UserError:
    return UserError(f"{network.name} can't be run privately: {layer} {reason}")


class _Walk:
    """Walks through the operations: those on constants are computed, those on activations noted down as drafts."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.drafts = ProgramBuilder()
        self.logits = ""
        self._values: dict[fx.Node, str] = {}  # activations, by the names that the parties use
        self._parts: dict[fx.Node, list[Callable[[], str]]] = {}  # cut when they are used

    def follow(self, node: fx.Node) -> None:
        """Take the next node. Raises `UnsupportedError` for what can't be expressed."""
        if node.op == "placeholder":
            self._values[node] = IMAGE
        elif node.op == "get_attr":
            self.constants.read(node)
        elif node.op == "output":
            self.logits = self._values[node.all_input_nodes[0]]
        elif node.target is operator.getitem:
            self._take_part(node)
        elif all(source in self.constants for source in node.all_input_nodes):
            self.constants.compute(node)
        else:
            self._note(node)

    def _take_part(self, node: fx.Node) -> None:
        source, index = node.args
        assert isinstance(source, fx.Node) and isinstance(index, int)
        if source in self.constants:
            self.constants.take_part(node, source, index)
        elif source in self._parts:
            if node.users:
                self._values[node] = self._parts[source][index]()
        elif index == 0:
            self._values[node] = self._values[source]
        elif node.users:
            raise UnsupportedError(f"uses output {index} of {source.name}")

    def _note(self, node: fx.Node) -> None:
        name, given = operation_of(node)
        args = list(given.values())
        if name in SAME:
            source = _checked_copy(given)
            if source not in self._values:
                raise UnsupportedError("writes a constant over values that depend on the image")
            self._values[node] = self._values[source]
        elif name in NORMS:
            self._normalise(node, given)
        elif name in SPLITS:
            self._split(node, name, args)
        elif name == "convolution":
            self._convolve(node, given)
        elif name in ("addmm", "mm"):
            self._multiply(node, name, args)
        elif name == "index":
            self._index(node, *args)
        elif name == "div" and given["other"] in self.constants:
            inverse = self.constants[given["other"]].double().reciprocal()
            factor = self.constants.name_made_of(given["other"], inverse, layer_of(node))
            self._add(node, "mul", [given["self"], Ref(factor)])
        else:
            self._add(node, name, args)

    # -- operations -------------------------------------------------------------------------------------------

    def _add(self, node: fx.Node, name: str, args: Sequence[Any], *, shape: tuple[int, ...] | None = None) -> str:
        layer = layer_of(node)
        given = [self._argument(value, layer) for value in args]
        self._values[node] = self.drafts.add(layer, name, given, _shape(node) if shape is None else shape)
        return self._values[node]

    def _argument(self, value: Any, layer: str) -> Argument:
        if isinstance(value, (list, tuple)):
            return tuple(self._argument(item, layer) for item in value)
        if isinstance(value, fx.Node):
            return Ref(self._values[value] if value in self._values else self.constants.name(value, layer))
        if value is None or isinstance(value, (Ref, int, float, bool, str)):
            return value
        raise UnsupportedError(f"is given {value}, which is not expressed")

    def _index(self, node: fx.Node, source: fx.Node, indices: Sequence[Any]) -> None:
        """Channels (or rows, columns) that are picked by one list of places, or by one mask."""
        given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
        if len(given) != 1 or given[0][1] not in self.constants or self.constants[given[0][1]].dim() != 1:
            raise UnsupportedError("indexes by more than one list of places")
        ((dim, index),) = given
        places = self.constants[index]
        if places.dtype in (torch.bool, torch.uint8):
            places = places.nonzero().flatten()
        size = source.meta["val"].shape[dim]
        name = self.constants.name_made_of(index, places % size, layer_of(node))  # -1 is the last
        self._add(node, "index_select", [source, dim, Ref(name)])

    def _convolve(self, node: fx.Node, given: Mapping[str, Any]) -> None:
        image, weight, bias, *options = given.values()
        self._check_weights(weight, bias)
        kernel = self.constants[weight]  # (out, in, height, width)
        if kernel.dim() != 4:
            raise UnsupportedError(f"is a convolution over {kernel.dim() - 2} dimensions")
        if given["transposed"]:
            raise UnsupportedError("is a transposed convolution")
        layer, channels = layer_of(node), len(kernel)
        stored = Ref(self.constants.name_weight(kernel.permute(2, 3, 1, 0).float().numpy(), layer))
        offset = self._bias(self.constants[bias], channels, layer) if bias is not None else None
        self._add(node, "convolution", [image, stored, offset, *options])

    def _multiply(self, node: fx.Node, name: str, args: Sequence[Any]) -> None:
        """A linear layer, whose weights must be the server's; or a product of activations."""
        bias, image, weight, beta, alpha = args if name == "addmm" else (None, *args, 1, 1)
        if name == "mm" and weight not in self.constants:
            self._add(node, name, args)
            return
        self._check_weights(weight, bias)
        matrix, layer = self.constants[weight] * alpha, layer_of(node)  # (in, out)
        stored = Ref(self.constants.name_weight(matrix.float().numpy(), layer))
        offset = self._bias(self.constants[bias] * beta, matrix.shape[1], layer) if bias is not None else None
        self._add(node, "addmm", [image, stored, offset])

    def _check_weights(self, weight: fx.Node, bias: fx.Node | None) -> None:
        if weight not in self.constants or (bias is not None and bias not in self.constants):
            raise UnsupportedError("multiplies by weights that depend on the image")

    def _bias(self, bias: Tensor, channels: int, layer: str) -> Ref:
        if bias.numel() not in (1, channels) or bias.numel() != bias.shape[-1:].numel():
            raise UnsupportedError("adds another bias at each place")
        return Ref(self.constants.name_weight(bias.reshape(-1).expand(channels).float().numpy(), layer))

    def _normalise(self, node: fx.Node, given: Mapping[str, Any]) -> None:
        names = ("running_mean", "running_var", "weight", "bias")
        nodes = [given[name] for name in names]
        computed = any(value is not None and value not in self.constants for value in nodes)
        if computed or None in nodes[:2] or given.get("training"):
            raise UnsupportedError("normalises by statistics of the image itself")
        mean, variance = (self.constants[value].double().numpy() for value in nodes[:2])
        scale, shift = (None if value is None else self.constants[value].double().numpy() for value in nodes[2:])
        eps = float(given["epsilon" if "epsilon" in given else "eps"])
        factor = (1.0 if scale is None else scale) / np.sqrt(variance + eps)
        offset = (0.0 if shift is None else shift) - mean * factor
        source, shape = given["input"], tuple(given["input"].meta["val"].shape)
        norm = Norm(factor=factor, offset=offset)
        self._values[node] = self.drafts.add_norm(layer_of(node), self._values[source], norm, shape)

    def _split(self, node: fx.Node, name: str, args: list[Any]) -> None:
        """Parts are cut when they are used."""
        dim = args[-1]
        size = args[0].meta["val"].shape[dim]
        if name == "unbind":
            self._parts[node] = [self._cut(node, "select", [args[0], dim, place]) for place in range(size)]
            return
        sizes = args[1] if name == "split_with_sizes" else [args[1]] * -(-size // args[1])
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._parts[node] = [
            self._cut(node, "slice", [args[0], dim, start, min(start + length, size), 1])
            for start, length in zip(starts, sizes, strict=True)
        ]

    def _cut(self, node: fx.Node, name: str, args: list[Any]) -> Callable[[], str]:
        shape = list(args[0].meta["val"].shape)
        if name == "select":
            del shape[args[1]]
        else:
            shape[args[1]] = args[3] - args[2]
        return lambda: self._add(node, name, args, shape=tuple(shape))


def _checked_copy(given: Mapping[str, Any]) -> fx.Node:
    """Return what a copy is made of. Raises `UnsupportedError` for a copy that rounds, or that repeats values."""
    dtype = given.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedError(f"turns values that depend on the image into {dtype}")
    source = given.get("src", given["self"])
    if _shape(source) != _shape(given["self"]):
        raise UnsupportedError("copies a tensor into one of another shape")
    assert isinstance(source, fx.Node)
    return source


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(int(n) for n in first.shape) if isinstance(first, Tensor) else ()
