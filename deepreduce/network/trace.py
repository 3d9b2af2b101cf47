"""From a module to a `Network`: follow its graph, run it once without data, find what is not linear."""

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
from deepreduce.network import ops
from deepreduce.network.meta_run import execute, on_meta, run_without_data
from deepreduce.network.network import SITE, LinearLayer, Network, ReluSite
from deepreduce.network.stages import SiteDraft, assign_stages

# one call of these is one layer; following them inside gains nothing, and some can't be followed
_LEAF_CLASSES = {"StochasticDepth", "DropBlock2d", "DropBlock3d", "DropPath"}


class _Tracer(fx.Tracer):
    """torch.fx's tracer, with stochastic layers whole so that they still work in training."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__name__ in _LEAF_CLASSES or super().is_leaf_module(m, module_qualified_name)


def trace_network(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str | None = None,
    spec: ModelSpec | None = None,
    stages: Mapping[str, Sequence[str]] | None = None,
) -> Network:
    """The `Network` of `module` for one image of `input_shape` (C, H, W); the module is shared, not changed.

    Traced in evaluation mode on the meta device: no data, no arithmetic; of `if self.training:` the network
    keeps what evaluation does. `stages` gives patterns of site names for each stage. Raises
    `NetworkTraceError`, naming the line, where the forward pass depends on the values of tensors, and
    `ModelError` where the network can't take the input or the stages don't fit.
    """
    name = name or (spec.name if spec else type(module).__name__)
    was_training = {m: m.training for m in module.modules()}
    module.eval()
    try:
        tracer = _Tracer()
        graph = _traced_graph(tracer, module, name)
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
    return replace(network, stage_patterns=frozen_stages(stages))


def frozen_stages(stages: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]] | None:
    """A copy of the user's stages that nobody changes."""
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
    """The `Network` of a graph whose sites are named already. `stages` keeps stages that have lost all sites."""
    sites = []
    for node in graph_module.graph.nodes:
        if SITE in node.meta and node.name in observed.relus:
            site_name, stage, block = node.meta[SITE]
            shape = observed.shapes[node.name]
            sites.append(
                ReluSite(
                    name=site_name,
                    stage=stage,
                    block=block,
                    shape=shape,
                    relu_count=math.prod(shape),
                    kind=observed.relus[node.name],
                    node=node.name,
                )
            )
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


# -- following the graph ------------------------------------------------------------------------------------


def _traced_graph(tracer: _Tracer, module: nn.Module, name: str) -> fx.Graph:
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
    """The last line of the network's own code in the traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = frame.filename.replace("\\", "/")
        if not path.startswith(("<", *_NOT_THE_USERS)):
            code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            return f" at {frame.filename}:{frame.lineno} in {frame.name} ({code})"
    return ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _make_dropout_trainable(graph_module: fx.GraphModule) -> None:
    """Turn calls of functional dropout into modules.

    Tracing freezes `training=self.training` at its value of that moment; a module follows train() and eval().
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
    """Turn `view` into `reshape`, which gives the same wherever `view` works.

    Training lays images out channels-last, where `x.view(-1, 400)` would fail.
    """
    for node in graph_module.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[-1], torch.dtype):
            node.target = "reshape"
    graph_module.recompile()


# -- running it once without data ---------------------------------------------------------------------------


@dataclass(kw_only=True)
class Observation:
    """What one run of a graph showed. Shapes and counts are for one image, without the batch dimension."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    relus: dict[str, str] = field(default_factory=dict)
    linear_layers: list[LinearLayer] = field(default_factory=list)
    unsupported: Counter[str] = field(default_factory=Counter)
    unsupported_elements: Counter[str] = field(default_factory=Counter)
    starved: list[str] = field(default_factory=list)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """The shape of the only output; None for a network of several heads."""
        return self.outputs.get("output")


class _OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every ATen operation that executes: its kind, its multiply-accumulates, its elements."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0
        self.kinds: list[tuple[str, int]] = []
        self.macs = 0
        self.starved = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = execute(func, args, kwargs or {})
        self.calls += 1
        kind = ops.classify(func, args + tuple((kwargs or {}).values()))
        if kind is not None:
            self.kinds.append((kind, ops.output_elements(out)))
        self.macs += ops.mac_count(func, args, out)
        if func.overloadpacket.__name__ == "convolution" and not args[6]:
            self.starved |= any(s > n for s, n in zip(args[3], args[0].shape[2:], strict=False))
        return out


class _Observer(fx.Interpreter):
    """Runs a graph node by node and notes which operations each node executed."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=True)
        self.observation = Observation()

    def run_node(self, n: fx.Node) -> Any:
        with _OperationLog() as log:
            result = super().run_node(n)
        self._note(n, result, log)
        return result

    def _note(self, node: fx.Node, result: Any, log: _OperationLog) -> None:
        seen = self.observation
        if isinstance(result, Tensor):
            seen.shapes[node.name] = tuple(result.shape[1:]) if result.dim() else ()
        kinds = [kind for kind, _ in log.kinds]
        # a site is a ReLU and nothing else: linearizing it leaves its input
        if kinds in (["relu"], ["relu6"]) and log.calls == 1:
            seen.relus[node.name] = kinds[0]
            elements = log.kinds[0][1]
            if math.prod(seen.shapes[node.name]) != elements:  # the batch is not the first dimension here
                seen.shapes[node.name] = tuple(result.shape)
        else:
            for kind, elements in log.kinds:
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
            seen.outputs = {name: tuple(tensor.shape[1:]) for name, tensor in _heads(result)}


