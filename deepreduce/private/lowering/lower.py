"""Lower a traced network to the program that the parties run and the weights that only the server holds."""

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
from deepreduce.private.lowering.batch import check_images_apart
from deepreduce.private.lowering.builder import Norm, ProgramBuilder, build_program
from deepreduce.private.lowering.constants import Array as Array
from deepreduce.private.lowering.constants import Constants, find_number_read
from deepreduce.private.lowering.fold_batchnorm import fold_batchnorms
from deepreduce.private.lowering.operations import NORMS, SAME, SPLITS, operation_of
from deepreduce.private.lowering.program import Argument, Program, Ref, UnsupportedError
from deepreduce.private.lowering.rewrite import REWRITES, rewrite
from deepreduce.private.lowering.slice_masks import slice_masks
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs

IMAGE = "image"


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A lowered network: the public `program`, and by name the public `masks` and the server's `weights`."""

    program: Program
    weights: Mapping[str, Array]
    masks: Mapping[str, Array]


def lower(network: Network, *, batch: int = 1, cost: LayerCostFunction = macs) -> Lowered:
    """Lower a prepared network (`deepreduce.private.lowering.aten_graph.prepare`) to a program for `batch` images.

    Batch-norms after a convolution or linear layer are folded into it. Of a masked ReLU, the elements that the mask
    keeps are compared, unless `cost`, the cost of a layer, is lower if all are (`slice_masks`). Floating-point
    parameters and buffers are the server's; integer and boolean buffers are masks of the plan, and public. Raises
    `UserError` that names the layer for an operation that is not supported and for one that would make a number of
    the server's public, and for a network that computes other logits for an image where others are in its batch.
    """
    if network.output_shape is None:
        raise UserError(
            f"{network.name} returns {len(network.outputs)} outputs; wrap it in a module that returns one"
        )
    number = find_number_read(network.module)
    if number is not None:
        call, name = number
        reason = f"makes {name} a public number, but it is the server's; compute with the tensor itself"
        raise _unsupported_error(network, call, reason)
    check_images_apart(network, batch)
    try:
        graph = aten_graph(network, batch=batch)
    except Exception as error:  # torch's, of any type, where values of the image decide what is computed
        first_line = str(error).strip().partition("\n")[0]
        raise _unsupported_error(
            network, "its graph", f"can't be traced ({type(error).__name__}: {first_line})"
        ) from error
    constants = Constants(graph, network)
    walker = _GraphWalker(constants)
    for node in graph.graph.nodes:
        try:
            walker.visit(node)
        except UnsupportedError as error:
            raise _unsupported_error(network, layer_of(node), error) from error
    built = walker.builder
    image_shape = (batch, *network.input_shape)
    folded, logits = fold_batchnorms(built.layers, built.norms, constants, logits=walker.logits)
    drafts = slice_masks(folded, constants, image=IMAGE, image_shape=image_shape, logits=logits, cost=cost)
    program = build_program(
        drafts, constants, network=network.name, image=IMAGE, image_shape=image_shape, logits=logits
    )
    _check_shapes(network, program, constants.masks)
    return Lowered(program=program, weights=constants.weights, masks=constants.masks)


def _check_shapes(network: Network, program: Program, masks: Mapping[str, Array]) -> None:
    """Evaluate the shapes of all layers with the functions that the parties will run."""
    from deepreduce.private.spu.layer_function import check_output_shapes

    for layer in program.layers:
        try:
            check_output_shapes(program, layer, masks)
        except UnsupportedError as error:
            raise _unsupported_error(network, layer.name, error) from error


def _unsupported_error(network: Network, layer: str, reason: object) -> UserError:
    return UserError(f"{network.name} can't be run privately: {layer} {reason}")


