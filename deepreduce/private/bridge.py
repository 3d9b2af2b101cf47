"""From a traced network to the program that the parties run, and the weights that only the server holds."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch._ops import OpOverload

from deepreduce.errors import UserError
from deepreduce.network import Network
from deepreduce.private.graph import aten_graph, layer_of
from deepreduce.private.program import KINDS, Argument, Layer, Op, Program, Ref, refs

Array = NDArray[Any]

KIND_OF = {
    "convolution": "convolution",
    "mm": "linear", "addmm": "linear",
    "relu": "relu", "hardtanh": "relu6", "clamp": "clamp", "clamp_min": "clamp", "clamp_max": "clamp",
    "max_pool2d": "max_pool",
    "avg_pool2d": "avg_pool", "_adaptive_avg_pool2d": "avg_pool", "mean": "avg_pool", "sum": "avg_pool",
    "mul": "product", "pow": "product", "bmm": "product",
    "add": "add", "sub": "add", "rsub": "add", "neg": "add", "div": "add", "where": "add",
    "cat": "move", "view": "move", "_unsafe_view": "move", "permute": "move", "transpose": "move", "t": "move",
    "squeeze": "move", "unsqueeze": "move", "slice": "move", "select": "move", "expand": "move",
    "constant_pad_nd": "move", "index_select": "move",
}  # fmt: skip
"""The operations that can be expressed -> the kind of layer that one makes."""

_SAME = {"clone", "alias", "detach", "lift_fresh_copy", "contiguous", "expand_copy"}
_NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update"}
_SPLITS = {"split", "split_with_sizes", "unbind"}


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A network ready for the parties: the public `program` and `masks`, and the server's `weights`, by name."""

    program: Program
    weights: Mapping[str, Array]
    masks: Mapping[str, Array]


def lower(network: Network) -> Lowered:
    """The program of a prepared network (`deepreduce.private.graph.prepare`), for one image.

    Batch-norms after a convolution or linear layer are folded into it. Floating-point parameters and buffers are the
    server's; integer and boolean ones are masks of the plan and public. Raises `UserError` that names what can't be
    expressed.
    """
    if network.output_shape is None:
        raise UserError(f"{network.name} gives {len(network.outputs)} outputs; wrap it in a module that returns one")
    graph = aten_graph(network)
    lowering = _Lowering(graph, network.name)
    for node in graph.graph.nodes:
        lowering.follow(node)
    lowered = lowering.finish()
    _check(lowered, network.name)
    return lowered


def _check(lowered: Lowered, name: str) -> None:
    """Follow the shapes through the functions that the parties will run."""
    from deepreduce.private.kernels import UnsupportedError, output_shapes

    try:
        for layer in lowered.program.layers:
            output_shapes(lowered.program, layer, lowered.masks)
    except UnsupportedError as error:
        raise UserError(f"{name} can't be run privately: {layer.name} {error}") from error


@dataclass
class _Draft:
    """A layer that is being put together."""

    name: str
    ops: list[Op] = field(default_factory=list)


@dataclass
class _Product:
    """A convolution or linear layer that a batch-norm may still be folded into: where it stands, its weights.

    `bias` is "" where it has none. Its operation's arguments are image, weight, bias, ...
    """

    draft: _Draft
    index: int
    weight: str
    bias: str


