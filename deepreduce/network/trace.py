"""Turn a module into a `Network`: follow its forward pass, run its graph once without data, name its ReLU sites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import fx, nn

from deepreduce.errors import DeepReduceError
from deepreduce.models.spec import ModelSpec
from deepreduce.network.meta_run import misfit, on_meta
from deepreduce.network.module_kinds import unwrapped
from deepreduce.network.network import SITE, Network, ReluSite
from deepreduce.network.observe import Observation, observe
from deepreduce.network.site_layer import site_layer_of
from deepreduce.network.site_names import name_sites
from deepreduce.network.tracing.failures import MisfitError, trace_error
from deepreduce.network.tracing.follow import follow
from deepreduce.network.tracing.state import check_followable

__all__ = ["describe", "freeze_stages", "name_sites", "observe", "trace_network", "without_weights"]


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
    the network keeps the evaluation branch. Arguments of forward but the first keep their defaults, wrappers
    (DataParallel, AveragedModel, torch.compile) are taken off, and hooks of the forward pass become part of the
    graph. Of a dictionary, tuple or list that forward returns, the output is its only tensor, or the one under
    "logits" or "out". `stages` maps stage names to patterns of site names. Raises `NetworkTraceError`, with the line,
    if the forward pass depends on the values of tensors or holds a part that can't be followed, and `ModelError` if
    the network can't take the input or the stages don't fit.
    """
    name = name or (spec.name if spec else type(unwrapped(module)).__name__)
    module = unwrapped(module)
    try:
        check_followable(module)
    except Exception as error:
        raise trace_error(name, error) from error
    return trace_kept(module, input_shape, name=name, spec=spec, stages=stages)


def trace_kept(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str,
    spec: ModelSpec | None = None,
    stages: Mapping[str, Sequence[str]] | None = None,
) -> Network:
    """Return the network of a module as `trace_network` does, whatever its graph may not keep for training."""
    modes = {path: m.training for path, m in module.named_modules()}
    try:
        graph_module = follow(module, input_shape)
    except DeepReduceError:
        raise
    except MisfitError as error:
        raise misfit(name, input_shape, error) from error
    except Exception as error:
        raise trace_error(name, error) from error
    observed = observe(graph_module, input_shape, name=name)
    name_sites(graph_module, observed, module, declared=spec is not None and spec.is_zoo, patterns=stages)
    for path, m in graph_module.named_modules():
        m.training = modes.get(path, module.training)  # the network's own modules keep their modes
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


def without_weights(network: Network) -> Network:
    """Return the network on the meta device: its counts, shapes and costs, without weights."""
    return replace(network, module=on_meta(network.module))