def _heads(result: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a network gives, by its key or place; the only one is called "output"."""
    if isinstance(result, Tensor):
        yield name or "output", result
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(result, Mapping):
        items = result.items()
    elif isinstance(result, (tuple, list)):
        items = zip(getattr(result, "_fields", range(len(result))), result, strict=True)
    for key, value in items:
        yield from _heads(value, f"{name}.{key}" if name else str(key))


def _layer_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _target_name(node: fx.Node, root: nn.Module) -> str:
    return type(root.get_submodule(str(node.target))).__name__ if node.op == "call_module" else node.name


def without_weights(network: Network) -> Network:
    """The same network on the meta device: counts, shapes and costs, and nothing to copy or to compute with."""
    return replace(network, module=on_meta(network.module))


def observe(graph_module: fx.GraphModule, input_shape: tuple[int, ...], *, name: str) -> Observation:
    """Run one image of `input_shape` through the graph without data. Raises `ModelError` where it does not fit."""
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
    """Give every ReLU of the graph its name, stage and block; raises `ModelError` where `patterns` don't fit."""
    drafts, calls = [], Counter[str]()
    joins = _joining_modules(graph_module)
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
                shape=observed.shapes[node.name],
            )
        )
    assigned = assign_stages(drafts, joins, declared=declared, patterns=patterns)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    for draft, (stage, block) in zip(drafts, assigned, strict=True):
        nodes[draft.node].meta[SITE] = (draft.name, stage, block)


def _module_stack(node: fx.Node) -> list[str]:
    """Paths of the modules whose forward the node was called in, outermost first, without the root."""
    stack = node.meta.get("nn_module_stack") or {}
    return [path.partition("@")[0] for path, _ in stack.values() if path]


def _calls_layer(node: fx.Node, original: nn.Module) -> bool:
    """True for a call that is all of a layer's forward: in graphs of torch.export, a ReLU module is a function."""
    stack = _module_stack(node)
    if node.op == "call_module" or not isinstance(node.target, torch._ops.OpOverload) or not stack:
        return node.op == "call_module"
    layer = original.get_submodule(stack[-1])
    return type(layer).__module__.startswith("torch.nn.") and not any(True for _ in layer.children())


def _site_path(node: fx.Node, original: nn.Module) -> str:
    if node.op == "call_module":
        return str(node.target)
    stack = _module_stack(node)
    if _calls_layer(node, original):
        return stack[-1]
    if isinstance(node.target, torch._ops.OpOverload):
        function = node.target.overloadpacket.__name__
    else:
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
    return ".".join([*stack[-1:], function.rstrip("_")])


def _owner(node: fx.Node, original: nn.Module) -> str | None:
    """The innermost module around the call that is somebody's own class: not a container, not the ReLU."""
    stack = _module_stack(node)
    if _calls_layer(node, original):
        layer = _site_path(node, original)
        stack = [path for path in stack if path != layer]
    for path in reversed(stack):
        if not isinstance(original.get_submodule(path), nn.Sequential):
            return path
    return None


def _joining_modules(graph_module: fx.GraphModule) -> set[str]:
    """Paths of the modules in which two branches meet: an addition, product or concatenation of tensors."""
    joins = set()
    for node in graph_module.graph.nodes:
        # weights and constants are no branches
        branches = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if node.op in ("call_function", "call_method") and len(branches) > 1:
            joins.update(_module_stack(node))
    return joins
