"""Run a copy of a module on a few images: outputs, gradients, statistics, random draws and executed ReLUs."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from deepreduce.errors import ModelError
from deepreduce.network.copying import copy_module
from deepreduce.network.meta_run import execute, tensors_in
from deepreduce.network.operations import Role, operations_of, output_elements, relu_kind

_FILLS = operations_of(Role.FILL)  # their values do not depend on the images
_SEED = 20210707


def copy_for_trial(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module, without its gradients. Raises `ModelError` if it can't be copied."""
    try:
        copied = copy_module(module)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} can't be copied ({' '.join(str(error).split())[:160]}), and every reduced"
            " network is a copy: keep what copy.deepcopy refuses (locks, open files, generators) out of the module"
        ) from error
    for parameter in copied.parameters():
        parameter.grad = None
    return copied


@contextmanager
def seeded() -> Iterator[None]:
    """Seed torch, numpy and Python's `random`; restore their states at the end."""
    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if _uses_cuda() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_SEED)
        random.seed(_SEED)
        np.random.seed(_SEED)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def random_state() -> str:
    """Return a digest of the random states of torch, numpy and Python: it differs if more or fewer were drawn."""
    digest = hashlib.blake2b(torch.get_rng_state().numpy().tobytes(), digest_size=16)
    name, keys, *position = np.random.get_state(legacy=True)
    digest.update(repr((name, list(keys), position, random.getstate())).encode())
    if _uses_cuda():
        digest.update(torch.cuda.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class DrawsByShape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Make each of torch's random draws depend on its operation and sizes only, not on earlier draws."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            sizes = repr((str(func), [tuple(tensor.shape) for tensor in tensors_in(args)])).encode()
            torch.manual_seed(int.from_bytes(hashlib.blake2b(sizes, digest_size=7).digest(), "little"))
        return func(*args, **(kwargs or {}))


class ReluCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the elements of every ReLU that executes on something computed from the images.

    Of a ReLU between whose output and input `torch.where` chooses, the elements that are chosen count: a masked
    site. `by_path` counts by the innermost module that runs, if `paths` follows the calls of the modules.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_path: dict[str, int] = {}
        self.stack: list[str] = [""]
        self._last: tuple[Tensor, Tensor] | None = None  # output and input of the last ReLU
        self._computed = {_storage(images)}  # storages, which views share

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to mark the method below as not to be compiled, torch would import its compiler

    @property
    def elements(self) -> int:
        """Elements of all ReLUs, of the whole batch."""
        return sum(self.by_path.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = args + tuple((kwargs or {}).values())
        before = {_storage(tensor) for tensor in tensors_in(given)}
        is_computed = not self._computed.isdisjoint(before) and func.overloadpacket.__name__ not in _FILLS
        out = execute(func, args, kwargs or {})
        for tensor in tensors_in(out):
            if is_computed:
                self._computed.add(_storage(tensor))
            elif _storage(tensor) not in before:
                self._computed.discard(_storage(tensor))  # memory that an activation has left
        if is_computed and relu_kind(func, given) is not None:
            self._add(output_elements(out))
            self._last = (out, args[0])
        if self._last is not None and func is torch.ops.aten.where.self and not args[0].is_meta:
            if args[1] is self._last[0] and args[2] is self._last[1]:
                self._add(int(args[0].expand(out.shape).sum()) - out.numel())
        return out

    def _add(self, elements: int) -> None:
        path = self.stack[-1]
        self.by_path[path] = self.by_path.get(path, 0) + elements

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Keep the path of the innermost of the module's parts that runs on top of `stack`."""

        def enter(path: str, *_: Any) -> None:
            self.stack.append(path)

        def leave(*_: Any) -> None:
            self.stack.pop()

        with hooked(module, before=enter, after=leave):
            yield


@contextmanager
def hooked(
    module: nn.Module,
    *,
    before: Callable[[str, Any], None] | None = None,
    after: Callable[[str, Any, Any], None] | None = None,
) -> Iterator[None]:
    """Call `before` (path, arguments) and `after` (path, arguments, output) around every part of `module` that runs.

    Scripted parts take no hooks and are left out.
    """
    handles = []
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue
        if before is not None:
            handles.append(part.register_forward_pre_hook(partial(_call_before, before, path)))
        if after is not None:
            handles.append(part.register_forward_hook(partial(_call_after, after, path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call_before(call: Callable[[str, Any], None], path: str, part: nn.Module, args: Any) -> None:
    call(path, args)


def _call_after(call: Callable[[str, Any, Any], None], path: str, part: nn.Module, args: Any, output: Any) -> None:
    call(path, args, output)


def _storage(tensor: Tensor) -> int:
    storage: int = tensor.untyped_storage()._cdata
    return storage


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The record of one run of a module: its output tensors by key, and what the run left behind.

    `gradients` and `buffers` are by name; `draws` is the random state after the run. `returned` is the number
    of tensors that training mode returned. `relus` are the executed ReLUs
    of the whole batch; None if they were not counted.
    """

    outputs: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None] = field(default_factory=dict)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    draws: str = ""
    returned: int = 0
    relus: int | None = None


def run_eval(module: nn.Module, images: Tensor, *, count: bool = False) -> Trial:
    """Run a module in evaluation mode; it may keep changes. With `count`, count the ReLUs that execute."""
    module.eval()
    images = images.clone()  # a network may overwrite its input
    counter = ReluCounter(images) if count else None
    with seeded(), torch.no_grad(), counter or nullcontext(), deterministic():
        outputs = named_outputs(module(images))
    return Trial(outputs=outputs, relus=None if counter is None else counter.elements)


def run_training(
    module: nn.Module, images: Tensor, *, main: Sequence[str] | None = None, draws_by_shape: bool = False
) -> Trial:
    """Run a module forward and backward in training mode; it keeps its changes.

    `main` are the keys of the outputs that are recorded and make up the loss (None: all); if one is not there, as
    many of the first outputs are taken. With `draws_by_shape`, each random draw depends on its sizes only.
    """
    module.train()
    by_shape = DrawsByShape() if draws_by_shape else nullcontext()  # type: ignore[no-untyped-call]
    with seeded(), by_shape, deterministic(), torch.enable_grad():
        outputs = named_outputs(module(images.clone()))
        draws = random_state()
        returned = len(outputs)
        if main is not None:
            keys = list(main) if set(main) <= outputs.keys() else list(outputs)[: len(main)]
            outputs = {known: outputs[key] for known, key in zip(main, keys, strict=False)}
        loss = sum((_loss(output) for output in outputs.values()), torch.zeros(()))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    return Trial(
        outputs={key: output.detach() for key, output in outputs.items()},
        returned=returned,
        gradients={name: parameter.grad for name, parameter in module.named_parameters()},
        buffers={name: buffer.detach() for name, buffer in module.named_buffers()},
        draws=draws,
    )


def _loss(output: Tensor) -> Tensor:
    """Return a weighted sum of an output's values, with weights that depend on its sizes only."""
    if not output.is_floating_point():
        return torch.zeros(())
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(output.numel()))
    return (output.float() * weights.to(output.device)).sum().cpu()


def named_outputs(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a network's output by their keys in tuples, lists and dictionaries; "" for a tensor."""
    leaves, _ = tree_flatten_with_path(value)
    return {keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def tensor_leaves(value: Any) -> tuple[Tensor, ...]:
    """Return the tensors of a network's output: of tuples, lists and dictionaries, in order."""
    return tuple(leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


@contextmanager
def deterministic() -> Iterator[None]:
    """Have cuDNN choose algorithms that give the same values each time, and run compiled parts as written."""
    as_written = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with as_written, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@torch.no_grad()
def fill_zeros(module: nn.Module, names: Mapping[str, str]) -> None:
    """Give parameters that are all zero small values, which hide no part of the network behind a factor of zero.

    `names` maps names in the module to names by which the values are drawn, the same for both modules compared.
    """
    for name, parameter in module.named_parameters():
        if name not in names or parameter.is_meta or not parameter.is_floating_point():
            continue
        if not bool(parameter.any()):
            seed = int.from_bytes(hashlib.blake2b(names[name].encode(), digest_size=7).digest(), "little")
            values = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(seed))
            parameter.copy_(0.1 + 0.2 * values)
