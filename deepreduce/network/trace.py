"""Turn a module into a `Network`: trace its graph, run it once without data, name its ReLU sites."""

from __future__ import annotations

import copy
import linecache
import math
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from deepreduce.errors import NetworkTraceError
from deepreduce.models.spec import ModelSpec
from deepreduce.network.branching import block_outputs, joining_modules, module_stack
from deepreduce.network.meta_run import execute, module_tensors, on_meta, run_without_data, tensors_in
from deepreduce.network.network import SITE, LinearLayer, Network, ReluSite
from deepreduce.network.operations import Role, cap_of, classify, mac_count, operations_of, output_elements
from deepreduce.network.site_layer import SiteLayer, site_layer_of
from deepreduce.network.stages import SiteDraft, assign_stages

# a call of these is one layer: tracing their inside gains nothing and fails for some
_LEAF_CLASSES = {"StochasticDepth", "DropBlock2d", "DropBlock3d", "DropPath"}


class _Tracer(fx.Tracer):
    """The tracer of torch.fx, except that site layers stay whole, and stochastic layers, to work in training."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_whole = isinstance(m, SiteLayer) or type(m).__name__ in _LEAF_CLASSES
        return is_whole or super().is_leaf_module(m, module_qualified_name)


def trace_network(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str | None = None,
    spec: ModelSpec | None = None,
    stages: Mapping[str, Sequence[str]] | None = None,
) -> Network:
    """Return the `Network` of `module` for one image of `input_shape` (C, H, W); the module is shared, not changed.

    The module is traced in evaluation mode on the meta device, without data or arithmetic; of `if self.training:`
    the network keeps the evaluation branch. `stages` maps stage names to patterns of site names. Raises
    `NetworkTraceError`, with the line, if the forward pass depends on the values of tensors, and `ModelError` if the
    network can't take the input or the stages don't fit.
    """
    name = name or (spec.name if spec else type(module).__name__)
    was_training = {m: m.training for m in module.modules()}
    module.eval()
    try:
        tracer = _Tracer()
        graph = _trace_graph(tracer, module, name)
        graph_module = fx.GraphModule(module, graph, class_name=type(module).__name__)
        _make_dropout_trainable(graph_module)
        _let_views_copy(graph_module)
        observed = observe(graph_module, input_shape, name=name)
    finally:
        for m, mode in was_training.items():
            m.training = mode
    name_sites(graph_module, observed, module, declared=spec is not None and spec.is_zoo, patterns=stages)
    for m in graph_module.modules():
        m.training = was_training.get(m, module.training)  # the network's own modules keep their modes
    network = describe(graph_module, observed, input_shape, name=name, spec=spec)
    return replace(network, stage_patterns=freeze_stages(stages))


def freeze_stages(stages: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]] | None:
    """Return an independent copy of the user's stages, with tuples of patterns."""
    return None if stages is None else {stage: tuple(patterns) for stage, patterns in stages.items()}


def describe(
    graph_module: fx.GraphModule,
    observed: Observation,
    input_shape: tuple[int, int, int],
    *,
    name: str,
    spec: ModelSpec | None,
    stages: tuple[str, ...] | None = None,
) -> Network:
    """Return the `Network` of a graph whose sites have names; `stages` may list stages without sites left."""
    sites = []
    for node in graph_module.graph.nodes:
        if SITE in node.meta and node.name in observed.relus:
            site_name, stage, block = node.meta[SITE]
            shape, relu = observed.shapes[node.name], observed.relus[node.name]
            site = ReluSite(
                name=site_name,
                stage=stage,
                block=block,
                shape=shape,
                relu_count=math.prod(shape),
                kind=relu.kind,
                node=node.name,
                cap=relu.cap,
                has_batch=relu.has_batch,
            )
            layer = site_layer_of(node, graph_module)
            sites.append(site if layer is None else replace(site, relu_count=layer.action.relu_count(site)))
    return Network(
        name=name,
        module=graph_module,
        input_shape=input_shape,
        output_shape=observed.output_shape,
        stages=stages if stages is not None else tuple(dict.fromkeys(site.stage for site in sites)),
        sites=tuple(sites),
        linear_layers=tuple(observed.linear_layers),
        unsupported=dict(observed.unsupported),
        unsupported_elements=dict(observed.unsupported_elements),
        node_shapes=observed.shapes,
        starved_layers=tuple(observed.starved),
        spec=spec,
        outputs=observed.outputs,
    )


