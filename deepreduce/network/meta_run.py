"""Run a traced graph once without data: on the meta device, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepreduce.errors import ModelError
from deepreduce.network.copying import copy_to_meta

AnyInterpreter = TypeVar("AnyInterpreter", bound=fx.Interpreter)


def run_without_data(
    graph_module: fx.GraphModule,
    input_shape: tuple[int, ...],
    *,
    name: str,
    interpreter: Callable[[fx.GraphModule], AnyInterpreter],
    batch: int = 1,
) -> AnyInterpreter:
    """Run `batch` images of `input_shape` through the graph on the meta device and return the interpreter that ran.

    The graph is in evaluation mode. If it can't run on the meta device, it runs on its own device, on zeros: two
    images if `batch` is more than one. Raises `ModelError` if the network takes several inputs or can't take an image
    of this shape.
    """
    placeholders = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
    required = [n for n in placeholders if not n.args]
    if len(required) != 1:
        raise ModelError(
            f"{name} takes {len(required)} inputs ({', '.join(n.name for n in required)}); deepreduce reduces"
            " networks that take one image: wrap it in a module that fixes the others"
        )
    dtype = next((p.dtype for p in graph_module.parameters() if p.is_floating_point()), torch.float32)
    attempts = [lambda: (on_meta(graph_module), torch.empty((batch, *input_shape), dtype=dtype, device="meta"))]
    if all(p.device.type != "meta" for p in graph_module.parameters()):
        device = next((p.device for p in graph_module.parameters()), torch.device("cpu"))
        shape = (min(batch, 2), *input_shape)
        attempts.append(lambda: (graph_module, torch.zeros(shape, dtype=dtype, device=device)))
    failure: Exception | None = None
    for attempt in attempts:
        runnable, image = attempt()  # type: ignore[no-untyped-call]
        modes = {m: m.training for m in runnable.modules()}
        try:
            runnable.eval()
            running = interpreter(runnable)
            with torch.no_grad(), making_on(image.device, graph_module.graph):
                running.run(image)
            return running
        except Exception as error:
            failure = error
        finally:
            for m, mode in modes.items():
                m.training = mode
    raise misfit(name, input_shape, failure) from failure


def misfit(name: str, input_shape: tuple[int, ...], failure: Exception | None) -> ModelError:
    """Return the error to raise for a network that failed on an image of `input_shape`."""
    size = "x".join(str(n) for n in input_shape)
    return ModelError(
        f"{name} can't take an image of {size} (channels x height x width): {_reason(failure)}; give another"
        " input size, or check its channels"
    )


FACTORIES = (
    torch.zeros, torch.ones, torch.empty, torch.full, torch.rand, torch.randn, torch.randint, torch.arange,
    torch.linspace, torch.eye, torch.tensor,
)  # fmt: skip
"""Functions that make tensors; a graph calls them where their arguments depend on the image's size."""


def making_on(device: torch.device, graph: fx.Graph) -> AbstractContextManager[Any]:
    """Return a context in which the graph's calls of factories make tensors on `device`, if they name no other."""
    return torch.device(device) if any(node.target in FACTORIES for node in graph.nodes) else nullcontext()


class QuickExecution(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Run ATen operations by `execute` within the context."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to mark the method below as not to be compiled, torch would import its compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return execute(func, args, kwargs or {})


def execute(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run one ATen operation and return its result."""
    shortcut = None if kwargs else _SHORTCUTS.get(func)
    result = None if shortcut is None else shortcut(*args)
    return func(*args, **kwargs) if result is None else result


def _empty_like(image: Any, *_: Any) -> Tensor | None:
    if not (isinstance(image, Tensor) and image.is_meta and image.is_floating_point()):
        return None
    return image.new_empty(image.shape) if image.is_contiguous() else torch.empty_like(image)


def _sum(one: Tensor, other: Any) -> Tensor | None:
    alike = isinstance(other, Tensor) and _layout(one) == _layout(other)
    return _empty_like(one) if alike else None


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _mean(image: Tensor, dims: Sequence[int] | None, keeps: bool = False) -> Tensor | None:
    if not (dims and image.is_meta and image.is_floating_point() and image.is_contiguous()):
        return None
    if not all(-image.dim() <= dim < image.dim() for dim in dims):
        return None
    gone = {dim % image.dim() for dim in dims}
    sizes = [1 if dim in gone else size for dim, size in enumerate(image.shape) if keeps or dim not in gone]
    return image.new_empty(sizes) if len(gone) == len(dims) else None


def _addmm(bias: Tensor, rows: Tensor, columns: Tensor) -> Tensor | None:
    alike = rows.is_meta and all(t.dtype == rows.dtype and t.is_meta for t in (bias, columns))
    fits = rows.dim() == columns.dim() == 2 and rows.shape[1] == columns.shape[0] and bias.shape == columns.shape[1:]
    return rows.new_empty(len(rows), columns.shape[1]) if alike and fits else None


def _batch_norm(image: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    normalised = _empty_like(image)
    if normalised is None:
        return None
    saved = image.shape[1] if options[4] else 0  # in training, the statistics of the batch
    return normalised, image.new_empty(saved), image.new_empty(saved)


_SHORTCUTS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.relu.default: _empty_like,
    torch.ops.aten.hardtanh.default: _empty_like,
    torch.ops.aten.add.Tensor: _sum,
    torch.ops.aten.mean.dim: _mean,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.native_batch_norm.default: _batch_norm,
}
"""Results of operations on the meta device; None where only torch knows the result.

Torch decomposes these operations in Python. That would take most of the time of a run without data, and the first
decomposition imports torch's compiler, which takes longer than the analysis of a network.
"""


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in an operation's arguments or results, in tuples, lists and dictionaries too."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in tensors_in(item)] if isinstance(value, (tuple, list)) else []


def module_tensors(graph_module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and tensor of every parameter, buffer and constant of the graph.

    A parameter or buffer of several names comes once.
    """
    yield from graph_module.named_parameters()
    yield from graph_module.named_buffers()
    for node in graph_module.graph.nodes:  # constants that the graph holds as plain attributes
        if node.op == "get_attr":
            value = attribute(graph_module, str(node.target))
            if isinstance(value, Tensor):
                yield str(node.target), value


def attribute(root: nn.Module, path: str) -> Any:
    """Return the attribute at a dotted path below a module."""
    value: Any = root
    for part in path.split("."):
        value = getattr(value, part)
    return value


def on_meta(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return the module if it is on the meta device, else a copy there, without allocating or copying weights."""
    tensors = [tensor for _, tensor in module_tensors(graph_module)]
    if all(tensor.is_meta for tensor in tensors):
        return graph_module
    return copy_to_meta(graph_module)


def _reason(error: Exception | None) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
