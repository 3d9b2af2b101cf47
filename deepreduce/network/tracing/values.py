"""The proxies that stand for a forward pass's values while it is traced, and what can be said about these values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.fx.proxy import Attribute

from deepreduce.network.copying import copy_to_meta
from deepreduce.network.inplace import FUNCTIONAL_FORMS
from deepreduce.network.meta_run import FACTORIES, QuickExecution, attribute, tensors_in
from deepreduce.network.tracing.failures import BY_BATCH, BY_VALUES, MisfitError, Unfollowable

_BATCHES = (2, 1, 127)
"""Numbers of images: the usual ones to tell apart, and one that is no layer's size.

What is the same for all three is taken as the same for any number.
"""


_META = torch.device("meta")
_OF_DEVICE: Mapping[str, Callable[[torch.device], Any]] = {
    "device": lambda device: device,
    "is_cuda": lambda device: device.type == "cuda",
    "is_cpu": lambda device: device.type == "cpu",
    "is_meta": lambda device: device.type == "meta",
}
"""Attributes of a tensor that tell where it is."""


class InplaceProxy(fx.Proxy):
    """A proxy that records what overwrites a tensor (`x += y`, `x[...] = y`) as such, which torch.fx does not."""

    def __getattr__(self, k: str) -> Attribute:
        return InplaceAttribute(self, k)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


class InplaceAttribute(InplaceProxy, Attribute):
    """The attribute of a proxy."""

    def __init__(self, root: fx.Proxy, attr: str) -> None:
        Attribute.__init__(self, root, attr)


def _augmented(target: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    name = FUNCTIONAL_FORMS[target].__name__.rstrip("_")  # nodes are named as if nothing were overwritten

    def assign(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {}, name=name)

    return assign


for _target in FUNCTIONAL_FORMS:
    setattr(InplaceProxy, f"__{_target.__name__}__", _augmented(_target))


class ReloadTracer(fx.Tracer):
    """The tracer of torch.fx, which records assignments and the making of tensors too.

    By this tracer a pickled graph is loaded, from its code, in which every call is a node.
    """

    def __init__(self) -> None:
        super().__init__(autowrap_modules=(math,), autowrap_functions=FACTORIES)
        self._autowrap_search.append(torch)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return InplaceProxy(node, self)

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        graph = super().trace(root, concrete_args)
        for node in graph.nodes:
            if node.target in FACTORIES:
                node.meta.pop("is_wrapped", None)  # the graph's code would wrap a function of its own
        return graph


class Value(InplaceProxy):
    """A proxy that answers what is the same for every image and every number of images: sizes, types, lengths."""

    def __getattr__(self, k: str) -> Attribute:
        return ValueAttribute(self, k)

    def _answer(self) -> Any:
        tracer: Any = self.tracer
        return tracer.answer(self)

    def __len__(self) -> int:
        tracer: Any = self.tracer
        length = tracer.runs.length(self.node)
        return len(self._answer()) if length is None else length

    def __int__(self) -> int:
        return int(self._answer())

    def __float__(self) -> float:
        return float(self._answer())

    def __index__(self) -> int:
        return operator.index(self._answer())

    def __round__(self, *digits: int) -> Any:
        return round(self._answer(), *digits)

    def __format__(self, form: str) -> str:
        return format(self._answer(), form) if form else repr(self)


class ValueAttribute(Value, Attribute):
    """The attribute of a value."""

    def __init__(self, root: fx.Proxy, attr: str) -> None:
        Attribute.__init__(self, root, attr)


class Runs:
    """Three runs of the graph that is being traced: on the meta device, each with another number of images.

    The runs follow the trace only when something is asked, and then up to the last call traced.
    """

    def __init__(self, root: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.root, self._shape, self._dtype = root, input_shape, dtype
        self._device = next((p.device for p in root.parameters()), torch.device("cpu"))
        self._waiting: list[fx.Node] = []
        self._values: dict[fx.Node, tuple[Any, ...]] = {}
        self._on_meta_layers: dict[str, nn.Module] = {}
        self.layers: dict[str, nn.Module] = {}
        """Layers that the graph calls and the module does not have: of functions, and layers without their hooks."""
        self._tensors: dict[int, Tensor] = {}
        self.is_running = False

    def add(self, node: fx.Node) -> None:
        """Take note of a call that was traced."""
        self._waiting.append(node)

    def remove(self, node: fx.Node) -> None:
        """Forget a call that is taken out of the graph."""
        self._values.pop(node, None)
        self._waiting = [each for each in self._waiting if each is not node]

    def of(self, node: fx.Node) -> Any:
        """Return the node's value for two images, without data. Raises what running the graph up to it raised."""
        value = self._all(node)[0]
        if isinstance(value, _Failed):
            raise value.error
        return value

    def _all(self, node: fx.Node) -> tuple[Any, ...]:
        waiting, self._waiting = self._waiting, []
        self.is_running = True
        try:
            for each in waiting:
                self._values[each] = tuple(self._run(each, batch) for batch in range(len(_BATCHES)))
        finally:
            self.is_running = False
        return self._values[node]

    def replace(self, node: fx.Node, replacement: fx.Node) -> None:
        """Take a node that was not traced to have the values of one that was."""
        self._values[replacement] = self._all(node)

    def answer(self, node: fx.Node) -> Any:
        """Return the node's value.

        Raises `Unfollowable` where it differs from image to image or from batch to batch.
        """
        value = self.of(node)
        if tensors_in(value):
            raise Unfollowable(BY_VALUES)
        if any(type(other) is not type(value) or other != value for other in self._all(node)[1:]):
            raise Unfollowable(BY_BATCH)
        return value

    def length(self, node: fx.Node) -> int | None:
        """Return the number of parts of a tuple, list or tensor; None for other values.

        Raises `Unfollowable` where that depends on the number of images.
        """
        value, *others = self.of(node), *self._all(node)[1:]
        if not isinstance(value, (tuple, list, Tensor)) or (isinstance(value, Tensor) and not value.dim()):
            return None
        if any(type(other) is not type(value) or len(other) != len(value) for other in others):
            raise Unfollowable(BY_BATCH)
        return len(value)

    def _run(self, node: fx.Node, batch: int) -> Any:
        failed = [self._values[n][batch] for n in node.all_input_nodes if isinstance(self._values[n][batch], _Failed)]
        if failed:
            return failed[0]
        args, kwargs = map_aggregate(
            (node.args, node.kwargs),
            lambda value: self._values[value][batch] if isinstance(value, fx.Node) else value,
        )
        try:
            with torch.no_grad(), QuickExecution():  # type: ignore[no-untyped-call]
                return self._execute(node, args, kwargs, batch)
        except Exception as error:
            if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
                return _Failed(Unfollowable(BY_VALUES))
            return _Failed(MisfitError(str(error)))

    def _execute(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int) -> Any:
        target: Any = node.target
        if node.op == "placeholder":
            return torch.empty((_BATCHES[batch], *self._shape), dtype=self._dtype, device="meta")
        if node.op == "get_attr":
            value = attribute(self.root, target)
            return self._on_meta(value) if isinstance(value, Tensor) else value
        if node.op == "call_module":
            if target not in self._on_meta_layers:
                self._on_meta_layers[target] = copy_to_meta(
                    self.layers.get(target) or self.root.get_submodule(target)
                ).eval()
            return self._on_meta_layers[target](*args, **kwargs)
        if target is getattr and isinstance(args[0], Tensor) and args[1] in _OF_DEVICE:
            return _OF_DEVICE[args[1]](self._device)  # the network's own device, not this run's
        if target is not getattr and not getattr(target, "__module__", "") == "_operator":
            args, kwargs = map_aggregate((args, kwargs), self._here)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if target in FACTORIES and "device" not in kwargs:
            return target(*args, **kwargs, device="meta")
        return target(*args, **kwargs)

    def _here(self, value: Any) -> Any:
        """Return the device of this run where the network's own is named."""
        return _META if type(value) is torch.device and value == self._device else value

    def _on_meta(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = tensor.detach().to("meta")
        return self._tensors[id(tensor)]


class _Failed:
    """What stands for the value of a call that could not be run without data."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def proxies_in(value: Any) -> Iterator[fx.Proxy]:
    """Yield the proxies in a value, in tuples, lists and dictionaries too."""
    if issubclass(type(value), fx.Proxy):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from proxies_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from proxies_in(item)