# -- tracing the graph --------------------------------------------------------------------------------------


def _trace_graph(tracer: _Tracer, module: nn.Module, name: str) -> fx.Graph:
    try:
        return tracer.trace(module)
    except Exception as error:
        where = _user_line(error)
        raise NetworkTraceError(
            f"{name} can't be traced{where}: {_first_line(error)}. The graph must not depend on the values or"
            " shapes of tensors: move that code out of forward, or put it in a function marked with"
            " torch.fx.wrap (which then counts as one layer)"
        ) from error


_NOT_THE_USERS = tuple(str(Path(file).parent).replace("\\", "/") + "/" for file in (torch.__file__, __file__))


def _user_line(error: BaseException) -> str:
    """Return the last line of the network's own code in the traceback, as text to append; "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = frame.filename.replace("\\", "/")
        if not path.startswith(("<", *_NOT_THE_USERS)):
            code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            return f" at {frame.filename}:{frame.lineno} in {frame.name} ({code})"
    return ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _make_dropout_trainable(graph_module: fx.GraphModule) -> None:
    """Replace calls of functional dropout by modules.

    Tracing freezes the value of `training=self.training`; a module follows train() and eval().
    """
    modules = {
        F.dropout: nn.Dropout,
        F.dropout1d: nn.Dropout1d,
        F.dropout2d: nn.Dropout2d,
        F.dropout3d: nn.Dropout3d,
        F.alpha_dropout: nn.AlphaDropout,
        F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    }
    count = 0
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target not in modules:
            continue
        # (input, p, training, inplace)
        p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        inplace = node.args[3] if len(node.args) > 3 else node.kwargs.get("inplace", False)
        target = f"_dropout{count}"
        count += 1
        graph_module.add_submodule(target, modules[node.target](p, inplace))
        with graph_module.graph.inserting_before(node):
            replacement = graph_module.graph.call_module(target, (node.all_input_nodes[0],))
        replacement.meta = copy.copy(node.meta)
        node.replace_all_uses_with(replacement)
        graph_module.graph.erase_node(node)
    if count:
        graph_module.recompile()


def _let_views_copy(graph_module: fx.GraphModule) -> None:
    """Replace `view` by `reshape`, which returns the same tensor wherever `view` works.

    Training uses channels-last images, for which `x.view(-1, 400)` would fail.
    """
    for node in graph_module.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[-1], torch.dtype):
            node.target = "reshape"
    graph_module.recompile()


# -- running the graph once without data --------------------------------------------------------------------


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
        kind = classify(func, given, is_activation=lambda tensor: tensor not in self.constants)
        self.constants.update(func, given, out)
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

    def run_node(self, n: fx.Node) -> Any:
        with _OperationLog(self.constants) as log:
            result = super().run_node(n)
        self._record(n, result, log)
        return result

    def _record(self, node: fx.Node, result: Any, log: _OperationLog) -> None:
        seen = self.observation
        if isinstance(result, Tensor):
            seen.shapes[node.name] = tuple(result.shape[1:]) if result.dim() else ()
        kinds = [kind for kind, _ in log.kinds]
        layer = site_layer_of(node, self.module)
        # a site is one ReLU and nothing else, so that linearizing it leaves its input, or a layer that replaced one
        is_relu = kinds in (["relu"], ["relu6"]) and log.calls == 1
        if is_relu or layer is not None:
            has_batch = math.prod(seen.shapes[node.name]) == result.numel()
            if not has_batch:
                seen.shapes[node.name] = tuple(result.shape)
            kind, cap = (kinds[0], log.cap) if layer is None else (layer.kind, layer.cap)
            seen.relus[node.name] = ObservedRelu(kind=kind, cap=cap, has_batch=has_batch)
        if not is_relu:
            for kind, elements in log.kinds:
                if layer is not None and kind in ("relu", "relu6", "where"):
                    continue  # the site layer itself counts its comparisons
                inside = f"{kind} inside {_target_name(node, self.module)}" if kind in ("relu", "relu6") else kind
                seen.unsupported[inside] += 1
                seen.unsupported_elements[inside] += elements
        if log.macs:
            seen.linear_layers.append(
                LinearLayer(
                    name=_layer_name(node),
                    node=node.name,
                    macs=log.macs,
                    shape=seen.shapes.get(node.name, ()),
                )
            )
        if log.starved:
            seen.starved.append(_layer_name(node))
        if node.op == "output":
            seen.outputs = {name: tuple(tensor.shape[1:]) for name, tensor in _named_outputs(result)}


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


def without_weights(network: Network) -> Network:
    """Return the network on the meta device: its counts, shapes and costs, without weights."""
    return replace(network, module=on_meta(network.module))


def observe(graph_module: fx.GraphModule, input_shape: tuple[int, ...], *, name: str) -> Observation:
    """Run one image of `input_shape` through the graph without data and return the record of the run.

    Raises `ModelError` if the image does not fit.
    """
    return run_without_data(graph_module, input_shape, name=name, interpreter=_Observer).observation


# -- naming the sites ---------------------------------------------------------------------------------------


def name_sites(
    graph_module: fx.GraphModule,
    observed: Observation,
    original: nn.Module,
    *,
    declared: bool,
    patterns: Mapping[str, Sequence[str]] | None,
) -> None:
    """Write the name, stage and block of every ReLU into its node's `meta`.

    Raises `ModelError` if `patterns` don't fit the sites.
    """
    drafts, calls = [], Counter[str]()
    joins, outputs = joining_modules(graph_module), block_outputs(graph_module, original, observed.shapes)
    for node in graph_module.graph.nodes:
        if node.name not in observed.relus:
            continue
        path = _site_path(node, original)
        calls[path] += 1
        drafts.append(
            SiteDraft(
                node=node.name,
                name=path if calls[path] == 1 else f"{path}#{calls[path]}",
                owner=_owner(node, original),
                modules=tuple(module_stack(node)),
                shape=observed.shapes[node.name],
            )
        )
    assigned = assign_stages(drafts, joins, outputs, declared=declared, patterns=patterns)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    for draft, (stage, block) in zip(drafts, assigned, strict=True):
        nodes[draft.node].meta[SITE] = (draft.name, stage, block)


def _calls_layer(node: fx.Node, original: nn.Module) -> bool:
    """Return True for a call that is a layer's whole forward: torch.export turns a ReLU module into a function."""
    stack = module_stack(node)
    if node.op == "call_module" or not isinstance(node.target, torch._ops.OpOverload) or not stack:
        return node.op == "call_module"
    layer = original.get_submodule(stack[-1])
    return type(layer).__module__.startswith("torch.nn.") and not any(True for _ in layer.children())


def _site_path(node: fx.Node, original: nn.Module) -> str:
    layer = site_layer_of(node, original)
    if layer is not None:
        return layer.site_name
    if node.op == "call_module":
        return str(node.target)
    stack = module_stack(node)
    if _calls_layer(node, original):
        return stack[-1]
    if isinstance(node.target, torch._ops.OpOverload):
        function = node.target.overloadpacket.__name__
    else:
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
    return ".".join([*stack[-1:], function.rstrip("_")])


def _owner(node: fx.Node, original: nn.Module) -> str | None:
    """Return the path of the innermost module around the call that is neither a Sequential nor the ReLU itself."""
    stack = module_stack(node)
    if _calls_layer(node, original):
        layer = _site_path(node, original)
        stack = [path for path in stack if path != layer]
    for path in reversed(stack):
        if not isinstance(original.get_submodule(path), nn.Sequential):
            return path
    return None
