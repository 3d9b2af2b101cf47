"""Run a graph once without data and record what each call executes: shapes, ReLUs, multiply-accumulates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepreduce.network.meta_run import execute, module_tensors, run_without_data, tensors_in
from deepreduce.network.network import LinearLayer
from deepreduce.network.operations import Role, cap_of, classify, mac_count, operations_of, output_elements
from deepreduce.network.site_layer import site_layer_of

_BATCH = 127
"""Images that run. No layer has a size that is a multiple of it, so that the batch is found in any shape."""


@dataclass(frozen=True, kw_only=True)
class ObservedRelu:
    """The record of a ReLU's call, with the fields of a `ReluSite`."""

    kind: str
    cap: float | None = None
    has_batch: bool = True


@dataclass(kw_only=True)
class Observation:
    """The record of one run of a graph; shapes and counts are for one image, without the batch dimension."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    relus: dict[str, ObservedRelu] = field(default_factory=dict)
    linear_layers: list[LinearLayer] = field(default_factory=list)
    unsupported: Counter[str] = field(default_factory=Counter)
    unsupported_elements: Counter[str] = field(default_factory=Counter)
    starved: list[str] = field(default_factory=list)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """Shape of the only output; None for a network of several outputs."""
        return self.outputs.get("output")


class _Constants:
    """The tensors that do not depend on the image: weights, buffers, and what is computed from these alone."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        # by their storage, which views share; kept alive, so that no activation gets the same one
        self._tensors = {_storage(tensor): tensor for _, tensor in module_tensors(graph_module)}

    def __contains__(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._tensors

    def update(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """Add the results of an operation, or remove them where an activation was written into them."""
        name = func.overloadpacket.__name__
        is_constant = name in _FILLS or all(tensor in self for tensor in tensors_in(args))
        for tensor in tensors_in(out):
            if is_constant:
                self._tensors[_storage(tensor)] = tensor
            else:
                self._tensors.pop(_storage(tensor), None)


_FILLS = operations_of(Role.FILL)  # their in-place forms may fill a part of an activation


def _storage(tensor: Tensor) -> int:
    storage: int = tensor.untyped_storage()._cdata
    return storage


class _OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A log of the ATen operations that execute: non-linearities with their elements, multiply-accumulates."""

    def __init__(self, constants: _Constants) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.constants = constants
        self.calls = 0
        self.kinds: list[tuple[str, int]] = []
        self.cap: float | None = None  # of the last ReLU
        self.macs = 0
        self.starved = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to mark the method below as not to be compiled, torch would import its compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = execute(func, args, kwargs or {})
        self.calls += 1
        given = args + tuple((kwargs or {}).values())
        depends_on_image = any(tensor not in self.constants for tensor in tensors_in(given))
        kind = classify(func, given, is_activation=lambda tensor: tensor not in self.constants)
        self.constants.update(func, given, out)
        if not depends_on_image:
            return out  # computed once for all images
        if kind is not None:
            self.kinds.append((kind, output_elements(out)))
        if kind == "relu6":
            self.cap = cap_of(func, given)
        self.macs += mac_count(func, args, out)
        if func.overloadpacket.__name__ == "convolution" and not args[6]:
            self.starved |= any(s > n for s, n in zip(args[3], args[0].shape[2:], strict=False))
        return out


class _Observer(fx.Interpreter):
    """An interpreter that runs a graph node by node and records the operations that each node executes."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=True)
        self.observation = Observation()
        self.constants = _Constants(graph_module)
        self.batch = 1

    def run_node(self, n: fx.Node) -> Any:
        with _OperationLog(self.constants) as log:
            result = super().run_node(n)
        if n.op == "placeholder" and isinstance(result, Tensor):
            self.batch = len(result)
        self._record(n, result, log)
        return result

    def _shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Return a tensor's shape for one image: without the batch, or with the part of it that is one image's."""
        if not tensor.dim():
            return ()
        if tensor.shape[0] == self.batch or tensor in self.constants:
            return tuple(tensor.shape[1:])
        sizes = list(tensor.shape)
        folded = next((i for i, size in enumerate(sizes) if size % self.batch == 0), None)
        if folded is not None:
            sizes[folded] //= self.batch
        return tuple(sizes)

    def _per_image(self, count: int) -> int:
        return -(-count // self.batch)

    def _record(self, node: fx.Node, result: Any, log: _OperationLog) -> None:
        seen = self.observation
        if isinstance(result, Tensor):
            seen.shapes[node.name] = self._shape(result)
        kinds = [kind for kind, _ in log.kinds]
        layer = site_layer_of(node, self.module)
        # a site is one ReLU and nothing else, so that linearizing it leaves its input, or a layer that replaced one
        is_relu = kinds in (["relu"], ["relu6"]) and log.calls == 1
        if is_relu or layer is not None:
            kind, cap = (kinds[0], log.cap) if layer is None else (layer.kind, layer.cap)
            has_batch = result.dim() > 0 and result.shape[0] == self.batch
            seen.relus[node.name] = ObservedRelu(kind=kind, cap=cap, has_batch=has_batch)
        if not is_relu:
            for kind, elements in log.kinds:
                if layer is not None and kind in ("relu", "relu6", "where"):
                    continue  # the site layer itself counts its comparisons
                inside = f"{kind} inside {_target_name(node, self.module)}" if kind in ("relu", "relu6") else kind
                seen.unsupported[inside] += 1
                seen.unsupported_elements[inside] += self._per_image(elements)
        if log.macs:
            seen.linear_layers.append(
                LinearLayer(
                    name=_layer_name(node),
                    node=node.name,
                    macs=self._per_image(log.macs),
                    shape=seen.shapes.get(node.name, ()),
                )
            )
        if log.starved:
            seen.starved.append(_layer_name(node))
        if node.op == "output":
            seen.outputs = {name: self._shape(tensor) for name, tensor in _named_outputs(result)}


def _named_outputs(result: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every output tensor of a network, named by its key or index; a single one is named "output"."""
    if isinstance(result, Tensor):
        yield name or "output", result
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(result, Mapping):
        items = result.items()
    elif isinstance(result, (tuple, list)):
        items = zip(getattr(result, "_fields", range(len(result))), result, strict=True)
    for key, value in items:
        yield from _named_outputs(value, f"{name}.{key}" if name else str(key))


def _layer_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _target_name(node: fx.Node, root: nn.Module) -> str:
    return type(root.get_submodule(str(node.target))).__name__ if node.op == "call_module" else node.name


def observe(
    graph_module: fx.GraphModule, input_shape: tuple[int, ...], *, name: str, batch: int = _BATCH
) -> Observation:
    """Run images of `input_shape` through the graph without data and return the record of the run.

    Several images run (`batch`), so that the batch is told from a dimension of size one. Raises `ModelError` if the
    images do not fit.
    """
    return run_without_data(graph_module, input_shape, name=name, interpreter=_Observer, batch=batch).observation
