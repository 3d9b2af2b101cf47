"""The tracer: it follows one call of a module, with its hooks, wrappers and optional arguments, into a graph."""

from __future__ import annotations

import builtins
import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from deepreduce.errors import ModelError
from deepreduce.network.module_kinds import (
    has_hooks,
    has_own_hooks,
    has_tensors,
    is_layer_of_torch,
    returns_its_input,
    wrapped_module,
)
from deepreduce.network.site_layer import SiteLayer
from deepreduce.network.tracing.calls import FunctionCall, ModeCall, UncountedNorm
from deepreduce.network.tracing.contexts import autograd_functions, compiled_functions, types_asked
from deepreduce.network.tracing.failures import Unfollowable, calling_line, line_of
from deepreduce.network.tracing.state import Kept, hooks_of
from deepreduce.network.tracing.values import ReloadTracer, Runs, Value, proxies_in

LINE = "deepreduce_line"
"""Key in a node's `meta` of the line of the network's code that made the call."""
WITHOUT_GRADIENT = "deepreduce_without_gradient"
"""Key in a node's `meta`: the call was made under `torch.no_grad`."""

_OWN_LAYERS = (SiteLayer, FunctionCall, ModeCall, UncountedNorm)


class NetworkTracer(ReloadTracer):
    """Trace one call of a module with one batch of images, as `module(images)` executes it.

    Layers of torch stay whole, and so do site layers and stochastic layers, to work in training.
    """

    def __init__(self, root: nn.Module, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.input_name = image_argument(root)
        dtype = next((p.dtype for p in root.parameters() if p.is_floating_point()), torch.float32)
        self.runs = Runs(root, input_shape, dtype)
        self._parameters = {id(parameter): name for name, parameter in root.named_parameters()}
        self._whole: set[str] = set()
        self._buffers = {id(buffer): (buffer, name) for name, buffer in root.named_buffers()}
        self._layers = self.runs.layers
        self._keeps_hooks: set[str] = set()

    def follow(self, root: nn.Module) -> fx.Graph:
        """Return the graph of `root(images)`; constants and calls of autograd functions become attributes of it."""
        self._autocast = _autocast_state()
        with (
            warnings.catch_warnings(),
            torch.enable_grad(),
            autograd_functions(self.call_function),
            compiled_functions(),
            types_asked(self.runs) as watch,
        ):
            warnings.simplefilter("ignore")  # of torch and of forward, about values that are proxies
            self._watch = watch
            graph = super().trace(root)
        for path, layer in self._layers.items():
            parent, _, name = path.rpartition(".")
            root.get_submodule(parent)._modules[name] = layer
        return graph

    # -- the call of the network ----------------------------------------------------------------------------

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        def call(images: Any) -> Any:
            return self.root(images)

        return call, [self.create_proxy("placeholder", self.input_name, (), {})]

    # -- calls of modules -----------------------------------------------------------------------------------

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.runs.is_running:
            return forward(*args, **kwargs)
        inner = wrapped_module(m)
        if inner is not None:
            if has_hooks(m):
                raise Unfollowable(
                    f"{self._name(m)} wraps a module and has hooks; register them on the wrapped module"
                )
            return inner(*args, **kwargs)
        if not isinstance(m, torch.jit.ScriptModule):
            self._watch(m)
        if m is self.root:
            return self._pass_through(m, args, kwargs)
        assert self.submodule_paths is not None
        path = self.submodule_paths.get(m)
        if path is None:
            return self._call_unregistered(m, args, kwargs)
        if self._is_whole(m, args, kwargs):
            self._whole.add(path)
        call = self._call_hooked if path in self._whole and has_own_hooks(m) else self._pass_through
        return super().call_module(m, lambda *a, **k: call(m, a, k), args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._whole and not has_own_hooks(m)

    def _is_whole(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if isinstance(layer, torch.jit.ScriptModule):
            return True
        if isinstance(layer, _OWN_LAYERS) or is_layer_of_torch(layer):
            return True
        if len(args) != 1 or kwargs or not issubclass(type(args[0]), Value):
            return False
        if has_tensors(layer) or any(True for _ in layer.children()):
            return False
        try:
            probe = self.runs.of(args[0].node)
        except Exception:  # what can't be run without data is traced
            return False
        return isinstance(probe, Tensor) and returns_its_input(layer, probe)

    def _pass_through(self, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module with its hooks, to trace what it does."""
        before, hooks = _random_state(), Kept(hooks_of(m))
        result = m._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
        if hooks.has_changed():
            raise Unfollowable(
                f"a hook of {self._name(m)} changes state of its own, which a graph would not: remove the hook, or"
                " let it compute from its input alone",
                line="",
            )
        if before != _random_state() and not m.training:
            raise Unfollowable(
                f"{self._name(m)} draws random numbers that depend on no tensor of its input, and a graph would"
                " repeat the same ones: draw them with torch.rand_like or torch.nn.functional.dropout",
                line=line_of(type(m).forward),
            )
        return result

    def _call_hooked(self, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace the hooks of a layer that stays whole; the graph then calls a layer without them.

        Hooks that can't be traced, or that change state of their own or of the layer (as its weight), stay with it.
        """
        path = self.path_of_module(m)

        def call(*given: Any, **named: Any) -> Any:
            return self.create_proxy("call_module", path, given, named)

        if path in self._keeps_hooks:
            return call(*args, **kwargs)
        last, state = next(reversed(self.graph.nodes)), Kept([m])
        vars(m)["forward"] = call
        try:
            result = m._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
            if not state.has_changed() and not any(True for _ in proxies_in(vars(m))):
                self._layers.setdefault(path, without_hooks(m))
                return result
        except Exception:  # what a hook of any user raises
            if path in self._layers:
                raise
        finally:
            vars(m).pop("forward")
        state.put_back()
        for node in reversed(list(self.graph.nodes)):
            if node is last:
                break
            if node.op != "get_attr":  # the trace may use it again
                self.runs.remove(node)
                self.graph.erase_node(node)
        self._keeps_hooks.add(path)
        return call(*args, **kwargs)

    def _call_unregistered(self, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a module that is no part of the network, which works for one without weights."""
        if has_tensors(m) or isinstance(m, torch.jit.ScriptModule):
            raise Unfollowable(
                f"{self._where_held(m)} is not registered in the network, so that its weights are neither trained nor"
                " saved: hold such modules in an nn.ModuleList or nn.ModuleDict"
            )
        return self._pass_through(m, args, kwargs)

    def _where_held(self, m: nn.Module) -> str:
        """Name the attribute that holds a module which is not registered."""
        for path, owner in self.root.named_modules():
            for name, value in vars(owner).items():
                if name != "_modules" and any(item is m for item in _items(value)):
                    return f"the {type(m).__name__} in {'.'.join(filter(None, (path, name)))}"
        return f"the {type(m).__name__} that forward calls"

    def _name(self, m: nn.Module) -> str:
        path = (self.submodule_paths or {}).get(m, "")
        return f"{path} ({type(m).__name__})" if path else type(m).__name__

    def call_function(self, function: type[torch.autograd.Function], args: Any, kwargs: Any) -> Any:
        """Record the call of an autograd function, whose gradient is its own, as that of a layer."""
        if function.__module__ == "torch.utils.checkpoint":  # (function, whether to keep the random state, arguments)
            return args[0](*args[2:])
        number = 0
        while hasattr(self.root, path := f"_function{number}") or path in self._layers:
            number += 1
        self._layers[path] = FunctionCall(function)
        return self.create_proxy("call_module", path, args, kwargs, name=function.__name__.lower())

    # -- values ---------------------------------------------------------------------------------------------

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Value(node, self)

    def answer(self, value: Value) -> Any:
        """Return what the forward pass asks of a value, if it is the same for every image and number of images."""
        return self.runs.answer(value.node)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.runs.answer(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        length = self.runs.length(obj.node)
        if length is None:
            return builtins.iter(self.runs.answer(obj.node))
        value: Any = obj
        return builtins.iter([value[i] for i in range(length)])

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.runs.is_running or not isinstance(attr_val, nn.Parameter):
            return attr_val
        name = self._parameters.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def create_arg(self, a: Any) -> Any:
        if issubclass(type(a), fx.Proxy):
            return a.node
        name = self._parameters.get(id(a)) or self._buffers.get(id(a), (None, ""))[1]
        if name:
            return self.create_node("get_attr", name, (), {})
        if isinstance(a, nn.Parameter):
            raise Unfollowable(
                f"a parameter of shape {tuple(a.shape)} is not registered in the network, so that it is neither"
                " trained nor saved: hold it as an attribute of a module, or in an nn.ParameterList"
            )
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        if not torch.is_grad_enabled():
            node.meta[WITHOUT_GRADIENT] = True
        if kind.startswith("call_"):
            node.meta[LINE] = calling_line()
            if _autocast_state() != self._autocast:
                raise Unfollowable(
                    "it changes the precision (torch.autocast) within forward, which a graph does not keep: take the"
                    " context out of forward"
                )
        self.runs.add(node)
        return node


def image_argument(module: nn.Module) -> str:
    """Return the name of the argument of forward that takes the images; all others must have defaults.

    Raises `ModelError` where `module(images)` can't be called.
    """
    inner = wrapped_module(module)
    if inner is not None:
        return image_argument(inner)
    kinds = inspect.Parameter
    parameters = list(inspect.signature(module.forward).parameters.values())
    named = [
        p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD, kinds.VAR_POSITIONAL)
    ]
    required = [
        p for p in parameters if p.default is kinds.empty and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    if len(required) > 1 or not named or (required and required[0] is not named[0]):
        names = ", ".join(p.name for p in required)
        raise ModelError(
            f"{type(module).__name__} takes {len(required)} inputs ({names}); deepreduce reduces networks that take"
            " one image: wrap it in a module that fixes the others"
        )
    return named[0].name


def without_hooks(layer: nn.Module) -> nn.Module:
    """Return a module that shares everything with a layer but its forward hooks."""
    bare = layer.__class__.__new__(layer.__class__)
    vars(bare).update({name: value for name, value in vars(layer).items() if name != "forward"})
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        vars(bare)[name] = type(vars(layer)[name])()
    for name in ("_parameters", "_buffers", "_modules"):
        vars(bare)[name] = vars(layer)[name].copy()
    return bare


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _items(item)
    else:
        yield value


def _random_state() -> tuple[Any, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _autocast_state() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