class _Lowering:
    """Walks through the operations: those on constants are computed, those on activations noted down."""

    def __init__(self, graph: fx.GraphModule, network: str) -> None:
        self.graph, self.network = graph, network
        self.constants: dict[fx.Node, Any] = {}
        self.values: dict[fx.Node, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.weights: dict[str, Array] = {}
        self.masks: dict[str, Array] = {}
        self.drafts: list[_Draft] = []
        self.products: dict[fx.Node, _Product] = {}
        self.parts: dict[fx.Node, list[Callable[[], str]]] = {}
        self.image = self.logits = ""
        self.numbers = itertools.count()

    # -- one node ---------------------------------------------------------------------------------------------

    def follow(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.image = self._named(node, tuple(node.meta["val"].shape), "image")
        elif node.op == "get_attr":
            self.constants[node] = getattr(self.graph, str(node.target)).detach()
        elif node.op == "output":
            self.logits = self.values[node.all_input_nodes[0]]
        elif node.target is operator.getitem:
            self._take_part(node)
        elif all(source in self.constants for source in node.all_input_nodes):
            self.constants[node] = self._compute(node)
        else:
            self._note(node)

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.constants.__getitem__)
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _take_part(self, node: fx.Node) -> None:
        source, index = node.args
        assert isinstance(source, fx.Node) and isinstance(index, int)
        if source in self.constants:
            self.constants[node] = self.constants[source][index]
        elif source in self.parts:
            if node.users:
                self.values[node] = self.parts[source][index]()
        elif index == 0:
            self.values[node] = self.values[source]
            if source in self.products:
                self.products[node] = self.products[source]
        elif node.users:
            raise self._unsupported(node, f"uses output {index} of {source.name}")

    def _note(self, node: fx.Node) -> None:
        assert isinstance(node.target, OpOverload)
        name, args = node.target.overloadpacket.__name__, _arguments(node)
        if name in _SAME or (name == "_to_copy" and _shape(node) is not None):
            (source,) = node.all_input_nodes
            self.values[node] = self.values[source]
        elif name in _NORMS:
            self._normalise(node, args)
        elif name in _SPLITS:
            self._split(node, name, args)
        elif name in ("convolution", "addmm", "mm"):
            self._multiply(node, name, args)
        else:
            self._emit(node, {"max_pool2d_with_indices": "max_pool2d", "index": "index_select"}.get(name, name), args)

    # -- operations -------------------------------------------------------------------------------------------

    def _emit(self, node: fx.Node, name: str, args: list[Any], *, shape: tuple[int, ...] | None = None) -> Op:
        if name not in KIND_OF:
            raise self._unsupported(node, f"computes {name}, which the engine is not taught")
        if name == "index_select" and len(args) == 2:  # index: a list with a tensor for each indexed dimension
            args = self._index(node, args)
        draft = self._draft(layer_of(node))
        output = f"{draft.name}/{next(self.numbers)}"
        op = Op(
            name=name,
            args=tuple(self._argument(value, draft.name) for value in args),
            output=output,
            shape=shape or _shape(node) or (),
        )
        draft.ops.append(op)
        self.values[node] = output
        self.shapes[output] = _stored_shape(op.shape)
        return op

    def _index(self, node: fx.Node, args: list[Any]) -> list[Any]:
        given = [(dim, index) for dim, index in enumerate(args[1]) if index is not None]
        if len(given) != 1 or given[0][1] not in self.constants or self.constants[given[0][1]].dim() != 1:
            raise self._unsupported(node, "indexes by more than one list of places")
        return [args[0], given[0][0], given[0][1]]

    def _multiply(self, node: fx.Node, name: str, args: list[Any]) -> None:
        """A convolution or linear layer, whose weights must be the server's."""
        image, weight, bias = _factors(name, args)
        if name == "mm" and weight not in self.constants:
            self._emit(node, name, args)
            return
        if weight not in self.constants or (bias is not None and bias not in self.constants):
            raise self._unsupported(node, "multiplies by weights that depend on the image")
        kernel = self.constants[weight]  # (out, in, height, width) or (in, out)
        out_dim = 0 if name == "convolution" else 1
        channels = kernel.shape[out_dim]
        offset = self.constants[bias] if bias is not None else torch.zeros(channels)
        if name == "convolution":
            if kernel.dim() != 4:
                raise self._unsupported(node, f"is a convolution over {kernel.dim() - 2} dimensions")
            if args[6]:
                raise self._unsupported(node, "is a transposed convolution")
            kernel = kernel.permute(2, 3, 1, 0)
        layer = layer_of(node)
        weight_name = self._weight(kernel, layer, stored=True)
        bias_name = self._weight(offset.expand(channels), layer) if bias is not None else ""
        given = [image, Ref(weight_name), Ref(bias_name) if bias_name else None]
        if name == "convolution":
            self._emit(node, name, [*given, *args[3:]])
        else:
            self._emit(node, "addmm", given)
        draft = self.drafts[-1]
        self.products[node] = _Product(draft=draft, index=len(draft.ops) - 1, weight=weight_name, bias=bias_name)

    def _normalise(self, node: fx.Node, args: list[Any]) -> None:
        """Fold a batch-norm into the layer before it, or scale and shift where something else uses that layer too."""
        source, scale, shift, mean, variance = args[:5]
        eps = float(args[-1])
        if any(value is not None and value not in self.constants for value in args[1:5]) or mean is None:
            raise self._unsupported(node, "normalises by statistics of the image itself")
        mean, variance = self.constants[mean].double(), self.constants[variance].double()
        ones = torch.ones_like(mean)
        factor = (self.constants[scale].double() if scale is not None else ones) / torch.sqrt(variance + eps)
        offset = (self.constants[shift].double() if shift is not None else 0 * ones) - mean * factor
        product = self.products.get(source)
        if product is not None and len(source.users) == 1:
            self._fold(product, factor, offset)
            self.values[node] = self.values[source]
            return
        shape = tuple(source.meta["val"].shape)
        wide = (1, -1) + (1,) * (len(shape) - 2)
        layer = layer_of(node)
        scaled = Ref(self._weight(factor.float().view(wide), layer))
        shifted = Ref(self._weight(offset.float().view(wide), layer))
        self._emit(node, "mul", [source, scaled], shape=shape)
        self._emit(node, "add", [Ref(self.values[node]), shifted, 1], shape=shape)

    def _fold(self, product: _Product, factor: Tensor, offset: Tensor) -> None:
        weights = self.weights
        weights[product.weight] = (weights[product.weight].astype(np.float64) * factor.numpy()).astype(np.float32)
        if product.bias:
            bias = weights[product.bias].astype(np.float64) * factor.numpy() + offset.numpy()
            weights[product.bias] = bias.astype(np.float32)
            return
        product.bias = self._weight(offset.float(), product.draft.name)
        op = product.draft.ops[product.index]
        args = (*op.args[:2], Ref(product.bias), *op.args[3:])
        product.draft.ops[product.index] = replace(op, args=args)

    def _split(self, node: fx.Node, name: str, args: list[Any]) -> None:
        """Parts are cut when they are used."""
        dim = args[-1]
        size = args[0].meta["val"].shape[dim]
        if name == "unbind":
            self.parts[node] = [self._cut(node, "select", [args[0], dim, place]) for place in range(size)]
            return
        sizes = args[1] if name == "split_with_sizes" else [args[1]] * -(-size // args[1])
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.parts[node] = [
            self._cut(node, "slice", [args[0], dim, start, min(start + length, size), 1])
            for start, length in zip(starts, sizes, strict=True)
        ]

    def _cut(self, node: fx.Node, name: str, args: list[Any]) -> Callable[[], str]:
        shape = list(args[0].meta["val"].shape)
        if name == "select":
            del shape[args[1]]
        else:
            shape[args[1]] = args[3] - args[2]
        return lambda: self._emit(node, name, args, shape=tuple(shape)).output

    # -- names and values -------------------------------------------------------------------------------------

    def _draft(self, name: str) -> _Draft:
        if not self.drafts or self.drafts[-1].name != name:
            self.drafts.append(_Draft(name))
        return self.drafts[-1]

    def _named(self, node: fx.Node, shape: tuple[int, ...], name: str) -> str:
        self.values[node] = name
        self.shapes[name] = _stored_shape(shape)
        return name

    def _argument(self, value: Any, layer: str) -> Argument:
        if isinstance(value, (list, tuple)):
            return tuple(self._argument(item, layer) for item in value)
        if isinstance(value, fx.Node):
            return Ref(self.values[value] if value in self.values else self._weight(self.constants[value], layer))
        if value is None or isinstance(value, (Ref, int, float, bool, str)):
            return value
        return str(value)  # a dtype or memory format, which no function looks at

    def _weight(self, tensor: Tensor, layer: str, *, stored: bool = False) -> str:
        """The name of a constant; one of four dimensions is stored channels-last like the activations."""
        if tensor.dim() == 4 and not stored:
            tensor = tensor.permute(0, 2, 3, 1)
        public = not tensor.is_floating_point()
        name = f"{layer}/{'mask' if public else 'weight'}{next(self.numbers)}"
        array = np.array(tensor.cpu() if public else tensor.float().cpu())  # a copy, contiguous
        (self.masks if public else self.weights)[name] = np.ascontiguousarray(array)
        self.shapes[name] = array.shape
        return name

    def _unsupported(self, node: fx.Node, reason: str) -> UserError:
        return UserError(f"{self.network} can't be run privately: {layer_of(node)} {reason}")

    # -- the whole --------------------------------------------------------------------------------------------

    def finish(self) -> Lowered:
        used = {name for draft in self.drafts for op in draft.ops for name in refs(op.args)} | {self.logits}
        made_by = {op.output: draft for draft in self.drafts for op in draft.ops}
        layers = tuple(self._layer(draft, made_by) for draft in self.drafts)
        program = Program(
            network=self.network,
            image=self.image,
            logits=self.logits,
            layers=layers,
            shapes={name: shape for name, shape in self.shapes.items() if name in used or name == self.image},
        )
        return Lowered(program=program, weights=self.weights, masks=self.masks)

    def _layer(self, draft: _Draft, made_by: Mapping[str, _Draft]) -> Layer:
        mentioned = list(dict.fromkeys(name for op in draft.ops for name in refs(op.args)))
        elsewhere = {
            name for other in self.drafts if other is not draft for op in other.ops for name in refs(op.args)
        } | {self.logits}
        return Layer(
            name=draft.name,
            kind=self._kind(draft),
            ops=tuple(draft.ops),
            inputs=tuple(n for n in mentioned if n == self.image or made_by.get(n) not in (None, draft)),
            weights=tuple(n for n in mentioned if n in self.weights),
            outputs=tuple(op.output for op in draft.ops if op.output in elsewhere),
        )

    def _kind(self, draft: _Draft) -> str:
        kinds = {self._kind_of(op) for op in draft.ops}
        return next(kind for kind in KINDS if kind in kinds)

    def _kind_of(self, op: Op) -> str:
        """A product with a number of the server's is a scaling; one with a public number is as cheap as a sum."""
        kind = KIND_OF[op.name]
        if op.name == "mul":
            others = [value.name if isinstance(value, Ref) else None for value in op.args[:2]]
            if None in others or any(name in self.masks for name in others):
                return "add"
            return "scale" if any(name in self.weights for name in others) else "product"
        if op.name == "clamp" and op.args[1] == 0:
            return "relu6" if len(op.args) > 2 and op.args[2] is not None else "relu"
        return "relu" if op.name == "clamp_min" and op.args[1] == 0 else kind


def _factors(name: str, args: list[Any]) -> tuple[Any, Any, Any]:
    """Image, weight and bias among the arguments of an operation that multiplies."""
    if name == "convolution":
        return args[0], args[1], args[2]
    return (args[1], args[2], args[0]) if name == "addmm" else (args[0], args[1], None)


def _arguments(node: fx.Node) -> list[Any]:
    """All arguments of a call in the order of the operation's schema, defaults included."""
    assert isinstance(node.target, OpOverload)
    given = list(node.args)
    for argument in node.target._schema.arguments[len(given) :]:
        given.append(node.kwargs[argument.name] if argument.name in node.kwargs else argument.default_value)
    return given


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(int(n) for n in first.shape) if isinstance(first, Tensor) else None


def _stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a tensor that PyTorch has as (batch, channels, height, width), channels-last; of others, the same."""
    return (shape[0], shape[2], shape[3], shape[1]) if len(shape) == 4 else shape
