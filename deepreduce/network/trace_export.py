"""Trace a network for analysis alone: with torch.export, or with TorchScript modules kept whole.

torch.export follows what a graph for training can't keep: a forward pass that depends on the number of images, or one
that changes the precision. Neither way can trace one that depends on the values of tensors.
"""

from __future__ import annotations

import inspect
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace

import torch
from torch import fx, nn
from torch.utils._pytree import tree_unflatten

from deepreduce.errors import NetworkTraceError
from deepreduce.models.spec import ModelSpec
from deepreduce.network.module_kinds import unwrapped
from deepreduce.network.network import Network
from deepreduce.network.observe import observe
from deepreduce.network.site_names import name_sites
from deepreduce.network.trace import describe, freeze_stages, trace_kept, trace_network


def trace_for_analysis(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str | None = None,
    spec: ModelSpec | None = None,
    stages: Mapping[str, Sequence[str]] | None = None,
) -> Network:
    """Return the network of `trace_network`, or if that can't follow the module, one to look at.

    Such a network says why in `untraceable` and can't be edited. It holds TorchScript modules whole, and its ReLUs in
    them are no sites; a module without TorchScript is traced by torch.export. Raises `NetworkTraceError`, with the
    line, if nothing can trace the module, and `ModelError` as `trace_network` does.
    """
    try:
        return trace_network(module, input_shape, name=name, spec=spec, stages=stages)
    except NetworkTraceError as error:
        module = unwrapped(module)
        name = name or (spec.name if spec else type(module).__name__)
        untraceable = str(error)
        if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
            kept = trace_kept(module, input_shape, name=name, spec=spec, stages=stages)
            return replace(kept, untraceable=untraceable)
        graph_module = _export_graph(module, input_shape)
        if graph_module is None:
            raise
    observed = observe(graph_module, input_shape, name=name, batch=1)  # torch.export has followed one image
    name_sites(graph_module, observed, module, declared=spec is not None and spec.is_zoo, patterns=stages)
    network = describe(graph_module, observed, input_shape, name=name, spec=spec)
    return replace(network, stage_patterns=freeze_stages(stages), untraceable=untraceable)


def _export_graph(module: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule | None:
    """Return the module's graph of ATen calls in evaluation mode; None if torch.export can't trace it."""
    modes = {m: m.training for m in module.modules()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    module.eval()
    try:
        with torch.no_grad(), _silence():
            program = torch.export.export(module, (torch.zeros((1, *input_shape), device=device),))
            # newer versions add checks of the assumed shapes to the graph; older ones do not have this option
            guarded = "check_guards" in inspect.signature(program.module).parameters
            exported = program.module(check_guards=False) if guarded else program.module()
    except Exception:  # torch.export raises errors of any kind; the caller holds one that names the line
        return None
    finally:
        for m, mode in modes.items():
            m.training = mode
    assert isinstance(exported, fx.GraphModule) and program.call_spec.out_spec is not None
    exported.graph.set_codegen(fx.graph.CodeGen())
    (output,) = (node for node in exported.graph.nodes if node.op == "output")
    output.args = (tree_unflatten(list(output.args[0]), program.call_spec.out_spec),)  # restore a dictionary's keys
    return fx.GraphModule(exported, exported.graph)  # an exported module refuses eval()


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the logs and prints of torch.export, which fill pages when it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