class _GraphWalker:
    """Visits a graph's operations in order: evaluates those on constants, adds those on activations to a builder."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.builder = ProgramBuilder()
        self.logits = ""
        self._values: dict[fx.Node, str] = {}  # activation -> its name in the program
        self._parts: dict[fx.Node, list[Callable[[], str]]] = {}  # output of a split -> functions that cut its parts

    def visit(self, node: fx.Node) -> None:
        """Lower the next node. Raises `UnsupportedError` for an operation that is not supported."""
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
            self._lower_operation(node)

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

    def _lower_operation(self, node: fx.Node) -> None:
        name, given = operation_of(node)
        args = list(given.values())
        if name in SAME:
            source = _source_of_copy(given)
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
            factor = self.constants.store_tensor(given["other"], inverse, layer_of(node))
            self._add(node, "mul", [given["self"], Ref(factor)])
        elif name in REWRITES:
            self._values[node] = rewrite(node, name, given, self).name
        else:
            self._add(node, name, args)

    # -- operations -------------------------------------------------------------------------------------------

    def _add(self, node: fx.Node, name: str, args: Sequence[Any], *, shape: tuple[int, ...] | None = None) -> str:
        layer = layer_of(node)
        given = [self._argument(value, layer) for value in args]
        self._values[node] = self.builder.add(layer, name, given, _shape(node) if shape is None else shape)
        return self._values[node]

    def emit(self, node: fx.Node, name: str, args: Sequence[Any], shape: tuple[int, ...]) -> Ref:
        """Append an operation to the node's layer; return its output."""
        return Ref(self._add(node, name, args, shape=shape))

    def public(self, node: fx.Node, tensor: Tensor) -> Ref:
        """Store numbers that follow from the shapes alone; return a reference to them."""
        return Ref(self.constants.store_public(tensor, layer_of(node)))

    def _argument(self, value: Any, layer: str) -> Argument:
        if isinstance(value, (list, tuple)):
            return tuple(self._argument(item, layer) for item in value)
        if isinstance(value, fx.Node):
            return Ref(self._values[value] if value in self._values else self.constants.store(value, layer))
        if value is None or isinstance(value, (Ref, int, float, bool, str)):
            return value
        raise UnsupportedError(f"has the argument {value}, which is not supported")

    def _index(self, node: fx.Node, source: fx.Node, indices: Sequence[Any]) -> None:
        """Select channels (or rows, columns) by one list of indices, or by one mask."""
        given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
        if len(given) != 1 or given[0][1] not in self.constants or self.constants[given[0][1]].dim() != 1:
            raise UnsupportedError("indexes by more than one list, or by values that depend on the image")
        ((dim, index),) = given
        chosen = self.constants[index]
        if chosen.dtype in (torch.bool, torch.uint8):
            chosen = chosen.nonzero().flatten()
        size = source.meta["val"].shape[dim]
        name = self.constants.store_tensor(index, chosen % size, layer_of(node))  # -1 is the last
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
        stored = Ref(self.constants.store_weight(kernel.permute(2, 3, 1, 0).float().numpy(), layer))
        offset = self._bias(self.constants[bias], channels, layer) if bias is not None else None
        self._add(node, "convolution", [image, stored, offset, *options])

    def _multiply(self, node: fx.Node, name: str, args: Sequence[Any]) -> None:
        """Lower a linear layer, whose weights must be the server's, or a product of activations."""
        bias, image, weight, beta, alpha = args if name == "addmm" else (None, *args, 1, 1)
        if name == "mm" and weight not in self.constants:
            self._add(node, name, args)
            return
        self._check_weights(weight, bias)
        matrix, layer = self.constants[weight] * alpha, layer_of(node)  # (in, out)
        stored = Ref(self.constants.store_weight(matrix.float().numpy(), layer))
        offset = self._bias(self.constants[bias] * beta, matrix.shape[1], layer) if bias is not None else None
        self._add(node, "addmm", [image, stored, offset])

    def _check_weights(self, weight: fx.Node, bias: fx.Node | None) -> None:
        if weight not in self.constants or (bias is not None and bias not in self.constants):
            raise UnsupportedError("multiplies by weights that depend on the image")

    def _bias(self, bias: Tensor, channels: int, layer: str) -> Ref:
        if bias.numel() not in (1, channels) or bias.numel() != bias.shape[-1:].numel():
            raise UnsupportedError("adds a bias that varies by position")
        return Ref(self.constants.store_weight(bias.reshape(-1).expand(channels).float().numpy(), layer))

    def _normalise(self, node: fx.Node, given: Mapping[str, Any]) -> None:
        names = ("running_mean", "running_var", "weight", "bias")
        nodes = [given[name] for name in names]
        computed = any(value is not None and value not in self.constants for value in nodes)
        if computed or None in nodes[:2] or given.get("training"):
            raise UnsupportedError("normalises by the image's own statistics")
        mean, variance = (self.constants[value].double().numpy() for value in nodes[:2])
        scale, shift = (None if value is None else self.constants[value].double().numpy() for value in nodes[2:])
        eps = float(given["epsilon" if "epsilon" in given else "eps"])
        factor = (1.0 if scale is None else scale) / np.sqrt(variance + eps)
        offset = (0.0 if shift is None else shift) - mean * factor
        source, shape = given["input"], tuple(given["input"].meta["val"].shape)
        norm = Norm(factor=factor, offset=offset)
        self._values[node] = self.builder.add_norm(layer_of(node), self._values[source], norm, shape)

    def _split(self, node: fx.Node, name: str, args: list[Any]) -> None:
        """Record the parts of a split; each is cut when it is used."""
        dim = args[-1]
        size = args[0].meta["val"].shape[dim]
        if name == "unbind":
            self._parts[node] = [self._cut(node, "select", [args[0], dim, index]) for index in range(size)]
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


def _source_of_copy(given: Mapping[str, Any]) -> fx.Node:
    """Return the node that is copied. Raises `UnsupportedError` for a copy that rounds, or that repeats values."""
    dtype = given.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedError(f"converts values that depend on the image to {dtype}")
    source = given.get("src", given["self"])
    if _shape(source) != _shape(given["self"]):
        raise UnsupportedError("copies a tensor into one of another shape")
    assert isinstance(source, fx.Node)
    return source


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's first output; () if it has none."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(int(n) for n in first.shape) if isinstance(first, Tensor) else ()
